"""What a loader asks again without having booted again, and how long it has been told to wait.

GRUB opens a file to see whether it is there, and then reads it; over TFTP a lost packet asks for a file anew. None of
these is another boot, so none counts as one (promises I3). pxelinux cannot count how often it was told to wait. For
threads. Deliberately unknown: the windows; whoever asks here has made sure that the answer is still the same.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from baremetal.service.boot.machine import Machine

_WITHIN = timedelta(seconds=10)  # no machine is through its self-test again by then
_WAIT_AT_MOST = timedelta(minutes=2)
_WAIT_APART = timedelta(seconds=30)
_ROOM = 4096


@dataclass(frozen=True, slots=True)
class _Kept:
    machine: Machine
    run: int
    text: str
    at: datetime


class Repeats:
    """Keeps the last installer's script of each server for some seconds."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def keep(self, server_id: str, machine: Machine, run: int, text: str, at: datetime) -> None:
        """Remember what was served just now."""
        with self._lock:
            if len(self._kept) >= _ROOM:
                self._kept.clear()
            self._kept[server_id] = _Kept(machine, run, text, at)

    def again(self, server_id: str, machine: Machine, run: int, at: datetime) -> str | None:
        """Return what the same machine was served a moment ago under the same name for the same run."""
        with self._lock:
            kept = self._kept.get(server_id)
        if kept is None or kept.machine != machine or kept.run != run:
            return None
        return kept.text if timedelta(0) <= at - kept.at < _WITHIN else None


class Waits:
    """Knows since when a machine is told to wait, time after time."""

    def __init__(self) -> None:
        self._waits: dict[str, tuple[datetime, datetime]] = {}
        self._lock = threading.Lock()

    def is_enough(self, machine: str, at: datetime) -> bool:
        """Note that a machine is about to be told to wait, and say whether it has waited for two minutes already."""
        with self._lock:
            first, last = self._waits.get(machine, (at, at))
            if not timedelta(0) <= at - last < _WAIT_APART:
                first = at
            if len(self._waits) >= _ROOM:
                self._waits.clear()
            self._waits[machine] = (first, at)
        return at - first >= _WAIT_AT_MOST
