"""A small caching mirror of a Debian archive, for installer runs in the lab.

Owns one HTTP server: files of an overlay folder first, then of the cache, then from upstream (and into the cache). Only
paths below `/debian` exist. Packages are kept for ever, indexes for an hour. Knows nothing of what the files mean:
clients check signatures and digests themselves.
"""

from __future__ import annotations

import http.client
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

_FRESH_S = 3600.0
_CHUNK = 1 << 18


class CachingMirror:
    """The mirror while it runs: `with CachingMirror(...) as mirror: mirror.url`. `served` counts answers by source.

    `upstream` is a mirror's URL ending in `/debian`. Guests on QEMU's user network find loopback at 10.0.2.2.
    """

    def __init__(
        self,
        cache: Path,
        upstream: str,
        overlay: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._cache = cache
        self._upstream = upstream.rstrip("/").removesuffix("/debian")
        self._overlay = overlay
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self.served: Counter[str] = Counter()
        self._server = _Server((host, port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        """The mirror's address on this host."""
        return f"http://127.0.0.1:{self.port}/debian"

    @property
    def guest_url(self) -> str:
        """The mirror's address as a guest of the lab sees it."""
        return f"http://10.0.2.2:{self.port}/debian"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def find(self, path: str) -> tuple[int, Path | None]:
        """Return the HTTP status and the file for a request's path, after fetching it where needed."""
        inside = os.path.normpath(unquote(path.partition("?")[0]))
        if not inside.startswith("/debian/"):
            return 404, None
        overlay = self._overlay / inside[1:] if self._overlay else None
        if overlay and overlay.is_file():
            self._count("overlay")
            return 200, overlay
        cached = self._cache / inside[1:]
        with self._guard:
            lock = self._locks.setdefault(inside, threading.Lock())
        with lock:
            if _is_fresh(cached):
                self._count("cache")
                return 200, cached
            status = self._fetch(inside, cached)
            self._count("upstream" if status == 200 else str(status))
            return status, cached if status == 200 else None

    def _count(self, source: str) -> None:
        with self._guard:
            self.served[source] += 1

    def _fetch(self, path: str, target: Path) -> int:
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(self._upstream + path, timeout=60) as answer, part.open("wb") as file:
                shutil.copyfileobj(answer, file, _CHUNK)
            part.replace(target)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (OSError, http.client.HTTPException):
            return 200 if target.is_file() else 502  # an old index is better than none
        return 200


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def _is_fresh(file: Path) -> bool:
    try:
        age_s = time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return False
    return "pool" in file.parts or "by-hash" in file.parts or age_s < _FRESH_S


def _handler(mirror: CachingMirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            status, file = mirror.find(self.path)
            if file is None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with file.open("rb") as content:
                facts = os.fstat(content.fileno())
                self.send_response(200)
                self.send_header("Content-Length", str(facts.st_size))
                self.send_header("Last-Modified", self.date_time_string(int(facts.st_mtime)))
                self.end_headers()
                if self.command == "GET":
                    shutil.copyfileobj(content, self.wfile, _CHUNK)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent: `served` counts."""

    return Handler
