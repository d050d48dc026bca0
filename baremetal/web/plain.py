"""Plain texts: how machines are answered. They are computed for one machine, so nobody on the way may keep them."""

from __future__ import annotations

from starlette.responses import Response

_PLAIN = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
_RETRY = (b"retry-after", b"5")


class Plain(Response):
    """A response whose headers are written out: the library lays them out anew each time, for each machine."""

    def __init__(self, text: str, status: int = 200) -> None:
        self.status_code = status
        self.background = None
        self.body = text.encode()
        self.raw_headers = [*_PLAIN, (b"content-length", b"%d" % len(self.body))]
        if status == 503:
            self.raw_headers.append(_RETRY)


def not_found() -> Plain:
    """Say the one thing that everything unknown, forged or out of its window hears."""
    return Plain("not found", 404)
