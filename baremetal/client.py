"""The control API from the other side: one object that asks, and turns error bodies back into the errors they were.

Owns the connection, the token, and following the stream of events across interruptions. Knows no command line, and
nothing of what the service does with what it is asked.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from baremetal import errors
from baremetal.errors import BaremetalError, BmcError, BmcErrorKind, Invalid, NotAuthorised, Unavailable

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_S = 5.0
# An operator's BMC command is answered only after it was read back.
ANSWER_S = 120.0
# The stream says that it is still there every 15 s.
SILENCE_S = 40.0
FILES = (Path("/etc/baremetal/config.toml"), Path("config.toml"))
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class RowsRefused(Invalid):
    """Several servers of one file cannot be taken; `rows` has an error for each, by row number."""

    rows: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service is and where its token lies; `token` wins over `token_file`.

    `is_told`: the address was given, not taken from this host's settings.
    """

    url: str
    token_file: Path | None = None
    token: str | None = None
    is_told: bool = False

    def read_token(self) -> str:
        """Return the token. Raises NotAuthorised saying where it was looked for."""
        if self.token:
            return self.token
        fix = "set BAREMETAL_TOKEN, or run this as the user that runs `baremetal serve`"
        if self.token_file is None:
            raise NotAuthorised("no token for the service", fix=fix)
        try:
            return self.token_file.read_text().strip()
        except FileNotFoundError:
            if self.is_told:
                raise NotAuthorised(
                    f"no token for the service at {self.url}", fix="set BAREMETAL_TOKEN"
                ) from None
            raise Unavailable(
                "the service has not been started here yet",
                seen=f"no {self.token_file}",
                fix="run `baremetal serve`, or set BAREMETAL_URL and BAREMETAL_TOKEN for one elsewhere",
            ) from None
        except OSError as error:
            raise NotAuthorised(
                f"the token in {self.token_file} cannot be read", seen=error.strerror, fix=fix
            ) from error


def find_service(
    environ: Mapping[str, str] | None = None, files: Sequence[Path] = FILES, config: Path | None = None
) -> Place:
    """Find the service: BAREMETAL_URL and BAREMETAL_TOKEN, else where the settings of this host put it.

    Reads only the few keys it needs, since reading all settings takes longer than asking the service; a file that is
    broken is the service's to complain about. Relative paths in a file are relative to it.
    """
    env = os.environ if environ is None else environ
    server: dict[str, Any] = {}
    security: dict[str, Any] = {}
    for file in [config] if config is not None else files:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            continue
        folder = file.absolute().parent
        for kept, name, paths in ((server, "server", ("data_dir",)), (security, "security", ("token_file",))):
            for key, value in (table.get(name) or {}).items():
                is_path = key in paths and isinstance(value, str) and value
                kept[key] = str(folder / Path(value).expanduser()) if is_path else value
    for name in ("control_listen", "control_tls_cert", "data_dir"):
        if value := env.get(f"BAREMETAL_SERVER__{name.upper()}"):
            server[name] = value
    if value := env.get("BAREMETAL_SECURITY__TOKEN_FILE"):
        security["token_file"] = value
    url = env.get("BAREMETAL_URL") or _url(server)
    token_file = Path(security.get("token_file") or _data_dir(server, env) / "control.token").expanduser()
    token = env.get("BAREMETAL_TOKEN") or None
    return Place(url.rstrip("/"), token_file.absolute(), token, is_told=bool(env.get("BAREMETAL_URL")))


def _url(server: Mapping[str, Any]) -> str:
    listen = str(server.get("control_listen") or "")
    host, colon, port = listen.rpartition(":")
    if not colon:
        return DEFAULT_URL
    if host in ("0.0.0.0", "[::]"):
        host = "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"{'https' if server.get('control_tls_cert') else 'http'}://{host}:{port}"


def _data_dir(server: Mapping[str, Any], env: Mapping[str, str]) -> Path:
    if server.get("data_dir"):
        return Path(str(server["data_dir"])).expanduser()
    if os.geteuid() == 0:
        return Path("/var/lib/baremetal")
    return Path(env.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "baremetal"


class Client:
    """A connection to the control API.

    Every method raises the errors of `errors.py`: what the service answered, or Unavailable where nobody answers.
    """

    def __init__(self, place: Place, *, transport: httpx2.BaseTransport | None = None) -> None:
        url = httpx2.URL(place.url)
        self.url = place.url
        self._place = place
        self._http = httpx2.Client(
            base_url=place.url,
            headers={"authorization": f"Bearer {place.read_token()}", "accept": "application/json"},
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            # A proxy that is set for the way out would be asked for this host's own loopback.
            trust_env=url.host not in _LOOPBACK,
            # Reading the certificates of the world takes longer than most answers do.
            verify=url.scheme == "https",
            transport=transport,
        )

    @classmethod
    def find(cls) -> Self:
        """Connect to the service of this host, or the one that the environment names."""
        return cls(find_service())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- asking --

    def get(self, path: str, **query: Any) -> Any:
        """Ask for JSON. Keys of `query` that are None are left out."""
        return self._ask("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        text: str | None = None,
        form: str = "",
        answer_s: float | None = None,
    ) -> Any:
        """Send JSON, or with `text` a body of the content type `form`. `answer_s`: how long the answer may take."""
        if answer_s is not None:
            patience = httpx2.Timeout(answer_s, connect=CONNECT_S)
            return self._ask("POST", path, json={} if body is None else body, timeout=patience)
        if text is not None:
            return self._ask("POST", path, content=text.encode(), headers={"content-type": form})
        return self._ask("POST", path, json={} if body is None else body)

    def put(self, path: str, body: Any) -> Any:
        return self._ask("PUT", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        return self._ask("PATCH", path, json=body)

    def delete(self, path: str, **query: Any) -> None:
        self._ask("DELETE", path, params=query)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            reply = self._http.request(method, path, **more)
        except httpx2.TimeoutException as error:
            raise errors.TimedOut(
                f"the service at {self.url} did not answer in time", code="BM601"
            ) from error
        except httpx2.HTTPError as error:
            raise self._away(error) from error
        if not reply.is_success:
            raise self._error(reply.status_code, reply.text)
        try:
            return reply.json() if reply.content else None
        except ValueError:
            raise self._stranger(reply.status_code) from None

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"no service answers at {self.url}",
            seen=str(error) or type(error).__name__,
            fix="start it with `baremetal serve`, or set BAREMETAL_URL to where it runs",
        )

    def _error(self, status: int, text: str) -> BaremetalError:
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if not isinstance(body, dict) or "code" not in body:
            return self._stranger(status)
        return read_error(body)

    def _stranger(self, status: int) -> Unavailable:
        return Unavailable(
            f"what answers at {self.url} is not this service", seen=f"HTTP {status}", fix="set BAREMETAL_URL"
        )

    # -- following --

    def follow(
        self,
        after: int | None = None,
        servers: Sequence[str] = (),
        *,
        lost: Callable[[BaremetalError | None], None] = lambda error: None,
        patience_s: float = 300.0,
    ) -> Iterator[dict[str, Any]]:
        """Yield events for ever, each once and in order, beginning behind the number `after` (None: with the next one).

        A lost connection is taken up again where it broke; `lost` hears the error, and None once it is back. Gives up
        with Unavailable after `patience_s` without the service. A refusal is raised at once.
        """
        last = after
        away_since: float | None = None
        pause = 0.2
        while True:
            try:
                for event in self._stream(last, servers):
                    if away_since is not None:
                        lost(None)
                        away_since, pause = None, 0.2
                    if event is not None:
                        last = int(event["id"])
                        yield event
                problem: BaremetalError = Unavailable("the stream of events ended")
            except (httpx2.HTTPError, Unavailable) as error:
                problem = error if isinstance(error, Unavailable) else self._away(error)
            now = time.monotonic()
            if away_since is None:
                away_since = now
            if now - away_since > patience_s:
                raise problem
            lost(problem)
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _stream(self, after: int | None, servers: Sequence[str]) -> Iterator[dict[str, Any] | None]:
        """Yield the events of one connection; first None, to say that it stands."""
        query: dict[str, Any] = {"server": list(servers)} if servers else {}
        headers = {"accept": "text/event-stream"}
        if after is not None:
            query["after"] = after
            headers["last-event-id"] = str(after)
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        with self._http.stream(
            "GET", "/v1/events/stream", params=query, headers=headers, timeout=timeout
        ) as reply:
            if not reply.is_success:
                reply.read()
                raise self._error(reply.status_code, reply.text)
            yield None
            data: list[str] = []
            for line in reply.iter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield json.loads("\n".join(data))
                    data = []


def server_path(name: str, *more: str) -> str:
    """Return the path of a server, whatever its name holds."""
    return "/".join(("/v1/servers", quote(name, safe=""), *more))


def read_error(body: Mapping[str, Any]) -> BaremetalError:
    """Turn an error body back into the error it was."""
    kind = getattr(errors, str(body.get("error")), BaremetalError)
    if not (isinstance(kind, type) and issubclass(kind, BaremetalError)):
        kind = BaremetalError
    what = str(body.get("what") or body.get("message") or "the service refused")
    common: dict[str, Any] = {key: body.get(key) for key in ("code", "server", "seen", "fix")}
    if body.get("rows"):
        refused = RowsRefused(what, **common)
        refused.rows = body["rows"]
        return refused
    if issubclass(kind, BmcError):
        words = set(BmcErrorKind)
        known = body.get("kind")
        return BmcError(what, BmcErrorKind(known) if known in words else BmcErrorKind.PROTOCOL, **common)
    if issubclass(kind, errors.StorageError):
        known = body.get("kind")
        said = errors.StorageErrorKind(known) if known in set(errors.StorageErrorKind) else None
        return errors.StorageError(what, said or errors.StorageErrorKind.FAILED, **common)
    extra: dict[str, Any] = {}
    if issubclass(kind, errors.Refused):
        extra["allowed"] = tuple(body.get("allowed") or ())
    elif issubclass(kind, errors.Unknown):
        extra["nearest"] = body.get("nearest")
    elif issubclass(kind, errors.Invalid):
        extra = {key: body.get(key) for key in ("file", "line", "variable")}
    elif issubclass(kind, errors.LoginError):
        extra["transient"] = True
    return kind(what, **common, **extra)
