"""Where each diskless server finds its volume, for boot scripts: from the database, and from memory while that is down.

Owns the last-known copy (promises I7): a server whose volume is all it has must not be left standing because our
database is. Deliberately unknown: how volumes are served, and the wording of a script.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from baremetal import telemetry
from baremetal.errors import BaremetalError, Unavailable
from baremetal.lifecycle.events import SystemChosen
from baremetal.lifecycle.model import ProvisionState
from baremetal.lifecycle.windows import boots_volume
from baremetal.netboot.san import San
from baremetal.service.boot.machine import Machine
from baremetal.store.codec import EVENTS
from baremetal.store.records import HistoryEntry, ServerRecord
from baremetal.store.store import Store

log = telemetry.logger(__name__)

Ask = Callable[[ServerRecord], San | None]


class Sans:
    """For threads. `ask` finds a server's volume; it raises what the database does."""

    def __init__(self, store: Store, ask: Ask) -> None:
        self._store = store
        self._ask = ask
        self._kept: dict[str, tuple[ServerRecord, San]] = {}
        self._lock = threading.Lock()

    def of(self, record: ServerRecord) -> San | None:
        """Return where a server's volume is, None where it has none. Raises what `ask` does where nothing is kept."""
        try:
            san = self._ask(record)
        except BaremetalError:
            with self._lock:
                kept = self._kept.get(record.id)
            if kept is None:
                raise
            return kept[1]
        if san is not None and record.life.run is None and boots_volume(record.life):
            with self._lock:
                kept = self._kept.get(record.id)
                if kept is None or kept[0].life.generation <= record.life.generation:  # nobody slow wins
                    self._kept[record.id] = (record, san)
        return san

    def recall(self, machine: Machine) -> tuple[ServerRecord, San] | None:
        """Find a diskless server by its MAC or UUID while the database cannot; None for any other machine."""
        with self._lock:
            for record, san in self._kept.values():
                known = machine.mac in record.facts.macs if machine.mac else machine.uuid == record.facts.uuid
                if known and (machine.mac or machine.uuid):
                    return record, san
        return None

    def learn(self) -> None:
        """Remember every active diskless server: once, when the service starts. Best effort."""
        for record in self._store.servers(state=ProvisionState.ACTIVE):
            self._remember(record)

    def follow(self, entry: HistoryEntry) -> None:
        """Hear of a change: who becomes active, or boots another system, is learnt anew; others are forgotten."""
        chosen = entry.event is not None and EVENTS.get(entry.event["type"]) is SystemChosen
        if chosen or entry.from_state != entry.to_state:
            with self._lock:
                known = self._kept.pop(entry.server_id, None)
            if known is not None or entry.to_state == ProvisionState.ACTIVE:
                try:
                    record = self._store.find_server(entry.server_id)
                except Unavailable:
                    return
                if record is not None:
                    self._remember(record)

    def refresh(self, server_id: str) -> None:
        """Learn a server anew whose facts were changed; one that was forgotten is forgotten here too."""
        with self._lock:
            self._kept.pop(server_id, None)
        record = self._store.find_server(server_id)
        if record is not None:
            self._remember(record)

    def _remember(self, record: ServerRecord) -> None:
        if record.life.run is None and boots_volume(record.life):
            try:
                self.of(record)
            except BaremetalError as error:
                log.warning("a diskless server's volume is not known", server=record.name, error=str(error))
