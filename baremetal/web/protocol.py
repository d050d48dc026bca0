"""The HTTP protocol with limits on how long and how large a request's head may be.

uvicorn bounds the time between requests only; a client that sends half a header and nothing more would hold its
connection for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 10.0
HEAD_BYTES = 32 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol; the connection is dropped where a head takes longer than HEAD_S or HEAD_BYTES."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES + 1024 * 1024:
                self._drop()
                return
        super().data_received(data)
        if self._in_head and self._head_bytes:  # only a part of it has come
            if self._head_bytes > HEAD_BYTES:
                self._drop()
            else:
                self._start()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._stop()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def _start(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEAD_S, self._drop)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop(self, *_: Any) -> None:
        self._stop()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()
