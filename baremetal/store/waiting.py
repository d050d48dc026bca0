"""Deploys that were asked for and wait until there is room for them.

Owns the rows and their order; when there is room is `service/deploys/admission.py`'s affair. A row goes in the
transaction that begins its run, so that no crash can leave both, or neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, or_, select

from baremetal.errors import Refused
from baremetal.lifecycle.events import Asked
from baremetal.lifecycle.model import Verb
from baremetal.store.codec import decode_event, dump, encode_event, load
from baremetal.store.connection import Connection, Prepared
from baremetal.store.history import append
from baremetal.store.part import Part
from baremetal.store.records import HistoryEntry, QueueEntry, ServerRecord, WaitingRecord
from baremetal.store.tables import RUNS, SERVERS, WAITING, micros, moment

_W = WAITING.c
_ADD = Prepared(insert(WAITING), ("server_id", "at", "profile", "asked", "frozen"))
_DROP = Prepared(delete(WAITING).where(_W.server_id == bindparam("the_id"), _W.id == bindparam("the_number")))
_THERE = Prepared(select(_W.id).where(_W.server_id == bindparam("the_id")))
_AS_READ = Prepared(
    select(SERVERS.c.id).where(
        SERVERS.c.id == bindparam("the_id"), SERVERS.c.generation == bindparam("guard")
    )
)
_ROWS = select(WAITING, SERVERS.c.name).join(SERVERS, SERVERS.c.id == _W.server_id).order_by(_W.id)
_ONE = Prepared(_ROWS.where(_W.server_id == bindparam("the_id")))
_FIRST = Prepared(_ROWS.where(_W.id > bindparam("after")).limit(1))
_OTHER = WAITING.alias()
_BEFORE = select(func.count()).select_from(_OTHER).where(_OTHER.c.id < _W.id).scalar_subquery()
_PLACE = Prepared(select(_BEFORE, _W.at, _W.profile, _W.asked).where(_W.server_id == bindparam("the_id")))
_QUEUE = Prepared(select(_W.server_id, _W.at, _W.profile, _W.asked).order_by(_W.id))
_ANYBODY = Prepared(select(_W.id).limit(1))
_UNDER_WAY = Prepared(
    select(func.count())
    .select_from(RUNS)
    .where(
        RUNS.c.ended_at.is_(None),
        or_(RUNS.c.verb == Verb.DEPLOY.value, RUNS.c.verb == Verb.REBUILD.value),
    )
)


class Waiting(Part):
    """Who waits, in which order, and how many deploys are under way."""

    def wait(
        self,
        record: ServerRecord,
        asked: Asked,
        profile: str,
        frozen: Mapping[str, Any],
        at: datetime,
    ) -> HistoryEntry:
        """Have a deploy wait behind the others, for the server as `record` has it.

        Raises Refused where the server has moved since then, or waits already: two that ask for the same at once are
        one deploy.
        """
        with self._db.write() as connection:
            if (
                _AS_READ.run(connection, {"the_id": record.id, "guard": record.life.generation}).fetchone()
                is None
            ):
                raise Refused(f"{asked.verb}: somebody else was quicker", server=record.name)
            _refuse(connection, record.id, record.name, str(asked.verb))
            _ADD.run(
                connection,
                {
                    "server_id": record.id,
                    "at": micros(at),
                    "profile": profile,
                    "asked": dump(encode_event(asked)),
                    "frozen": dump(dict(frozen)),
                },
            )
            return append(
                connection,
                at,
                record.id,
                record.name,
                record.life.runs + 1,
                "audit",
                f"{asked.verb} asked by {asked.by}: it waits until others have ended",
                data={"what": "queue", "kind": "waits", "by": asked.by},
            )

    def refuse_beside_waiting(self, record: ServerRecord, verb: str) -> None:
        """Raise Refused where a deploy of this server waits: nothing else may begin beside it."""
        with self._db.read() as connection:
            _refuse(connection, record.id, record.name, verb)

    def waiting(self, server_id: str) -> WaitingRecord | None:
        """Return what a server waits for."""
        with self._db.read() as connection:
            row = _ONE.run(connection, {"the_id": server_id}).fetchone()
        return None if row is None else _waiting(row)

    def is_anybody_waiting(self) -> bool:
        with self._db.read() as connection:
            return _ANYBODY.run(connection, {}).fetchone() is not None

    def queue_entry(self, server_id: str) -> QueueEntry | None:
        """Return where one server stands among those who wait."""
        with self._db.read() as connection:
            row = _PLACE.run(connection, {"the_id": server_id}).fetchone()
        if row is None:
            return None
        before, at, profile, asked = row
        return QueueEntry(before + 1, moment(at), _asked(asked), profile)

    def queue(self) -> dict[str, QueueEntry]:
        """Return everybody who waits, by server id, longest waiting first."""
        with self._db.read() as connection:
            rows = _QUEUE.run(connection, {}).fetchall()
        return {
            server_id: QueueEntry(place, moment(at), _asked(asked), profile)
            for place, (server_id, at, profile, asked) in enumerate(rows, 1)
        }

    def first_waiting(self, after: int = 0) -> WaitingRecord | None:
        """Return who has waited longest, of those behind a number."""
        with self._db.read() as connection:
            row = _FIRST.run(connection, {"after": after}).fetchone()
        return None if row is None else _waiting(row)

    def deploys_under_way(self) -> int:
        """Return how many deploys and rebuilds have begun and not ended."""
        with self._db.read() as connection:
            return int(_UNDER_WAY.run(connection, {}).fetchone()[0])

    def drop_waiting(
        self, one: WaitingRecord, run: int, note: str, by: str, at: datetime
    ) -> HistoryEntry | None:
        """Have somebody wait no longer, and say why; None where the run has begun meanwhile."""
        with self._db.write() as connection:
            gone = _DROP.run(connection, {"the_id": one.server_id, "the_number": one.number})
            if gone.rowcount != 1:
                return None
            data = {"what": "queue", "kind": "left", "by": by}
            return append(connection, at, one.server_id, one.server, run, "audit", note, data=data)


def wait_no_longer(connection: Connection, server_id: str, name: str, verb: str, waited: int | None) -> None:
    """Take the server's row out, in the transaction that begins its run. Harmless where it has none.

    `waited` is the number of the row whose turn has come. Raises Refused where another one waits.
    """
    if waited is None:
        _refuse(connection, server_id, name, verb)
    else:
        _DROP.run(connection, {"the_id": server_id, "the_number": waited})


def _refuse(connection: Connection, server_id: str, name: str, verb: str) -> None:
    if _THERE.run(connection, {"the_id": server_id}).fetchone() is not None:
        raise Refused(f"{verb}: a deploy of this server waits for its turn", server=name, allowed=("abort",))


def _waiting(row: Any) -> WaitingRecord:
    number, server_id, at, profile, asked, frozen, name = row
    return WaitingRecord(number, server_id, name, moment(at), _asked(asked), profile, load(frozen))


def _asked(text: str) -> Asked:
    event = decode_event(load(text))
    assert isinstance(event, Asked)
    return event
