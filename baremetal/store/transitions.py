"""The path of a decision into the database, and the short exclusive holds around acting on it.

Owns the guard (generation and fence), the one transaction of a decision, reservations, and what is due. Statements are
SQLAlchemy Core, built once: the simulation lives on this path. Knows no reason for any change: `decide` had it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, case, func, or_, select, update

from baremetal.lifecycle.decision import Decision, Outcome
from baremetal.lifecycle.events import Event
from baremetal.lifecycle.model import PowerState, Server
from baremetal.store.codec import encode_event, encode_life
from baremetal.store.connection import Connection, Prepared
from baremetal.store.database import Database
from baremetal.store.history import append
from baremetal.store.inventories import keep_inventory
from baremetal.store.part import Part
from baremetal.store.records import Committed, NewRun, ServerRecord
from baremetal.store.runs import add_run, end_run, learn
from baremetal.store.servers import READ, note_power, read_record
from baremetal.store.tables import SERVERS, micros, moment
from baremetal.store.waiting import wait_no_longer

_S = SERVERS.c
_GUARDED = and_(
    _S.id == bindparam("the_id"), _S.generation == bindparam("guard"), _S.fence == bindparam("guard_fence")
)
_MOVED = ("life", "state", "generation", "fence", "due_at")
_MOVE = Prepared(update(SERVERS).where(_GUARDED), _MOVED)
_MOVE_AND_FREE = Prepared(
    update(SERVERS).where(_GUARDED).values(reserved_until=None, reserved_fence=None), _MOVED
)
_STILL = Prepared(select(_S.id).where(_GUARDED))

# Held otherwise: until its time, and only while nobody raised the fence over its holder's head (abort, maintenance).
_FREE = or_(_S.reserved_until.is_(None), _S.reserved_until <= bindparam("now"), _S.reserved_fence != _S.fence)
_MOVE_AND_RESERVE = Prepared(update(SERVERS).where(_GUARDED), (*_MOVED, "reserved_until", "reserved_fence"))
_UNRESERVE = Prepared(
    update(SERVERS)
    .where(
        _S.id == bindparam("the_id"),
        _S.reserved_fence == bindparam("held"),
        _S.reserved_until == bindparam("until"),
    )
    .values(reserved_until=None, reserved_fence=None)
)
_VOID = Prepared(
    update(SERVERS).where(_S.reserved_until.is_not(None)).values(reserved_until=None, reserved_fence=None)
)
_DUE = Prepared(READ.where(_S.due_at <= bindparam("now"), _FREE).order_by(_S.due_at, _S.id))
_NEXT = Prepared(
    select(
        func.min(
            case(
                (and_(_S.reserved_until > _S.due_at, _S.reserved_fence == _S.fence), _S.reserved_until),
                else_=_S.due_at,
            )
        )
    ).where(_S.due_at.is_not(None))
)


class Transitions(Part):
    """Decisions, reservations, and what is due."""

    def commit(
        self,
        server_id: str,
        before: Server,
        decision: Decision,
        event: Event,
        at: datetime,
        *,
        begin: NewRun | None = None,
        waited: int | None = None,
        facts: Mapping[str, Any] | None = None,
        power: PowerState | None = None,
        frees: bool = False,
        until: datetime | None = None,
    ) -> Committed | None:
        """Write a decision down: the life, its history row and its run's record, in one transaction.

        None means that the guard is lost: since `before` was read somebody else moved the server, and nothing was
        written. A refusal or a no-op writes its history row only, under the same guard. `facts` are fields of the
        run's record (`boot_id disk disks ssh_host_keys addresses accepted`), and the server's `inventory`. `power` is
        what was seen on the way to the decision, noted as `set_power` does, and told before it. `frees`: a decision
        that changes something also gives back the reservation whose fence `before` carries. `until`: one that changes
        something also reserves the server, which raises its fence: for a caller who has read that nobody holds it.
        `waited` is the number under which this run waited for its turn. Raises Unavailable, and Refused for a run
        beside a deploy that waits.
        """
        after = decision.server
        changed = decision.outcome is Outcome.CHANGED
        guard = {"the_id": server_id, "guard": before.generation, "guard_fence": before.fence}
        fence = None if until is None or not changed else after.fence + 1
        with self._db.write() as connection:
            if changed:
                _assert_grows(before, after)
                moved = {
                    **guard,
                    # where the server is reserved too, the text keeps the lower fence: the column has the last word
                    "life": encode_life(after),
                    "state": str(after.state),
                    "generation": after.generation,
                    "fence": after.fence if fence is None else fence,
                    "due_at": _due_at(decision),
                }
                statement = _MOVE_AND_FREE if frees else _MOVE
                if until is not None:
                    statement = _MOVE_AND_RESERVE
                    moved |= {"reserved_until": micros(until), "reserved_fence": fence}
                # The guard compares the fence too. Each reservation raises it: so what is freed is what was taken under
                # it, and nobody has taken the server since it was read.
                if statement.run(connection, moved).rowcount != 1:
                    return None
                if begin is not None:
                    add_run(connection, begin)
                    wait_no_longer(connection, server_id, before.name, begin.verb, waited)
                run = before.run or after.run
                if run is not None and facts:
                    _learn(self._db, connection, server_id, run.number, at, facts)
                if before.run is not None and after.run is None:
                    end_run(connection, server_id, before.run.number, at, str(after.state), after.last_error)
            elif _STILL.run(connection, guard).fetchone() is None:
                return None
            seen = note_power(connection, server_id, power, at) if power is not None else None
            about = before.run or after.run
            decided = append(
                connection,
                at,
                server_id,
                before.name,
                about.number if about is not None else getattr(event, "run", None),
                "decision",
                decision.note,
                from_state=str(before.state),
                to_state=str(after.state),
                outcome=str(decision.outcome),
                event=encode_event(event),
                fence=before.fence,
            )
        return Committed([decided] if seen is None else [seen, decided], fence)

    def unreserve(self, server_id: str, fence: int, until: datetime) -> None:
        """Give back the reservation that was taken under `fence`. Harmless when it is over, or was never taken."""
        with self._db.write() as connection:
            _UNRESERVE.run(connection, {"the_id": server_id, "held": fence, "until": micros(until)})

    def void_reservations(self) -> None:
        """Free every server: only for a process that knows that no other one works on this database."""
        with self._db.write() as connection:
            _VOID.run(connection, {})

    def due(self, now: datetime) -> list[ServerRecord]:
        """Return the free servers that are owed something, or whose deadline has passed; longest first."""
        with self._db.read() as connection:
            rows = _DUE.run(connection, {"now": micros(now)}).fetchall()
        return [read_record(row) for row in rows]

    def next_due(self) -> datetime | None:
        """Return when `due` will next have something to say, unless something happens before; None for never."""
        with self._db.read() as connection:
            (at,) = _NEXT.run(connection, {}).fetchone()
        return None if at is None else moment(at)


def _learn(
    database: Database,
    connection: Connection,
    server_id: str,
    run: int,
    at: datetime,
    facts: Mapping[str, Any],
) -> None:
    of_run = {name: value for name, value in facts.items() if name != "inventory"}
    if of_run:
        learn(connection, server_id, run, of_run)
    if "inventory" in facts:
        keep_inventory(database, connection, server_id, run, at, facts["inventory"])


def _due_at(decision: Decision) -> int | None:
    run = decision.server.run
    if run is None:
        return None
    turn = (run.retry_at or run.entered) if decision.action is not None else None
    moments = [micros(at) for at in (run.deadline, turn) if at is not None]
    return min(moments, default=None)


def _assert_grows(before: Server, after: Server) -> None:
    """I10 and I11, also in production: numbers that only grow."""
    if after.generation != before.generation + 1 or after.fence < before.fence or after.runs < before.runs:
        raise AssertionError(
            f"{before.name}: generation {before.generation} to {after.generation}, "
            f"fence {before.fence} to {after.fence}, runs {before.runs} to {after.runs}"
        )
