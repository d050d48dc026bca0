"""Follows runs to their end: reads the stream in a thread, feeds the milestones, asks now and then how servers stand.

Owns the waiting; what it looks like is `live`'s, what it means is `milestones`'s.
"""

from __future__ import annotations

import bisect
import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from baremetal.cli.live import Screen
from baremetal.cli.milestones import Milestones, began_to_wait, ends_run, parse_time
from baremetal.client import Client, server_path
from baremetal.errors import BaremetalError, Unavailable, Unknown

_TICK_S = 0.12
_LOOK_S = 2.0
_WORDS = 3
_ERROR = re.compile(r"\b(error|fail(ed|ure)?|cannot|fatal)\b", re.IGNORECASE)
_MOST_NAMED = 100
# Requests seen are recorded up to half a second after they came: rows wait so long for their place.
_SORT_S = 0.7
Item = Mapping[str, Any] | BaremetalError | None


class Follower:
    """Runs being followed. `begin` each as it starts; `wait` until all have ended."""

    def __init__(self, client: Client, screen: Screen, names: Sequence[str]) -> None:
        self._client = client
        self._screen = screen
        self._names = list(names)
        self._news: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._looked = 0.0
        self._stale = True
        self._sorting: list[tuple[datetime, int, float, Mapping[str, Any]]] = []
        self._read_up_to: dict[str, int] = {}
        self.told: dict[str, Milestones] = {}

    def begin(self, name: str, run: int) -> None:
        """Follow this run of a server too, from its first event."""
        past = self._client.get(server_path(name, "timeline"), run=run)
        told = Milestones(name, run, past.get("profile") or "", past.get("disks") or ())
        self.told[name] = told
        self._stale = True
        marks = past["marks"]
        self._start(min(int(mark["id"]) for mark in marks) - 1 if marks else None)

    def expect(self, name: str, run: int, profile: str) -> None:
        """Follow a run that is to begin when its turn comes."""
        page = self._client.get(server_path(name, "events"), newest=True, limit=200)["events"]
        waits = [int(one["id"]) for one in page if one["run"] == run and began_to_wait(one)]
        self.told[name] = Milestones(name, run, profile, waits_since=max(waits, default=0))
        self._stale = True
        self._start(None)

    def _start(self, after: int | None) -> None:
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, args=(after,), daemon=True)
            self._reader.start()

    @property
    def open(self) -> list[Milestones]:
        return [told for told in self.told.values() if not told.ended]

    def wait(self, until: Callable[[], bool] | None = None) -> None:
        """Follow until every run has ended, or until something else is so. Raises Unavailable."""
        while self.open and not (until is not None and until()):
            self._look()
            for item in self._arrived():
                if isinstance(item, BaremetalError):
                    raise item
                if item is not None and item["server"] in self.told:
                    entry = (parse_time(item["at"]), int(item["id"]), time.monotonic(), item)
                    bisect.insort(self._sorting, entry, key=lambda one: one[:2])
            self._release()
            self._screen.tick()

    def _release(self) -> None:
        """Feed what has waited long enough, in the order of what happened; of a run that has ended, all."""
        ready = time.monotonic() - _SORT_S
        over = {one[3]["server"] for one in self._sorting if ends_run(one[3])}
        late = max(
            (at for at, one in enumerate(self._sorting) if one[2] <= ready or one[3]["server"] in over),
            default=-1,
        )
        due, self._sorting = self._sorting[: late + 1], self._sorting[late + 1 :]
        for one in due:
            self._feed(one[3])

    def _arrived(self) -> Iterable[Item]:
        try:
            yield self._news.get(timeout=_TICK_S)
            while True:
                yield self._news.get_nowait()
        except queue.Empty:
            return

    def _feed(self, event: Mapping[str, Any]) -> None:
        told = self.told.get(event["server"])
        if told is None or told.ended or int(event["id"]) <= self._read_up_to.get(told.server, 0):
            return
        if (event.get("event") or {}).get("signal") == "install-started" and not told.disks:
            # Only the name is in the event; without the rest the row says less, and the deploy goes on all the same.
            with contextlib.suppress(BaremetalError):
                past = self._client.get(server_path(told.server, "timeline"), run=told.run)
                told.disks = past.get("disks") or ()
        rows = told.feed(event)
        if rows:
            self._screen.add(told, rows)
            self._stale = True
        if told.is_over():
            self._screen.finish(told, last_words(self._client, told))

    def _look(self) -> None:
        """Ask how the servers stand: after news soon, else every few seconds."""
        now = time.monotonic()
        if now - self._looked < (_SORT_S / 3 if self._stale else _LOOK_S):
            return
        self._looked, self._stale = now, False
        names = [told.server for told in self.open]
        try:
            if len(names) == 1:
                self._see(self._client.get(server_path(names[0])))
            else:
                for server in self._client.get("/v1/servers")["servers"]:
                    if server["name"] in self.told:
                        self._see(server)
        except Unknown:
            told = self.told[names[0]]
            told.ended, told.failed, told.reason = "forgotten", True, "somebody made the service forget it"
            self._screen.finish(told)
        except BaremetalError:
            pass  # the stream says so too, and knows when it is back

    def _see(self, server: Mapping[str, Any]) -> None:
        """Show how a server stands; what was expected and happened before the stream told of it is read up."""
        self._screen.status(server)
        told = self.told[server["name"]]
        expected = told.waits_since is not None and told.started_at is None and not told.ended
        if not expected or server.get("waiting") is not None:
            return
        page = self._client.get(server_path(told.server, "events"), newest=True, limit=1000)["events"]
        for event in page:
            self._feed(event)
        self._read_up_to[told.server] = max((int(event["id"]) for event in page), default=0)

    def _read(self, after: int | None) -> None:
        named = self._names if len(self._names) <= _MOST_NAMED else []
        try:
            for event in self._client.follow(after, named, lost=self._lost):
                self._news.put(event)
        except BaremetalError as error:
            self._news.put(error)
        except Exception as error:
            self._news.put(Unavailable(f"the stream of events broke: {error}"))

    def _lost(self, problem: BaremetalError | None) -> None:
        self._screen.lost(problem.what if problem is not None else "")


def tell_run(client: Client, screen: Screen, name: str, run: int) -> Milestones:
    """Show a run as far as it is recorded, without waiting for more."""
    past = client.get(server_path(name, "timeline"), run=run)
    told = Milestones(name, run, past.get("profile") or "", past.get("disks") or ())
    if past["marks"]:
        after = min(int(mark["id"]) for mark in past["marks"]) - 1
        page = client.get(server_path(name, "events"), after=after, limit=5000)["events"]
        for event in sorted(page, key=lambda event: (parse_time(event["at"]), event["id"])):
            if rows := told.feed(event):
                screen.add(told, rows)
    if told.ended:
        screen.finish(told, last_words(client, told))
    return told


def last_words(client: Client, told: Milestones) -> list[str]:
    """Return the lines of a failed run's uploaded logs that say most: those that speak of errors, else the last."""
    if not told.failed:
        return []
    try:
        logs = client.get(server_path(told.server, "logs"), run=told.run)["logs"]
    except BaremetalError:
        return []
    for entry in reversed(logs):
        lines = [line.strip() for line in entry["text"].splitlines() if line.strip()]
        speaking = [line for line in lines if _ERROR.search(line)]
        if speaking or lines:
            return [line[:200] for line in (speaking or lines)[-_WORDS:]]
    return []
