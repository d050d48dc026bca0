"""Machines that netboot and that nobody has enrolled, kept for `baremetal list --unknown` and `enroll --from-unknown`.

Owns how often one is worth a write: anybody on the segment can invent MACs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum

from baremetal import telemetry
from baremetal.errors import BaremetalError
from baremetal.store.store import Store

log = telemetry.logger(__name__)

_EVERY = timedelta(seconds=10)


class Way(StrEnum):
    """How a stranger came to notice."""

    DHCP = "DHCP"
    SCRIPT = "boot script"


# How many are written down within _EVERY. What DHCP tells is written in the order in which it was heard, before what it
# tells of servers under care: invented MACs must not hold those up, nor take the place of who asks for a script.
_MOST = {Way.DHCP: 64, Way.SCRIPT: 2048}


class Strangers:
    """For threads."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._seen: dict[Way, dict[str, datetime]] = {way: {} for way in Way}
        self._lock = threading.Lock()

    def is_news(self, mac: str, way: Way) -> bool:
        """Whether a stranger is worth a write now: seldom for one MAC, and for so many MACs only."""
        if not mac:
            return False
        at = self._now()
        with self._lock:
            seen = self._seen[way]
            last = seen.get(mac)
            if last is not None and timedelta(0) <= at - last < _EVERY:
                return False
            if len(seen) >= _MOST[way]:
                seen = {key: when for key, when in seen.items() if timedelta(0) <= at - when < _EVERY}
                self._seen[way] = seen
                if len(seen) >= _MOST[way]:
                    return False
            seen[mac] = at
        return True

    def meet(self, mac: str, what: str, *, uuid: str = "", serial: str = "", arch: str = "") -> None:
        """Remember one, and what it asked for; what it does not say now stays as it was said. Best effort."""
        try:
            self._store.saw_unknown(mac, uuid, serial, arch, what, self._now())
        except BaremetalError as error:
            log.warning("a stranger could not be recorded", mac=mac, error=str(error))
