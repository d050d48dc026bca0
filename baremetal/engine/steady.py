"""Wall time that does not jump while work is under way, not even from one process to the next.

Deadlines are kept as wall times, because they must outlive the process; but a clock that is set while we run, or while
we are dead, must make nothing early and nothing late. So the wall is read once, and the monotonic clock counts from
there; a process that finds runs open counts on from where the one before it began.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

_SETTING = "clock"


class Memory(Protocol):
    """What outlives the process (`store`)."""

    def setting(self, name: str) -> str | None: ...
    def set_setting(self, name: str, value: str) -> None: ...
    def has_open_runs(self) -> bool: ...
    def last_history_at(self) -> datetime | None: ...


def _wall() -> datetime:
    return datetime.now(UTC)


class SteadyClock:
    """Call it for the time: aware, UTC, never going back."""

    def __init__(
        self,
        wall: Callable[[], datetime] = _wall,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._zero_at = wall() - timedelta(seconds=monotonic())
        self._last: tuple[float, datetime] | None = None

    @classmethod
    def resume(
        cls,
        memory: Memory,
        wall: Callable[[], datetime] = _wall,
        monotonic: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> SteadyClock:
        """Begin at the wall's time, or go on with the last process's count where runs are open.

        The monotonic clock goes on between processes of one boot of this host (`boot`, by default the kernel's own id
        of it). After another boot the wall is all there is; it is not believed to be before the last history entry.
        Raises Unavailable.
        """
        boot = host_boot() if boot is None else boot
        began = wall()
        if memory.has_open_runs():
            kept_boot, _, zero_at = (memory.setting(_SETTING) or "").partition(" ")
            if zero_at and boot and kept_boot == boot:
                began = datetime.fromisoformat(zero_at) + timedelta(seconds=monotonic())
            began = max(began, memory.last_history_at() or began)
        clock = cls(lambda: began, monotonic)
        memory.set_setting(_SETTING, f"{boot} {clock._zero_at.isoformat()}")
        return clock

    def __call__(self) -> datetime:
        seconds, last = self._monotonic(), self._last
        # A virtual clock is asked many times before it moves.
        if last is not None and last[0] == seconds:
            return last[1]
        at = self._zero_at + timedelta(seconds=seconds)
        self._last = seconds, at
        return at


def host_boot() -> str:
    """Return the kernel's id of this boot of the host, "" where it tells none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
