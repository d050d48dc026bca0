"""The client against a small real HTTP server: errors come back as what they were, streams resume, places are found."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from baremetal import errors
from baremetal.client import Client, Place, RowsRefused, find_service, read_error
from baremetal.config import load
from baremetal.errors import BaremetalError, BmcError, BmcErrorKind

Answer = tuple[int, str, str]


class Service:
    """Answers what it is told to, in order, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.asked.append((self.command, self.path, dict(self.headers.items()), body))
                status, kind, text = (
                    outer.answers.pop(0) if outer.answers else (200, "application/json", "{}")
                )
                self.send_response(status)
                self.send_header("content-type", kind)
                if kind != "text/event-stream":
                    self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def refuse(self, status: int, error: BaremetalError, **more: Any) -> None:
        self.answers.append((status, "application/json", json.dumps(error.as_dict() | more)))

    def stream(self, *numbers: int) -> None:
        text = "retry: 1000\n\n: still here\n\n"
        text += "".join(
            f'id: {n}\nevent: decision\ndata: {{"id":{n},\ndata: "note":"x"}}\n\n' for n in numbers
        )
        self.answers.append((200, "text/event-stream", text))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(Place(service.url, token="bml_x")) as made:
        yield made


def test_every_request_carries_the_token(service: Service, client: Client) -> None:
    client.get("/v1/servers", state=None, tag=["a=b", "c=d"])
    method, path, headers, _ = service.asked[0]
    assert (method, path) == ("GET", "/v1/servers?tag=a%3Db&tag=c%3Dd")
    assert headers["authorization"] == "Bearer bml_x"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (409, errors.Refused("deploy: not from active", server="r1", allowed=("rebuild", "release"))),
        (409, errors.Conflict("the MAC is taken")),
        (404, errors.Unknown("no server 'r'", nearest="r1")),
        (422, errors.Invalid("disk: two fit", file="servers.csv", line=3, variable="disk", code="BM402")),
        (422, errors.MediaMissing("no kernel", fix="put it there")),
        (401, errors.NotAuthorised("this token opens nothing")),
        (503, errors.Unavailable("the database is away")),
        (502, BmcError("wrong password", BmcErrorKind.AUTH, server="r1", seen="0x0d")),
    ],
)
def test_errors_come_back_as_what_they_were(
    service: Service, client: Client, status: int, error: BaremetalError
) -> None:
    service.refuse(status, error)
    with pytest.raises(type(error)) as caught:
        client.post("/v1/servers/r1/deploy", {})
    assert type(caught.value) is type(error)
    assert caught.value.as_dict() == error.as_dict()


def test_an_error_of_an_unknown_class_keeps_code_and_words() -> None:
    error = read_error({"code": "BM999", "error": "SomethingNew", "what": "it broke", "fix": "mend it"})
    assert (type(error), error.code, error.what, error.fix) == (
        BaremetalError,
        "BM999",
        "it broke",
        "mend it",
    )
    assert type(read_error({"code": "BM1", "error": "annotations", "what": "x"})) is BaremetalError


def test_refused_rows_are_kept(service: Service, client: Client) -> None:
    service.refuse(422, errors.Invalid("2 of 3 servers"), rows=[{"row": 2, "name": "b", "what": "no MAC"}])
    with pytest.raises(RowsRefused) as caught:
        client.post("/v1/servers", text="name,bmc\n", form="text/csv")
    assert caught.value.rows[0]["row"] == 2
    assert service.asked[0][2]["content-type"] == "text/csv"


def test_nobody_at_home_is_unavailable(service: Service, client: Client) -> None:
    with (
        Client(Place("http://127.0.0.1:9", token="x")) as nowhere,
        pytest.raises(errors.Unavailable, match="no service answers"),
    ):
        nowhere.get("/healthz")
    service.answers.append((200, "text/html", "<html>"))
    service.answers.append((502, "text/html", "<html>bad gateway"))
    for _ in range(2):
        with pytest.raises(errors.Unavailable, match="is not this service"):
            client.get("/v1/servers")


def test_a_stream_is_taken_up_where_it_broke(service: Service, client: Client) -> None:
    service.stream(4, 5)
    service.refuse(503, errors.Unavailable("starting"))
    service.stream(6)
    losses: list[str] = []
    events = client.follow(3, ["r1"], lost=lambda problem: losses.append(problem.what if problem else "back"))
    assert [next(events)["id"] for _ in range(3)] == [4, 5, 6]
    paths = [(path, headers["last-event-id"]) for _, path, headers, _ in service.asked]
    assert paths == [
        ("/v1/events/stream?server=r1&after=3", "3"),
        ("/v1/events/stream?server=r1&after=5", "5"),
        ("/v1/events/stream?server=r1&after=5", "5"),
    ]
    assert losses == ["the stream of events ended", "starting", "back"]


def test_a_stream_that_is_refused_raises_at_once(service: Service, client: Client) -> None:
    service.refuse(404, errors.Unknown("no server 'x'"))
    with pytest.raises(errors.Unknown):
        next(client.follow(servers=["x"]))


def test_a_service_that_stays_away_is_given_up(service: Service, client: Client) -> None:
    for _ in range(3):
        service.refuse(503, errors.Unavailable("starting"))
    with pytest.raises(errors.Unavailable):
        next(client.follow(patience_s=0.1))


# -- where the service is --


def test_the_environment_names_the_service(tmp_path: Path) -> None:
    place = find_service({"BAREMETAL_URL": "https://bm.example/", "BAREMETAL_TOKEN": "t"}, files=[])
    assert (place.url, place.read_token(), place.is_told) == ("https://bm.example", "t", True)


CONFIGS = [
    "",
    '[server]\ncontrol_listen = "127.0.0.1:9000"\ndata_dir = "var/data"\n',
    '[server]\ncontrol_listen = "0.0.0.0:9000"\ndata_dir = "/srv/bm"\n[security]\nallow_public_control = true\n',
    '[server]\ndata_dir = "d"\n[security]\ntoken_file = "keys/token"\n',
]


@pytest.mark.parametrize("text", CONFIGS)
@pytest.mark.parametrize("environment", [{}, {"BAREMETAL_SERVER__DATA_DIR": "/from/environment"}])
def test_the_place_is_the_one_that_the_service_reads_from_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, environment: dict[str, str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = load(file)
    place = find_service(files=[file])
    assert place.token_file == config.token_file
    assert place.url == f"http://{config.server.control_listen.replace('0.0.0.0', '127.0.0.1')}"


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('[server]\ncontrol_listen = "127.0.0.1:1"\ndata_dir = "/one"\n')
    second.write_text('[server]\ncontrol_listen = "127.0.0.1:2"\n')
    place = find_service({}, files=[first, second, tmp_path / "absent.toml"])
    assert (place.url, place.token_file) == ("http://127.0.0.1:2", Path("/one/control.token"))


def test_without_a_token_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="has not been started here"):
        Place("http://127.0.0.1:1", tmp_path / "control.token").read_token()
    with pytest.raises(errors.NotAuthorised, match="no token for the service"):
        Place("http://far:1", tmp_path / "control.token", is_told=True).read_token()
