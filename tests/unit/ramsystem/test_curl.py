"""The tiny system's curl against a real HTTP server, run by the same busybox shell as in the guest."""

from __future__ import annotations

import shutil
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CURL = Path(__file__).parents[3] / "baremetal/ramsystem/system/curl"


class EchoServer(ThreadingHTTPServer):
    """Remembers requests; answers /status/N with N, and the first `deaf` requests to anything with 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EchoHandler)
        self.seen: list[tuple[str, str, bytes, str]] = []
        self.deaf = 0


class EchoHandler(BaseHTTPRequestHandler):
    server: EchoServer
    timeout = 10

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, body, self.headers.get("Content-Type") or ""))
        status = int(self.path.rsplit("/", 1)[-1]) if self.path.startswith("/status/") else 200
        if self.server.deaf:
            self.server.deaf -= 1
            status = 503
        binary = self.path in ("/binary", "/short")
        content = bytes(range(256)) * 300 if binary else f"said {status}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + (5 if self.path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[EchoServer]:
    server = EchoServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def applets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    folder = tmp_path_factory.mktemp("applets")
    for name in (
        "sh",
        "cat",
        "mkdir",
        "rm",
        "mkfifo",
        "nc",
        "od",
        "awk",
        "sed",
        "tr",
        "wc",
        "timeout",
        "sleep",
    ):
        (folder / name).symlink_to(busybox)
    return folder


@pytest.fixture
def curl(applets: Path, server: EchoServer) -> Any:
    def run(path: str, *arguments: str | Path, sent: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        url = path if "://" in path else f"http://127.0.0.1:{server.server_address[1]}{path}"
        command = [applets / "sh", CURL, *arguments, url]
        return subprocess.run(
            command, env={"PATH": str(applets)}, input=sent, capture_output=True, timeout=30, check=False
        )

    return run


def test_gets_a_page(curl: Any) -> None:
    done = curl("/page", "-fsS")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"said 200\n", b"")


def test_posts_encoded_fields(curl: Any, server: EchoServer, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes("line 1\nünë\x01".encode())
    fields = {
        "disks": '[{"name":"vda","size":1}]',
        "odd": "a b&c=d+%/\\'$`",
        "uml": "grün",
        "empty": "",
        "long": "x y" * 900,
    }
    arguments = [word for name, value in fields.items() for word in ("--data-urlencode", f"{name}={value}")]
    done = curl(
        "/callback",
        "-s",
        *arguments,
        "-d",
        "plain=1",
        "--data-urlencode",
        f"log@{tmp_path / 'log'}",
        "-w",
        "%{http_code}",
    )
    assert done.stdout == b"said 200\n200"
    method, _, body, kind = server.seen[0]
    assert (method, kind) == ("POST", "application/x-www-form-urlencoded")
    decoded = dict(urllib.parse.parse_qsl(body.decode("ascii"), keep_blank_values=True))
    assert decoded == fields | {"plain": "1", "log": "line 1\nünë\x01"}


def test_keeps_the_answer_apart_from_the_status(curl: Any, tmp_path: Path) -> None:
    done = curl(
        "/status/409",
        "-s",
        "-o",
        tmp_path / "reply",
        "-w",
        "%{http_code}",
        "--connect-timeout",
        "5",
        "--max-time",
        "9",
    )
    assert (done.returncode, done.stdout) == (0, b"409")
    assert (tmp_path / "reply").read_bytes() == b"said 409\n"


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (404, 22), (409, 22), (500, 22)])
def test_fail_option_gives_curls_exit_status(curl: Any, status: int, expected: int) -> None:
    done = curl(f"/status/{status}", "-fsS")
    assert done.returncode == expected
    assert (b"error: %d" % status in done.stderr) == (expected != 0)


def test_uploads_a_file_byte_for_byte(curl: Any, server: EchoServer, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "log").write_bytes(data)
    assert curl("/log/", "-fsS", "-T", tmp_path / "log").returncode == 0
    assert server.seen[0][:3] == ("PUT", "/log/log", data)


def test_fetches_a_file_byte_for_byte(curl: Any, tmp_path: Path) -> None:
    assert curl("/binary", "-fsS", "-o", tmp_path / "file").returncode == 0
    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * 300


def test_notices_a_file_cut_short(curl: Any, tmp_path: Path) -> None:
    assert curl("/short", "-fsS", "-o", tmp_path / "file").returncode == 18


def test_sends_standard_input_and_other_methods(curl: Any, server: EchoServer) -> None:
    curl("/json", "-sXPUT", "-H", "Content-Type: application/json", "--data-binary", "@-", sent=b'{"a": 1}\n')
    assert server.seen[0] == ("PUT", "/json", b'{"a": 1}\n', "application/json")


@pytest.mark.parametrize("given", ["-K", "--config"])
def test_takes_its_url_from_where_no_process_list_shows_it(
    applets: Path, server: EchoServer, tmp_path: Path, given: str
) -> None:
    line = f'url = "http://127.0.0.1:{server.server_address[1]}/callback/a%22b"\n'
    command = [applets / "sh", CURL, given, "-", "-sS", "--data-urlencode", "a=b c", "-w", "%{http_code}"]
    run = partial(
        subprocess.run, env={"PATH": str(applets)}, capture_output=True, timeout=30, check=False, text=True
    )
    assert run(command, input=line).stdout == "said 200\n200"
    (tmp_path / "config").write_text(line)
    command[3] = tmp_path / "config"
    assert run(command, stdin=subprocess.DEVNULL).stdout == "said 200\n200"
    assert server.seen == [("POST", "/callback/a%22b", b"a=b%20c", "application/x-www-form-urlencoded")] * 2
    (tmp_path / "config").write_text("insecure\n")
    assert run(command, stdin=subprocess.DEVNULL).returncode == 2


def test_data_as_query(curl: Any, server: EchoServer) -> None:
    curl("/callback?x=1", "-sG", "-d", "a=b", "--data-urlencode", "c=d e")
    assert server.seen[0][:3] == ("GET", "/callback?x=1&a=b&c=d%20e", b"")


def test_retries_what_may_pass(curl: Any, server: EchoServer) -> None:
    server.deaf = 2
    done = curl("/page", "-fsS", "--retry", "5", "--retry-delay", "0")
    assert (done.returncode, done.stdout, len(server.seen)) == (0, b"said 200\n", 3)


def test_does_not_retry_a_refusal(curl: Any, server: EchoServer) -> None:
    assert curl("/status/404", "-fsS", "--retry", "5", "--retry-delay", "0").returncode == 22
    assert len(server.seen) == 1


def test_retries_end(curl: Any, server: EchoServer) -> None:
    server.deaf = 99
    assert curl("/page", "-fsS", "--retry", "2", "--retry-delay", "0").returncode == 22
    assert len(server.seen) == 3


def test_nobody_there(curl: Any) -> None:
    done = curl("http://127.0.0.1:1/page", "-sS", "-w", "%{http_code}")
    assert (done.returncode, done.stdout) == (7, b"000")


def test_unknown_options_and_schemes_are_refused(curl: Any) -> None:
    assert curl("/page", "--http3-only").returncode == 2
    assert curl("/page", "-V").returncode == 2
    assert curl("https://127.0.0.1/page").returncode == 1
