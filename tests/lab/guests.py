"""What the lab's tests boot: an HTTP host for iPXE scripts, and a boot sector that is a whole operating system."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
DISK_GREETING = b"DISK SYSTEM UP"


def boot_sector() -> bytes:
    """Return 512 bytes that greet on the serial port and power off by ACPI when the power button is pressed.

    For the `pc` machine, whose power management registers SeaBIOS puts at 0x600.
    """
    code = bytes.fromhex(
        "fa 31c0 8ed8 be 307c"  # cli; ds = 0; si = greeting, at 0x7c30
        "ac 84c0 7406 baf803 ee ebf5"  # write it to 0x3f8
        "ba0206 b80001 ef"  # enable the power button's status bit
        "fb ba0006 f4 ed f6c401 74f9"  # hlt until a timer tick; until that bit is set
        "ba0406 b80020 ef f4 ebfd"  # enter S5
    )
    assert len(code) <= 0x30
    return (code.ljust(0x30, b"\x90") + DISK_GREETING + b"\r\n\0").ljust(510, b"\0") + b"\x55\xaa"


class BootHost:
    """A web server on loopback (10.0.2.2 to a guest) whose every answer is `script`; remembers the paths asked for."""

    def __init__(self) -> None:
        self.script = b"#!ipxe\nexit\n"
        self.requests: list[tuple[float, str, str]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host.requests.append((time.monotonic(), self.path, self.headers.get("User-Agent", "")))
                self.send_response(200)
                self.send_header("Content-Length", str(len(host.script)))
                self.end_headers()
                self.wfile.write(host.script)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        """The boot script's address as a guest sees it."""
        return f"http://10.0.2.2:{self._server.server_port}/boot.ipxe"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def boot_host() -> Iterator[BootHost]:
    host = BootHost()
    try:
        yield host
    finally:
        host.close()


def wait_until(what: Callable[[], T], within_s: float, why: str) -> T:
    """Return the first true value of `what`. Fails the test, with the reason, when there is none in time."""
    deadline = time.monotonic() + within_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {why}"
        time.sleep(0.05)
    return value


def text_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
