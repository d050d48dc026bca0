"""The runs' records, and the logs that installers upload.

Owns what a run froze at its start and what was learnt on the way. Whether a run is open is the life's affair; here it
only shows as `ended_at`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update

from baremetal.errors import Refused, Unknown
from baremetal.store.codec import dump, load
from baremetal.store.connection import Connection, Prepared
from baremetal.store.part import Part
from baremetal.store.records import LogRecord, NewRun, RunRecord
from baremetal.store.tables import FROZEN, LOGS, RUNS, maybe_moment, micros, moment

LOG_CAP = 1024 * 1024
LOG_NAMES = 64

_R = RUNS.c
_ONE = Prepared(select(RUNS).where(_R.server_id == bindparam("the_id"), _R.number == bindparam("the_number")))
_ALL = Prepared(select(RUNS).where(_R.server_id == bindparam("the_id")).order_by(_R.number))
_COLUMNS = [column.name for column in RUNS.c]
_ADD = Prepared(insert(RUNS), _COLUMNS)
_NOTHING_LEARNT = {
    **dict.fromkeys(("outcome", "error", "boot_id", "disk"), ""),
    **dict.fromkeys(("disks", "ssh_host_keys", "addresses"), "[]"),
    "accepted": "{}",
    "ended_at": None,
}
_FREEZE = Prepared(insert(FROZEN), [column.name for column in FROZEN.c])
_FROZEN = Prepared(
    select(FROZEN.c.text).where(
        FROZEN.c.server_id == bindparam("the_id"), FROZEN.c.run == bindparam("the_number")
    )
)
_END = Prepared(
    update(RUNS).where(_R.server_id == bindparam("the_id"), _R.number == bindparam("the_number")),
    ("ended_at", "outcome", "error"),
)
_OPEN = Prepared(select(_R.number).where(_R.ended_at.is_(None)).limit(1))
_ACCEPTED = Prepared(
    select(_R.accepted).where(_R.server_id == bindparam("the_id"), _R.number == bindparam("the_number"))
)
_TEXTS = frozenset({"boot_id", "disk"})
_LISTS = frozenset({"disks", "ssh_host_keys", "addresses"})
_OF_RUN = (LOGS.c.server_id == bindparam("the_id"), LOGS.c.run == bindparam("the_run"))
_OTHER_LOGS = select(func.coalesce(func.sum(LOGS.c.size), 0), func.count()).where(
    *_OF_RUN, LOGS.c.name != bindparam("the_name")
)


class Runs(Part):
    """Reads of runs; logs in and out."""

    def run(self, server_id: str, number: int) -> RunRecord | None:
        with self._db.read() as connection:
            row = _ONE.run(connection, {"the_id": server_id, "the_number": number}).fetchone()
        return None if row is None else _run(row)

    def frozen(self, server_id: str, number: int) -> Mapping[str, Any]:
        """Return what a run froze at its start. Raises Unknown for a run that is not there."""
        with self._db.read() as connection:
            row = _FROZEN.run(connection, {"the_id": server_id, "the_number": number}).fetchone()
        if row is None:
            raise Unknown(f"run {number} has no record")
        frozen: Mapping[str, Any] = load(row[0])
        return frozen

    def runs(self, server_id: str) -> list[RunRecord]:
        """Return a server's runs, oldest first."""
        with self._db.read() as connection:
            rows = _ALL.run(connection, {"the_id": server_id}).fetchall()
        return [_run(row) for row in rows]

    def has_open_runs(self) -> bool:
        """Whether any server's run is under way."""
        with self._db.read() as connection:
            return _OPEN.run(connection, {}).fetchone() is not None

    def add_log(self, server_id: str, run: int, name: str, content: bytes, at: datetime | None = None) -> int:
        """Keep a log of a run under its name, replacing an older one; returns the bytes that the run now holds.

        A run holds at most 1 MiB: of what does not fit any more the end is kept, because that is where installers
        say why they stopped. Raises Unknown for a run that is not there, Refused for too many names.
        """
        key = {"the_id": server_id, "the_run": run, "the_name": name}
        with self._db.write() as connection:
            if _ACCEPTED.run(connection, {"the_id": server_id, "the_number": run}).fetchone() is None:
                raise Unknown(f"no run {run} of server {server_id}")
            others, names = connection.execute(_OTHER_LOGS, key).one()
            if names >= LOG_NAMES:
                raise Refused(f"run {run} has uploaded {names} logs already", server=server_id)
            room = max(0, LOG_CAP - others)
            kept = content[-room:] if room else b""
            row = {"at": micros(at or datetime.now(UTC)), "size": len(kept), "content": kept}
            adding = self._db.upsert(LOGS).values(server_id=server_id, run=run, name=name, **row)
            connection.execute(
                adding.on_conflict_do_update(index_elements=["server_id", "run", "name"], set_=row)
            )
        return int(others) + len(kept)

    def logs(self, server_id: str, run: int | None = None) -> list[LogRecord]:
        """Return a server's logs, or one run's, oldest run first."""
        asked = select(LOGS).where(LOGS.c.server_id == server_id).order_by(LOGS.c.run, LOGS.c.name)
        if run is not None:
            asked = asked.where(LOGS.c.run == run)
        with self._db.read() as connection:
            rows = connection.execute(asked).all()
        return [LogRecord(row.run, row.name, moment(row.at), bytes(row.content)) for row in rows]


def add_run(connection: Connection, run: NewRun) -> None:
    """Add a run's record, and what it froze, to the open transaction."""
    _ADD.run(
        connection,
        {
            **_NOTHING_LEARNT,
            "server_id": run.server_id,
            "number": run.number,
            "verb": run.verb,
            "profile": run.profile,
            "started_at": micros(run.started_at),
        },
    )
    _FREEZE.run(connection, {"server_id": run.server_id, "run": run.number, "text": dump(dict(run.frozen))})


def learn(connection: Connection, server_id: str, number: int, facts: Mapping[str, Any]) -> None:
    """Write what a signal told about a run. A signal keeps the time when it was first accepted."""
    key = {"the_id": server_id, "the_number": number}
    values: dict[str, Any] = {}
    for name, value in facts.items():
        if name in _TEXTS:
            values[name] = str(value)
        elif name in _LISTS:
            values[name] = dump(list(value))
        elif name == "accepted":
            (stored,) = _ACCEPTED.run(connection, key).fetchone() or ("{}",)
            known = load(stored)
            values[name] = dump({**_stamps(value), **known})
        else:
            raise AssertionError(f"a run's record has no field {name!r} to learn")
    _change(tuple(sorted(values))).run(connection, {**key, **values})


@cache
def _change(columns: tuple[str, ...]) -> Prepared:
    """Return the statement that changes these columns of a run: there are few combinations."""
    return Prepared(
        update(RUNS).where(_R.server_id == bindparam("the_id"), _R.number == bindparam("the_number")), columns
    )


def end_run(
    connection: Connection, server_id: str, number: int, at: datetime, outcome: str, error: str
) -> None:
    key = {"the_id": server_id, "the_number": number}
    _END.run(connection, {**key, "ended_at": micros(at), "outcome": outcome, "error": error})


def _stamps(accepted: Mapping[str, datetime]) -> dict[str, str]:
    return {str(signal): at.isoformat() for signal, at in accepted.items()}


def _run(row: Sequence[Any]) -> RunRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    accepted = load(values["accepted"])
    return RunRecord(
        **{
            **values,
            "started_at": moment(values["started_at"]),
            "ended_at": maybe_moment(values["ended_at"]),
            "disks": load(values["disks"]),
            "ssh_host_keys": tuple(load(values["ssh_host_keys"])),
            "addresses": tuple(load(values["addresses"])),
            "accepted": {signal: datetime.fromisoformat(at) for signal, at in accepted.items()},
        }
    )
