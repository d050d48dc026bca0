"""Virtual time: a heap of things that will happen, and somebody who lets time pass.

The simulation runs days in milliseconds on it. The packet-level demo lets it follow the wall clock instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualClock:
    """Seconds since the start. `pass_time` runs what falls due on the way, in order; calls may nest."""

    def __init__(self) -> None:
        self._now = 0.0
        self._numbers = 0
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self.offset_s = 0.0
        """What a wall clock jump has added: seen in `utc`, never in `monotonic`."""

    def monotonic(self) -> float:
        return self._now

    def utc(self) -> datetime:
        return EPOCH + timedelta(seconds=self._now + self.offset_s)

    def later(self, after_s: float, call: Callable[[], None]) -> None:
        """Have `call` made `after_s` from now."""
        self._numbers += 1
        heapq.heappush(self._waiting, (self._now + after_s, self._numbers, call))

    def pass_time(self, seconds: float) -> None:
        """Let time pass. A call made on the way may itself let time pass; the end is then where the later one is."""
        end = self._now + seconds
        while self._waiting and self._waiting[0][0] <= end:
            at, _, call = heapq.heappop(self._waiting)
            self._now = max(self._now, at)
            call()
        self._now = max(self._now, end)

    def next_at(self) -> float | None:
        """When the next thing happens, or None."""
        return self._waiting[0][0] if self._waiting else None
