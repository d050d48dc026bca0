"""Machines that netboot and that nobody has enrolled, kept for `baremetal list --unknown` and `enroll --from-unknown`.

Owns how often one is worth a write: anybody on the segment can invent MACs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from baremetal import telemetry
from baremetal.errors import BaremetalError
from baremetal.store.store import Store

log = telemetry.logger(__name__)

_EVERY = timedelta(seconds=10)
_KEPT = 2048


class Strangers:
    """For threads."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._seen: dict[tuple[str, str], datetime] = {}
        self._lock = threading.Lock()

    def is_news(self, mac: str, what: str) -> bool:
        """Whether that a stranger asked for this is worth a write: seldom for one MAC, and for so many MACs only."""
        if not mac:
            return False
        at = self._now()
        with self._lock:
            last = self._seen.get((mac, what))
            if last is not None and timedelta(0) <= at - last < _EVERY:
                return False
            if len(self._seen) >= _KEPT:
                self._seen = {key: seen for key, seen in self._seen.items() if at - seen < _EVERY}
                if len(self._seen) >= _KEPT:
                    return False
            self._seen[mac, what] = at
        return True

    def meet(self, mac: str, what: str, *, uuid: str = "", serial: str = "", arch: str = "") -> None:
        """Remember one, and what it asked for; what it does not say now stays as it was said. Best effort."""
        try:
            self._store.saw_unknown(mac, uuid, serial, arch, what, self._now())
        except BaremetalError as error:
            log.warning("a stranger could not be recorded", mac=mac, error=str(error))
