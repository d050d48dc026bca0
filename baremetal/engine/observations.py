"""Requests seen from machines, gathered and written in batches beside the decisions.

Observations are for people (the timeline); no state depends on them, so losing the last half second in a crash is
allowed, and a full buffer drops the newest and logs how many.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from baremetal.errors import Unavailable
from baremetal.store.records import HistoryEntry
from baremetal.store.store import Store

log = structlog.get_logger(__name__)

CAPACITY = 10_000


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing seen: what (`kernel`, `answer`, …), by which server and run, and a sentence for people."""

    at: datetime
    server_id: str
    server: str
    run: int | None
    what: str
    note: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Observations:
    """A bounded buffer in front of the store; `flush` is called by a tick."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._waiting: list[Observation] = []
        self._dropped = 0
        self._listeners: list[Callable[[HistoryEntry], None]] = []

    def listen(self, listener: Callable[[HistoryEntry], None]) -> None:
        """Have every written observation handed to `listener`."""
        self._listeners.append(listener)

    def add(
        self,
        server_id: str,
        server: str,
        run: int | None,
        what: str,
        note: str,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember one observation; never blocks on the database, never raises."""
        seen = Observation(self._now(), server_id, server, run, what, note, data or {})
        with self._lock:
            if len(self._waiting) >= CAPACITY:
                self._dropped += 1
            else:
                self._waiting.append(seen)

    def flush(self) -> int:
        """Write what waits in one transaction; keep it where the database is away. Returns how many were written."""
        with self._lock:
            batch, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("observations dropped", count=dropped, capacity=CAPACITY)
        if not batch:
            return 0
        try:
            entries = self._store.observe(batch)
        except Unavailable:
            with self._lock:
                self._waiting = (batch + self._waiting)[:CAPACITY]
            raise
        for entry in entries:
            for listener in self._listeners:
                listener(entry)
        return len(batch)
