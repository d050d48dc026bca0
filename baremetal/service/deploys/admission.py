"""When an accepted deploy begins: so many at once, and so far apart.

A mirror, a breaker panel and a segment have their bounds; a bulk deploy of a whole hall respects them without anybody
watching. What waits is in the database, with all that its run froze when it was asked: what begins later is what `plan`
showed then. Owns the order and the two bounds; knows no workflow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from baremetal.engine.engine import Begin, Engine
from baremetal.errors import BaremetalError, Unavailable, Unknown
from baremetal.lifecycle.decision import Decision, Outcome
from baremetal.lifecycle.events import Asked
from baremetal.store.records import HistoryEntry, ServerRecord, WaitingRecord
from baremetal.store.store import Store

log = structlog.get_logger(__name__)

TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the queue a server stands, 1 for the next to begin, and the run that it will begin."""

    run: int
    place: int


class Admission:
    """Begins deploys and rebuilds. `most` at once, 0 for any number; beginnings are `stagger_s` apart."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        now: Callable[[], datetime],
        most: int = 0,
        stagger_s: float = 0.0,
        tell: Callable[[HistoryEntry], None] = lambda _entry: None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._now = now
        self._most = most
        self._stagger = timedelta(seconds=stagger_s)
        self._tell = tell
        self._lock = threading.Lock()
        self._last: datetime | None = None

    @property
    def tick_s(self) -> float:
        """How often `admit` is to be called."""
        return min(TICK_S, self._stagger.total_seconds() or TICK_S)

    def begin(self, record: ServerRecord, asked: Asked, begin: Begin) -> Decision | Place:
        """Begin a run now, or have it wait behind the others. Raises Refused, Unavailable."""
        with self._lock:
            if not self._store.is_anybody_waiting() and self._has_room():
                return self._begin(record.id, asked, begin)
            self._tell(self._store.wait(record, asked, begin.profile, begin.frozen, self._now()))
        entry = self._store.queue_entry(record.id)
        return Place(
            record.life.runs + 1, entry.place if entry is not None else 0
        )  # 0: its turn has come meanwhile

    def leave(self, record: ServerRecord, by: str) -> bool:
        """Give up what waits; False where nothing does."""
        with self._lock:
            one = self._store.waiting(record.id)
            return one is not None and self._drop(one, record.life.runs + 1, f"given up by {by}", by)

    def admit(self) -> int:
        """Begin what there is room for, longest waiting first; returns how many began. Safe at any time.

        Servers in maintenance keep their place. What cannot begin any more leaves the queue and says why. A run that
        maintenance has stopped half-way still counts as one that is under way.
        """
        begun = after = 0
        with self._lock:
            while (one := self._store.first_waiting(after)) is not None and self._has_room():
                after = one.number
                try:
                    begun += self._admit(one)
                except Unknown:  # forgotten just now, and its place with it
                    continue
        return begun

    def _admit(self, one: WaitingRecord) -> bool:
        record = self._store.server(one.server_id)
        if record.life.maintenance:
            return False
        try:
            decision = self._begin(one.server_id, one.asked, Begin(one.profile, one.frozen, one.number))
            if decision.outcome is Outcome.CHANGED:
                return True
            reason = decision.note
        except (Unavailable, Unknown):
            raise
        except BaremetalError as error:
            reason = str(error)
        except Exception:
            log.exception("admission broke", server=one.server)
            reason = "it could not begin; the service's log says why"
        if not self._store.server(one.server_id).life.maintenance:  # switched on just now: it keeps its place
            self._drop(one, record.life.runs + 1, f"did not begin: {reason}", "the service")
        return False

    def _begin(self, server_id: str, asked: Asked, begin: Begin) -> Decision:
        decision = self._engine.submit(server_id, asked, begin=begin)
        if decision.outcome is Outcome.CHANGED:
            self._last = self._now()
        return decision

    def _drop(self, one: WaitingRecord, run: int, note: str, by: str) -> bool:
        entry = self._store.drop_waiting(one, run, note, by, self._now())
        if entry is not None:
            self._tell(entry)
        return entry is not None

    def _has_room(self) -> bool:
        if self._last is not None and self._stagger > self._now() - self._last >= timedelta(0):
            return False
        return not self._most or self._store.deploys_under_way() < self._most
