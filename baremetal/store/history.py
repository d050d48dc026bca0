"""The history: appended in the transaction of whatever it tells of, read as a stream, never changed.

Owns its rows, their retention, and folding: the recorded decisions, decided again, give the stored life (promises I8).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from msgspec.structs import replace
from sqlalchemy import bindparam, delete, false, func, insert, select

from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.model import Server
from baremetal.store.codec import decode_event, decode_life, dump, load
from baremetal.store.connection import Connection, Prepared
from baremetal.store.part import Part
from baremetal.store.records import HistoryEntry, Observed
from baremetal.store.tables import HISTORY, micros, moment
from baremetal.telemetry import redact, redact_text

_COLUMNS = [column.name for column in HISTORY.c if column.name != "id"]
_ADD = Prepared(insert(HISTORY), _COLUMNS)
_ADD_AND_TELL = Prepared(insert(HISTORY).returning(HISTORY.c.id), _COLUMNS)
_LAST = select(func.max(HISTORY.c.id))
_LAST_AT = Prepared(select(HISTORY.c.at).order_by(HISTORY.c.id.desc()).limit(1))
_BATCH = 1000


def append(
    connection: Connection,
    at: datetime,
    server_id: str,
    server: str,
    run: int | None,
    kind: str,
    note: str,
    *,
    from_state: str | None = None,
    to_state: str | None = None,
    outcome: str | None = None,
    event: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    fence: int | None = None,
) -> HistoryEntry:
    """Add one row to the transaction that is open on `connection`."""
    row = {
        "at": micros(at),
        "server_id": server_id,
        "server": server,
        "run": run,
        "kind": kind,
        "note": note,
        "from_state": from_state,
        "to_state": to_state,
        "outcome": outcome,
        "fence": fence,
        "event": None if event is None else dump(event),
        "data": dump(data) if data else "{}",
    }
    # SQLite knows the id anyway, and RETURNING doubles what the statement costs there
    if connection.dialect == "sqlite":
        number = _ADD.run(connection, row).lastrowid
    else:
        (number,) = _ADD_AND_TELL.run(connection, row).fetchone()
    return HistoryEntry(
        number,
        at,
        server_id,
        server,
        run,
        kind,
        note,
        from_state,
        to_state,
        outcome,
        event,
        data or {},
        fence,
    )


class History(Part):
    """Reads and bookkeeping of the history."""

    def observe(self, seen: Iterable[Observed]) -> list[HistoryEntry]:
        """Write a batch of observations in one transaction, redacted; returns them with their ids."""
        with self._db.write(long=True) as connection:
            return [
                append(
                    connection,
                    one.at,
                    one.server_id,
                    one.server,
                    one.run,
                    "observation",
                    redact_text(one.note),
                    data={"what": one.what, **_redacted(one.data)},
                )
                for one in seen
            ]

    def audit(
        self,
        at: datetime,
        server_id: str,
        server: str,
        note: str,
        *,
        by: str,
        run: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> HistoryEntry:
        """Record what somebody did beside the lifecycle: a power command of their own, a token, a changed fact."""
        with self._db.write() as connection:
            return audit(connection, at, server_id, server, note, by=by, run=run, data=data)

    def history(
        self,
        server_id: str | None = None,
        after: int = 0,
        limit: int = 1000,
        kinds: Collection[str] | None = None,
        *,
        run: int | None = None,
        newest: bool = False,
    ) -> list[HistoryEntry]:
        """Return entries with an id above `after`, oldest first: the first `limit`, or with `newest` the last."""
        wanted: dict[str, Any] = {"after": after, "most": limit}
        if server_id is not None:
            wanted["server"] = server_id
        if run is not None:
            wanted["run"] = run
        some = None if kinds is None else sorted(kinds)
        wanted |= {_kind(number): kind for number, kind in enumerate(some or ())}
        asked = _entries(server_id is not None, None if some is None else len(some), run is not None, newest)
        with self._db.read() as connection:
            rows = asked.run(connection, wanted).fetchall()
        entries = [_entry(row) for row in rows]
        return entries[::-1] if newest else entries

    def last_history_id(self) -> int:
        """Return the id of the newest entry, 0 before there is one."""
        with self._db.read() as connection:
            last: int | None = connection.execute(_LAST).scalar()
        return last or 0

    def last_history_at(self) -> datetime | None:
        """Return when the newest entry was written, None before there is one."""
        with self._db.read() as connection:
            row = _LAST_AT.run(connection, {}).fetchone()
        return None if row is None else moment(row[0])

    def drop_observations(self, before: datetime) -> int:
        """Delete observations older than `before`, in short transactions; returns how many.

        Nothing else is ever deleted: decisions, enrolments and audits stay.
        """
        oldest = (
            select(HISTORY.c.id)
            .where(HISTORY.c.kind == "observation", HISTORY.c.at < bindparam("before"))
            .limit(_BATCH)
        )
        dropped = 0
        while True:
            with self._db.write(long=True) as connection:
                stale = delete(HISTORY).where(HISTORY.c.id.in_(oldest))
                now: int = connection.execute(stale, {"before": micros(before)}).rowcount
            dropped += now
            if now < _BATCH:
                return dropped


@lru_cache(maxsize=64)
def _entries(of_server: bool, kinds: int | None, of_run: bool, newest: bool) -> Prepared:
    """Return the statement that reads entries, narrowed as is said: there are few combinations."""
    asked = select(HISTORY).where(HISTORY.c.id > bindparam("after")).limit(bindparam("most"))
    asked = asked.order_by(HISTORY.c.id.desc() if newest else HISTORY.c.id)
    if of_server:
        asked = asked.where(HISTORY.c.server_id == bindparam("server"))
    if kinds is not None:
        named: list[Any] = [bindparam(_kind(number)) for number in range(kinds)]
        asked = asked.where(HISTORY.c.kind.in_(named) if named else false())
    if of_run:
        asked = asked.where(HISTORY.c.run == bindparam("run"))
    return Prepared(asked)


def _kind(number: int) -> str:
    return f"kind_{number}"


def audit(
    connection: Connection,
    at: datetime,
    server_id: str,
    server: str,
    note: str,
    *,
    by: str,
    run: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> HistoryEntry:
    """Add an audit row to the open transaction, redacted."""
    return append(
        connection,
        at,
        server_id,
        server,
        run,
        "audit",
        redact_text(note),
        data={"by": by, **_redacted(data or {})},
    )


def first_life(entry: HistoryEntry) -> Server:
    """Return the life that a server was enrolled with, from its "enrolled" entry: where folding begins."""
    life = entry.data["life"]
    return decode_life(dump(life), life["generation"], life["fence"])


def fold(entries: Sequence[HistoryEntry], initial: Server) -> Server:
    """Decide every recorded event again, at its time and under its fence; returns the life that this gives.

    `entries` are one server's, in order; only decisions count. The result is the stored life, except that the stored
    fence may be higher: reservations raise it without a history row.
    """
    server = initial
    for entry in entries:
        if entry.kind == "decision" and entry.event is not None:
            if entry.fence not in (None, server.fence):
                server = replace(server, fence=entry.fence)
            server = decide(server, decode_event(entry.event), entry.at).server
    return server


def _redacted(data: Mapping[str, Any]) -> Mapping[str, Any]:
    clean = redact(data)
    assert isinstance(clean, dict)
    return clean


def _entry(row: Sequence[Any]) -> HistoryEntry:
    """Read a whole row, in the table's order of columns."""
    number, at, server_id, server, run, kind, note, before, after, outcome, fence, event, data = row
    return HistoryEntry(
        number,
        moment(at),
        server_id,
        server,
        run,
        kind,
        note,
        before,
        after,
        outcome,
        None if event is None else load(event),
        load(data) if data != "{}" else {},
        fence,
    )
