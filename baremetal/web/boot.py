"""The boot app: what netbooting machines ask over plain HTTP.

Owns addresses, methods, statuses and headers. Reads happen inline, because a thread per request costs more than the
read; what must be committed goes to a small pool of its own. Nothing here ever answers 500: a script's address has a
script that waits, a call-back has "wait", everything else one uniform "not found".
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from baremetal.errors import BaremetalError, Invalid, Unavailable
from baremetal.lifecycle.model import Fetch, Signal
from baremetal.netboot.dialect import wait_text
from baremetal.netboot.scripts import boot_script
from baremetal.service.boot import Boot, Word
from baremetal.service.loaders import Loaders
from baremetal.service.machine import Machine, machine_mac
from baremetal.service.media import Media
from baremetal.service.news import News, read_json, read_news
from baremetal.service.requests import FileRequest
from baremetal.telemetry import logger
from baremetal.web.gathering import Gathering
from baremetal.web.limits import Bucket, RateLimit, TooLarge, read_body

log = logger(__name__)
T = TypeVar("T")

CALLBACK_LIMIT = 64 * 1024
LOG_LIMIT = 1024 * 1024
_FIELDS = 64
_STATUS = {Word.GO: 200, Word.OK: 200, Word.WAIT: 503, Word.REFUSED: 409, Word.GONE: 404}
_HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})(:[0-9]{1,5})?\Z|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?\Z"
)
_LOG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_PLAIN = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Doors:
    """Where machines reach us and whom we believe about where a request came from."""

    public_url: str = ""
    fallback: str = "http://127.0.0.1:8080"
    trusted_proxies: Sequence[str] = ()


class BootApp:
    """The routes of the boot app over its services. `writer` runs whatever waits for the database."""

    def __init__(self, boot: Boot, media: Media, loaders: Loaders, writer: Executor, doors: Doors) -> None:
        self._boot = boot
        self._media = media
        self._loaders = loaders
        self._writer = writer
        self._settling = Gathering(writer, boot.settle)
        self._doors = doors
        self._proxies = tuple(ipaddress.ip_network(text, strict=False) for text in doors.trusted_proxies)

    def build(self, requests: Bucket | None = None, failures: Bucket | None = None) -> ASGIApp:
        """Assemble the app behind its rate limits."""
        routes = [
            *(_get(path, self.first) for path in ("/boot.ipxe", "/ipxe/boot.ipxe", "/default.ipxe")),
            _get("/ipxe", self.script),
            Route("/answer/{token}/{file}", self.answer, methods=["GET"]),
            Route("/callback/{token}/log/{name}", self.log, methods=["PUT", "POST"]),
            _exactly(Route("/callback/{token}/{signal}", self.callback, methods=["GET", "POST"])),
            Route("/media/{path:path}", self.media, methods=["GET"]),
            # What has no address of its own is a name that some loader asks for. UEFI firmware asks for a loader's size
            # first, by HEAD.
            Route("/{path:path}", self.file, methods=["GET"]),
        ]
        app = Starlette(routes=routes, exception_handlers={404: _missing, 405: _missing})
        app.router.redirect_slashes = False
        return RateLimit(app, requests or Bucket(500.0, 5000.0), failures or Bucket(20.0, 1000.0))

    # -- scripts --

    async def first(self, request: Request) -> Response:
        """The same script for every machine."""
        if _is_debian_installer(request):
            return _text("")
        return _text(boot_script(self._base(request)))

    async def script(self, request: Request) -> Response:
        asked = request.query_params
        return await self._script(
            request,
            Machine(
                mac=machine_mac(asked.get("mac", "")),
                uuid=asked.get("uuid", "").lower()[:64],
                serial=asked.get("serial", "").strip()[:128],
                arch=asked.get("arch", "")[:32],
                address=self._address(request),
                base=self._base(request),
            ),
        )

    async def file(self, request: Request) -> Response:
        """What loaders ask for by name: their configurations in their lookup orders, and their own programs."""
        name = request.path_params["path"]
        machine = Machine.by_name(name, self._address(request), self._base(request), http=True)
        if machine is not None:
            return await self._script(request, machine) if request.method == "GET" else _not_found()
        found = self._loaders.find(name)
        if found is None:
            return _not_found()
        if request.method == "GET":
            size = found.stat.st_size
            self._boot.saw_file(FileRequest(self._address(request), name, True, size, protocol="HTTP"))
        return FileResponse(found.path, media_type="application/octet-stream", stat_result=found.stat)

    async def _script(self, request: Request, machine: Machine) -> Response:
        if _is_debian_installer(request):
            # It takes DHCP's file name for a second preseed; an empty one changes nothing.
            return _text("")
        try:
            look = self._boot.look(machine)
            if look.commits:
                return _text(await self._settling.ask(look))
            if look.stranger:
                self._writer.submit(self._boot.meet, machine)
            return _text(self._boot.script(look)) if look.found else _not_found()
        except Exception:
            log.exception("a boot script could not be made", mac=machine.mac, address=machine.address)
            own = machine.asked is not None and machine.asked.own
            return _text(wait_text(machine.loader, machine.base, machine.mac, own=own))

    # -- answer files --

    async def answer(self, request: Request) -> Response:
        token, file = request.path_params["token"], request.path_params["file"]
        try:
            text = self._boot.answer(token, file, self._address(request), self._base(request))
        except Unavailable:
            return _text("wait", 503)
        except Exception:
            log.exception("an answer file could not be made", file=file)
            return _text("wait", 503)
        return _not_found() if text is None else _text(text)

    # -- call-backs --

    async def callback(self, request: Request) -> Response:
        try:
            word = await self._callback(request)
        except TooLarge:
            return _text("refused", 413)
        except Unavailable as error:
            log.warning("a call-back has to wait", error=str(error))
            word = Word.WAIT
        except Exception:
            log.exception("a call-back broke")
            word = Word.WAIT
        return _text(str(word), _STATUS[word])

    async def _callback(self, request: Request) -> Word:
        caller = self._boot.caller(request.path_params["token"])
        name = request.path_params["signal"]
        if caller is None or name not in tuple(Signal):
            return Word.GONE
        signal, address = Signal(name), self._address(request)
        try:
            news = await self._news(request)
        except Invalid as error:
            wrong = error
            await self._write(lambda: self._boot.malformed(*caller, signal, wrong, address))
            return Word.REFUSED
        return await self._write(lambda: self._boot.signal(*caller, signal, news, address))

    async def _news(self, request: Request) -> News:
        if request.method == "GET":
            return read_news(_pairs(request.url.query))
        return read_news(
            read_fields(request.headers.get("content-type", ""), await read_body(request, CALLBACK_LIMIT))
        )

    async def log(self, request: Request) -> Response:
        try:
            caller = self._boot.caller(request.path_params["token"])
            name = request.path_params["name"]
            if caller is None or not _LOG_NAME.match(name):
                return _not_found()
            content = await read_body(request, LOG_LIMIT)
            kept = await self._write(lambda: self._boot.put_log(*caller, name, content))
            return _text("ok") if kept else _not_found()
        except TooLarge:
            return _text("refused", 413)
        except Unavailable:
            return _text("wait", 503)
        except BaremetalError:
            return _text("refused", 409)
        except Exception:
            log.exception("a log could not be kept")
            return _text("wait", 503)

    # -- media --

    async def media(self, request: Request) -> Response:
        # The loader of an installation medium asks for its configuration beside itself, where the medium's own would
        # start an installer for whoever comes (I2).
        name = request.url.path.lstrip("/")
        machine = Machine.by_name(name, self._address(request), self._base(request), http=True)
        if machine is not None:
            return await self._script(request, machine) if request.method == "GET" else _not_found()
        found = self._media.find(request.path_params["path"])
        if found is None:
            return _not_found()
        if found.run and found.what is not Fetch.MEDIA and request.method == "GET":
            self._boot.fetched(found.server, found.run, found.what, found.name, self._address(request))
        response = FileResponse(found.path, media_type="application/octet-stream", stat_result=found.stat)
        response.chunk_size = 256 * 1024
        return response

    # -- shared --

    async def _write(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    def _address(self, request: Request) -> str:
        """Say where the request came from: the connection's other end, or what a trusted proxy says."""
        client = request.client.host if request.client else ""
        if self._proxies and self._is_proxy(client):
            forwarded = request.headers.get("x-forwarded-for", "")
            for hop in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
                if not self._is_proxy(hop):
                    return hop[:64]
        return client

    def _is_proxy(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)

    def _base(self, request: Request) -> str:
        """Say how this machine reaches us: the configured URL, or the address that it called."""
        if self._doors.public_url:
            return self._doors.public_url
        host = request.headers.get("host", "")
        return f"http://{host}" if _HOST.match(host) else self._doors.fallback


def read_fields(content_type: str, body: bytes) -> Mapping[str, Any]:
    """Read a call-back's body, JSON or form, whatever tool sent it. Raises Invalid."""
    if not body.strip():
        return {}
    if "json" in content_type.lower() or body.lstrip()[:1] == b"{":
        value = read_json(body)
        if not isinstance(value, dict):
            raise Invalid("the body is no JSON object")
        return value
    return _pairs(body.decode("utf-8", "replace"))


def _pairs(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS))
    except ValueError as error:
        raise Invalid("too many fields") from error


def _get(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    return _exactly(Route(path, endpoint, methods=["GET"]))


def _exactly(route: Route) -> Route:
    """Take HEAD away, which comes along with GET: a script that is served and a signal that is heard count."""
    route.methods = {method for method in route.methods or () if method != "HEAD"}
    return route


def _is_debian_installer(request: Request) -> bool:
    return request.headers.get("user-agent", "").startswith("debian-installer")


def _text(text: str, status: int = 200) -> Response:
    return Response(text, status, headers=_PLAIN)


def _not_found() -> Response:
    return _text("not found", 404)


async def _missing(request: Request, error: Exception) -> Response:
    return _not_found()
