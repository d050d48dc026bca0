"""The caching mirror: where an answer comes from, and what it refuses."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from baremetal.lab.mirror import CachingMirror

PACKAGE = "/debian/pool/main/a/a_1.deb"
INDEX = "/debian/dists/trixie/Release"


class Upstream:
    """A mirror whose every file is its own path and the number of the request; anything with "none" is missing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                upstream.asked.append(self.path)
                body = f"{self.path} {len(upstream.asked)}".encode()
                self.send_response(404 if "none" in self.path else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture
def mirror(upstream: Upstream, tmp_path: Path) -> Iterator[CachingMirror]:
    url = f"http://127.0.0.1:{upstream.server.server_port}/debian/"
    with CachingMirror(tmp_path / "cache", url, tmp_path / "overlay") as mirror:
        yield mirror


def get(mirror: CachingMirror, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_package_is_fetched_once(mirror: CachingMirror, upstream: Upstream) -> None:
    assert get(mirror, PACKAGE) == (200, f"{PACKAGE} 1".encode())
    assert get(mirror, PACKAGE) == (200, f"{PACKAGE} 1".encode())
    assert get(mirror, PACKAGE, "HEAD") == (200, b"")
    assert upstream.asked == [PACKAGE]
    assert mirror.served == {"upstream": 1, "cache": 2}


def test_an_index_is_fetched_again_after_an_hour_and_the_old_one_is_better_than_none(
    mirror: CachingMirror, upstream: Upstream, tmp_path: Path
) -> None:
    get(mirror, INDEX)
    old = time.time() - 3700
    os.utime(tmp_path / f"cache{INDEX}", (old, old))
    assert get(mirror, INDEX) == (200, f"{INDEX} 2".encode())
    os.utime(tmp_path / f"cache{INDEX}", (old, old))
    upstream.close()
    assert get(mirror, INDEX) == (200, f"{INDEX} 2".encode())
    assert get(mirror, PACKAGE)[0] == 502


def test_the_overlay_comes_first(mirror: CachingMirror, upstream: Upstream, tmp_path: Path) -> None:
    mine = tmp_path / "overlay/debian/dists/lab/Release"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert get(mirror, "/debian/dists/lab/Release") == (200, b"mine")
    assert upstream.asked == []


@pytest.mark.parametrize(
    "path", ["/", "/debian", "/etc/passwd", "/debian/../secret", "/debian/%2e%2e/secret"]
)
def test_only_the_archive_is_served(
    mirror: CachingMirror, tmp_path: Path, upstream: Upstream, path: str
) -> None:
    for folder in ("cache", "overlay"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "secret").write_text("secret")
    assert get(mirror, path)[0] == 404
    assert upstream.asked == []


def test_what_upstream_has_not_is_not_kept(mirror: CachingMirror, tmp_path: Path) -> None:
    assert get(mirror, "/debian/pool/none.deb")[0] == 404
    assert not list(tmp_path.rglob("none*"))
