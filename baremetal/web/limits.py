"""How much one client may ask of the boot app: requests per address, bytes and seconds per request.

Owns the counting. The loopback is not counted: a reverse proxy, the lab and a benchmark look like one very busy
machine. What fails counts extra for everybody, because guessing tokens and MACs is made of failures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from baremetal.errors import Unavailable
from baremetal.web.auth import is_loopback

BODY_S = 15.0
_KEPT = 65536


class TooLarge(Exception):
    """The body is longer than this address takes."""


class Bucket:
    """Tokens per address: `rate` a second, saved up to `burst`. Not for threads."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def has(self, key: str) -> bool:
        """Whether something is left for this address."""
        return self._level(key) >= 1.0

    def take(self, key: str) -> bool:
        """Take one, if there is one."""
        left = self._level(key)
        if left < 1.0:
            return False
        if len(self._left) >= _KEPT:
            self._left.clear()  # a flood of made-up addresses; starting afresh is the cheaper harm
        self._left[key] = (left - 1.0, self._clock())
        return True

    def _level(self, key: str) -> float:
        known = self._left.get(key)
        if known is None:
            return self._burst
        left, at = known
        return min(self._burst, left + (self._clock() - at) * self._rate)


class RateLimit:
    """Answer 429 to an address that asks, or fails, far more often than a rack of machines behind one router would."""

    def __init__(self, app: ASGIApp, requests: Bucket, failures: Bucket) -> None:
        self._app = app
        self._requests = requests
        self._failures = failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        address = client[0] if client else ""
        if not self._failures.has(address) or not (is_loopback(address) or self._requests.take(address)):
            await _too_many(send)
            return

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 404, 405, 409, 413):
                self._failures.take(address)
            await send(message)

        await self._app(scope, receive, counted)


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's body. Raises TooLarge, and Unavailable for one that does not arrive in time."""
    declared = request.headers.get("content-length", "")
    if declared and (not declared.isdigit() or int(declared) > limit):
        raise TooLarge
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TooLarge
                chunks.append(chunk)
    except (TimeoutError, ClientDisconnect) as error:
        raise Unavailable("the body did not arrive") from error
    return b"".join(chunks)


async def _too_many(send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": b"too many requests\n"})
