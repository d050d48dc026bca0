"""What every part of the machines' side stands on. The parts are split by noun; `boot.py` puts them together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from baremetal import telemetry
from baremetal.engine.engine import Engine
from baremetal.engine.observations import Observations
from baremetal.errors import BaremetalError
from baremetal.lifecycle.model import Fetch, Run
from baremetal.netboot.tokens import mask_tokens
from baremetal.service.boot.repeats import Repeats, Waits
from baremetal.service.boot.requests import FileRequest, FileRequests
from baremetal.service.boot.sans import Sans
from baremetal.service.boot.strangers import Strangers
from baremetal.service.recipe import Kitchen, Recipe
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

log = telemetry.logger(__name__)

_SAME = timedelta(seconds=1)
_NOTED_KEPT = 4096


class Part:
    """One noun's share of what machines are told, on the one store. For threads."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        observations: Observations,
        kitchen: Kitchen,
        *,
        now: Callable[[], datetime],
        strict_source: bool = False,
        sans: Sans | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._observations = observations
        self._kitchen = kitchen
        self._now = now
        self._strict = strict_source
        self._sans = sans or Sans(store, lambda _: None)
        self._noted: dict[tuple[str, int | None, str], datetime] = {}
        self._requests = FileRequests(self._note_file, now)
        self.strangers = Strangers(store, now)
        self._repeats = Repeats()
        self._waits = Waits()
        self._lock = threading.Lock()

    def _server(self, server_id: str) -> ServerRecord | None:
        # Machines are no people: a like name means nothing to them, and finding one would hold up the event loop.
        return self._store.find_server(server_id)

    def _recipe(self, server_id: str, number: int) -> Recipe:
        return self._kitchen.recipe(self._store, server_id, number)

    def _seen(self, record: ServerRecord, run: int | None, what: str, note: str, **data: str) -> None:
        """Note what a machine asked for; the same words within a second are one note, however often it asks."""
        key, at = (record.id, run, note), self._now()
        last = self._noted.get(key)
        if last is not None and timedelta(0) <= at - last < _SAME:
            return
        if len(self._noted) >= _NOTED_KEPT:
            self._noted.clear()
        self._noted[key] = at
        self._observations.add(record.id, record.life.name, run, what, note, data)

    def _not_rendered(self, record: ServerRecord, run: int, what: str, error: BaremetalError) -> None:
        text = mask_tokens(str(error))
        log.error(
            "nothing was served: rendering failed", server=record.life.name, code=error.code, error=text
        )
        self._seen(record, run, "render", f"{error.code} {what} not served: {text}")

    def _sources(self, record: ServerRecord, run: Run) -> set[str]:
        """List the addresses that were served this run's boot script (under `strict_source` only)."""
        entries = self._store.history(server_id=record.id, kinds=("decision",), run=run.number, newest=True)
        return {
            str(entry.event.get("address"))
            for entry in entries
            if entry.event is not None and entry.event.get("what") == str(Fetch.SCRIPT)
        }

    def _note_file(self, record: ServerRecord, request: FileRequest) -> None:
        run = record.life.run
        self._seen(
            record,
            run.number if run is not None else None,
            "file" if request.served or request.is_harmless or request.only_looked else "missing",
            request.note,
            address=request.address,
            file=request.name,
        )
