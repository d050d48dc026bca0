"""Wall time that does not jump while the process lives.

Deadlines are kept as wall times, because they must outlive the process; but a clock that is set while we run must make
nothing early and nothing late. So the wall is read once, at the start, and the monotonic clock counts from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class SteadyClock:
    """Call it for the time: aware, UTC, never going back."""

    def __init__(
        self,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._began = wall()
        self._zero = monotonic()

    def __call__(self) -> datetime:
        return self._began + timedelta(seconds=self._monotonic() - self._zero)
