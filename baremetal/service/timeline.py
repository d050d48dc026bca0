"""The history as people and scripts read it: events, the live stream's next batch, a run told with durations, logs.

Reads only. Everything here comes from the store, so a reader that was away misses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from baremetal.errors import Unknown
from baremetal.service import views
from baremetal.store.records import HistoryEntry
from baremetal.store.store import Store
from baremetal.telemetry import redact_text

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events and where to go on; `last` moves even where nothing matched."""

    events: list[dict[str, Any]]
    last: int


class Timeline:
    """Reads the history. `wake` is to be called whenever something was recorded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._followers: dict[object, Callable[[], None]] = {}
        self._closed = False

    def events(self, names: Sequence[str], after: int, limit: int) -> list[dict[str, Any]]:
        """List events after a number, of some servers or of all. Raises Unknown."""
        return self.after(self.ids(names), after, limit).events

    def newest(self, name: str, limit: int) -> list[dict[str, Any]]:
        """List a server's last events, oldest first. Raises Unknown."""
        record = self._store.server(name)
        return [views.event(entry) for entry in self._store.history(record.id, limit=limit, newest=True)]

    def ids(self, names: Sequence[str]) -> list[str]:
        """Turn names into ids. Raises Unknown."""
        return [self._store.server(name).id for name in names]

    def after(self, server_ids: Sequence[str], after: int, limit: int) -> Batch:
        """Read the next events of some servers (all, if none is named), in the order of their numbers."""
        one = server_ids[0] if len(server_ids) == 1 else None
        wanted = frozenset(server_ids)
        found: list[dict[str, Any]] = []
        last = after
        while len(found) < limit:
            page = self._store.history(server_id=one, after=last, limit=min(_PAGE, limit))
            if not page:
                break
            for entry in page:
                last = entry.id
                if not wanted or entry.server_id in wanted:
                    found.append(views.event(entry))
                    if len(found) >= limit:
                        break
            if len(page) < min(_PAGE, limit):
                break
        return Batch(found, last)

    def last(self) -> int:
        """Return the number of the newest event."""
        return self._store.last_history_id()

    # -- live --

    def wake(self, entry: HistoryEntry) -> None:
        """Listen to the engine: whoever follows looks again. Quick."""
        with self._lock:
            followers = list(self._followers.values())
        for follower in followers:
            follower()

    @contextmanager
    def follow(self, wake: Callable[[], None]) -> Iterator[Callable[[], bool]]:
        """Be woken for every new entry while the context lasts; yields the question whether the service is closing."""
        key = object()
        with self._lock:
            self._followers[key] = wake
        try:
            yield lambda: self._closed
        finally:
            with self._lock:
                del self._followers[key]

    def close(self) -> None:
        """End every stream soon."""
        self._closed = True
        with self._lock:
            followers = list(self._followers.values())
        for follower in followers:
            follower()

    # -- a run told --

    def tell(self, name: str, number: int | None) -> dict[str, Any]:
        """Tell one run (the newest by default) as marks with the seconds since the one before. Raises Unknown."""
        record = self._store.server(name)
        number = number if number is not None else record.life.runs
        run = self._store.run(record.id, number) if number else None
        if run is None:
            raise Unknown(
                f"{record.life.name} has no run {number}" if number else f"{record.life.name} had no run yet"
            )
        marks: list[dict[str, Any]] = []
        before = run.started_at
        # what was seen is written a little after what was decided meanwhile
        for entry in sorted(self._entries(record.id, number), key=lambda entry: (entry.at, entry.id)):
            if entry.outcome == "no-op":
                continue
            marks.append(
                {
                    "id": entry.id,
                    "at": entry.at,
                    "since_start_s": (entry.at - run.started_at).total_seconds(),
                    "took_s": (entry.at - before).total_seconds(),
                    "kind": entry.kind,
                    "note": entry.note,
                    "state": entry.to_state,
                    "outcome": entry.outcome,
                }
            )
            before = entry.at
        ended = run.ended_at
        return {
            "server": record.life.name,
            "run": number,
            "verb": run.verb,
            "profile": run.profile or None,
            "started_at": run.started_at,
            "ended_at": ended,
            "outcome": run.outcome or None,
            "error": run.error or None,
            "disk": run.disk or None,
            "disks": [dict(disk) for disk in run.disks],
            "took_s": (ended - run.started_at).total_seconds() if ended is not None else None,
            "marks": marks,
        }

    def _entries(self, server_id: str, run: int) -> Iterator[HistoryEntry]:
        last = 0
        while page := self._store.history(server_id=server_id, after=last, limit=_PAGE, run=run):
            yield from page
            last = page[-1].id

    # -- logs --

    def logs(self, name: str, run: int | None) -> list[dict[str, Any]]:
        """Return what installers uploaded, as text."""
        record = self._store.server(name)
        return [
            {
                "run": entry.run,
                "name": entry.name,
                "at": entry.at,
                "size": len(entry.content),
                # An installer logs its kernel command line, and with it the fetch token.
                "text": redact_text(entry.content.decode("utf-8", "replace")),
            }
            for entry in self._store.logs(record.id, run)
        ]
