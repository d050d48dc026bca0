"""Watching power states: a BMC is asked now and then, never told anything; drift is shown, and left to the operator.

Owns which server is asked next. Few at a time and the longest unseen first, so that a thousand servers cost a trickle;
a BMC that is busy, frozen or left alone is skipped until its turn comes again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from datetime import datetime, timedelta

from baremetal import telemetry
from baremetal.engine.engine import Engine
from baremetal.errors import BaremetalError
from baremetal.lifecycle.model import PowerState
from baremetal.store.records import HistoryEntry, ServerRecord
from baremetal.store.store import Store

log = telemetry.logger(__name__)

AT_ONCE = 4


class PowerWatch:
    """Reads every server's power state about once per `every`. `tick` is called often and never waits."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        pool: Executor,
        *,
        every: timedelta,
        now: Callable[[], datetime],
        heard: Callable[[HistoryEntry], None],
    ) -> None:
        self._store = store
        self._engine = engine
        self._pool = pool
        self._every = every
        self._now = now
        self._heard = heard
        self._lock = threading.Lock()
        self._asked: dict[str, datetime] = {}
        self._busy: set[str] = set()
        self._next_look: datetime | None = None
        self._queue: list[ServerRecord] = []

    def tick(self) -> int:
        """Start reading those that are due, as far as there is room; returns how many."""
        if not self._every:
            return 0
        if not self._queue:
            self._queue = self._due()
        started = 0
        while self._queue:
            with self._lock:
                if len(self._busy) >= AT_ONCE:
                    break
                record = self._queue.pop()
                if record.id in self._busy:
                    continue
                self._busy.add(record.id)
            self._asked[record.id] = self._now()
            self._pool.submit(self._read, record)
            started += 1
        return started

    def _due(self) -> list[ServerRecord]:
        """List the servers that are due, the longest unseen last. Nobody becomes due by surprise: looks are rare."""
        at = self._now()
        if self._next_look is not None and at < self._next_look:
            return []
        self._next_look = at + min(self._every / 4, timedelta(seconds=15))
        due = [
            record
            for record in self._store.servers()
            if record.life.run is None and at - self._last(record) >= self._every
        ]
        return sorted(due, key=lambda record: (self._last(record), record.life.name), reverse=True)

    def _last(self, record: ServerRecord) -> datetime:
        times = [at for at in (record.power_seen_at, self._asked.get(record.id)) if at is not None]
        return max(times, default=record.created_at - self._every)

    def _read(self, record: ServerRecord) -> None:
        power: PowerState | None
        try:
            with ExitStack() as stack:
                power = self._engine.converse(record, stack).power()
        except BaremetalError as error:
            log.debug("power not read", server=record.life.name, code=error.code, error=str(error))
            power = PowerState.UNKNOWN if error.code == "BM101" else None
        try:
            if power is not None:
                entry = self._store.set_power(record.id, power, self._now())
                if entry is not None:
                    self._heard(entry)
        except BaremetalError as error:
            log.warning("power not noted", server=record.life.name, error=str(error))
        finally:
            with self._lock:
                self._busy.discard(record.id)
