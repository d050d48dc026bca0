"""The servers under care: enrolled all or none, found by what a booting machine knows of itself, changed, forgotten.

Owns names, MACs and BMC identities being unique, and the sealed BMC accounts. How a server's life moves is
`transitions.py`'s affair.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace
from sqlalchemy import bindparam, delete, insert, select, update

from baremetal.errors import Conflict, Unknown
from baremetal.lifecycle.model import PowerState
from baremetal.store.codec import decode_life, dump, encode_life, load
from baremetal.store.connection import Connection, Prepared
from baremetal.store.history import append, audit
from baremetal.store.part import Part
from baremetal.store.records import Credentials, Facts, HistoryEntry, NewServer, ServerRecord
from baremetal.store.tables import (
    CREDENTIALS,
    MACS,
    SERVERS,
    UNKNOWNS,
    maybe_moment,
    micros,
    moment,
)

# An unchanged power state is written again only when what is stored is this old: each write costs a disk flush.
POWER_FRESH = timedelta(seconds=30)

_S = SERVERS.c
READ = select(
    _S.id,
    _S.life,
    _S.generation,
    _S.fence,
    _S.facts,
    _S.power_state,
    _S.power_seen_at,
    _S.created_at,
    _S.reserved_until,
    _S.reserved_fence,
)
_BY_ID = Prepared(READ.where(_S.id == bindparam("ref")))
_BY_NAME = Prepared(READ.where(_S.name == bindparam("ref")))
_BY_MAC = Prepared(READ.join(MACS, MACS.c.server_id == _S.id).where(MACS.c.mac == bindparam("ref")))
_BY_FACTS = Prepared(READ.where(_S.facts.like(bindparam("ref"))))
_BY_UUID = Prepared(READ.where(_S.uuid == bindparam("ref")))
_BY_SERIAL = Prepared(READ.where(_S.serial == bindparam("ref")).limit(2))
_ALL = READ.order_by(_S.name)
_IN_STATE = _ALL.where(_S.state == bindparam("state"))
_NAMES = Prepared(select(_S.name))
_SEALED = Prepared(select(CREDENTIALS.c.sealed).where(CREDENTIALS.c.server_id == bindparam("ref")))
_POWER = Prepared(select(_S.name, _S.power_state, _S.power_seen_at).where(_S.id == bindparam("ref")))
_SET_POWER = Prepared(update(SERVERS).where(_S.id == bindparam("ref")), ("power_state", "power_seen_at"))
_CLASHES = tuple(
    (Prepared(select(_S.name).where(column == bindparam("ref"), _S.id != bindparam("self"))), what)
    for column, what in ((_S.name, "name"), (_S.bmc_identity, "BMC"), (_S.uuid, "UUID"))
)
_MAC_CLASH = Prepared(
    select(_S.name)
    .join(MACS, MACS.c.server_id == _S.id)
    .where(MACS.c.mac == bindparam("ref"), _S.id != bindparam("self"))
)
_ADD = Prepared(insert(SERVERS), [column.name for column in SERVERS.c])
_ADD_MAC = Prepared(insert(MACS), ("mac", "server_id"))
_FORGET = Prepared(delete(SERVERS).where(_S.id == bindparam("ref")))
_FORGET_AT = Prepared(delete(SERVERS).where(_S.id == bindparam("ref"), _S.generation == bindparam("guard")))
_KNOWN_NOW = Prepared(delete(UNKNOWNS).where(UNKNOWNS.c.mac == bindparam("the_mac")))
_ADD_SEALED = Prepared(insert(CREDENTIALS), ("server_id", "sealed"))


class Servers(Part):
    """Enrolment, look-ups, facts, accounts."""

    def add_servers(self, new: Sequence[NewServer], at: datetime) -> list[ServerRecord]:
        """Enrol servers in one transaction: all of them or none.

        Raises Conflict (BM501) naming the other server where a name, MAC, BMC or UUID is taken, also within `new`.
        """
        _assert_apart(new)
        with self._db.write(long=len(new) > 8) as connection:
            return [self._add(connection, one, at) for one in new]

    def _add(self, connection: Connection, new: NewServer, at: datetime) -> ServerRecord:
        life, facts = new.life, new.facts
        server_id = uuid.uuid4().hex
        _refuse_clash(connection, server_id, life.name, facts)
        _ADD.run(
            connection,
            {
                "id": server_id,
                "name": life.name,
                "state": str(life.state),
                "generation": life.generation,
                "fence": life.fence,
                "life": encode_life(life),
                "due_at": None,
                "reserved_until": None,
                "reserved_fence": None,
                "power_state": str(PowerState.UNKNOWN),
                "power_seen_at": None,
                "created_at": micros(at),
                **_columns(facts),
            },
        )
        _add_macs(connection, server_id, facts.macs)
        if new.credentials is not None:
            self._seal(connection, server_id, new.credentials)
        append(
            connection,
            at,
            server_id,
            life.name,
            None,
            "enrolled",
            new.note,
            to_state=str(life.state),
            data={
                "by": new.by,
                "then": new.then,
                "life": load(encode_life(life)),
                "macs": list(facts.macs),
            },
        )
        return ServerRecord(server_id, life, facts, PowerState.UNKNOWN, None, at)

    def server(self, ref: str) -> ServerRecord:
        """Return the server of this id or name. Raises Unknown, with the nearest name."""
        found = self.find_server(ref)
        if found is None:
            with self._db.read() as connection:
                names = [name for (name,) in _NAMES.run(connection, {}).fetchall()]
            near = get_close_matches(ref, names, n=1)
            raise Unknown(f"no server {ref!r}", nearest=near[0] if near else None)
        return found

    def find_server(self, ref: str) -> ServerRecord | None:
        """Return the server of this id or name, if there is one; never reads the names of all, as `server` may."""
        with self._db.read() as connection:
            row = _BY_ID.run(connection, {"ref": ref}).fetchone()
            row = row or _BY_NAME.run(connection, {"ref": ref}).fetchone()
        return None if row is None else read_record(row)

    def server_by_mac(self, mac: str) -> ServerRecord | None:
        """`mac` in lower-case colon form."""
        return self._one(_BY_MAC, mac)

    def server_by_uuid(self, uuid: str) -> ServerRecord | None:
        return self._one(_BY_UUID, uuid.lower()) if uuid else None

    def server_by_address(self, address: str) -> ServerRecord | None:
        """Return the one server that was said to have this address; None where several were. Reads every server."""
        with self._db.read() as connection:
            rows = _BY_FACTS.run(connection, {"ref": f'%"{address}%'}).fetchall()
        records = [read_record(row) for row in rows]
        found = [one for one in records if one.facts.ip.partition("/")[0] == address]
        return found[0] if len(found) == 1 else None

    def find_boot(self, mac: str, uuid: str = "", serial: str = "") -> ServerRecord | None:
        """Return whose machine this is: by MAC, else by UUID, else by a serial number that only one server has."""
        found = self.server_by_mac(mac) if mac else None
        if found is None and uuid:
            found = self.server_by_uuid(uuid)
        if found is None and serial:
            with self._db.read() as connection:
                rows = _BY_SERIAL.run(connection, {"ref": serial}).fetchall()
            found = read_record(rows[0]) if len(rows) == 1 else None
        return found

    def _one(self, asked: Prepared, ref: str) -> ServerRecord | None:
        with self._db.read() as connection:
            row = asked.run(connection, {"ref": ref}).fetchone()
        return None if row is None else read_record(row)

    def servers(self, state: str | None = None, tags: Mapping[str, str] | None = None) -> list[ServerRecord]:
        """Return all servers, by name; with `tags` only those that carry every one of them."""
        with self._db.read() as connection:
            if state is None:
                rows = connection.execute(_ALL).all()
            else:
                rows = connection.execute(_IN_STATE, {"state": str(state)}).all()
        records = [read_record(row) for row in rows]
        if tags:
            wanted = tags.items()
            records = [record for record in records if wanted <= dict(record.facts.tags).items()]
        return records

    def credentials(self, server_id: str) -> tuple[str, str]:
        """Return the BMC account, ("", "") where none was given. Raises Unknown, Unavailable."""
        with self._db.read() as connection:
            row = _SEALED.run(connection, {"ref": server_id}).fetchone()
        if row is None:
            self.server(server_id)
            return "", ""
        user, password = load(self._secrets.open(row[0]))
        return user, password

    def set_facts(
        self,
        server_id: str,
        facts: Facts,
        credentials: Credentials | None,
        at: datetime,
        by: str,
        note: str,
        *,
        before: Facts | None = None,
    ) -> ServerRecord:
        """Replace a server's facts, and its BMC account where one is given; one audit row.

        `before`: the facts that the new ones were made from; if they are not the stored ones any more, Conflict is
        raised and nothing is written. Conflict (BM501) also names the other server where something is taken.
        """
        with self._db.write() as connection:
            row = _BY_ID.run(connection, {"ref": server_id}).fetchone()
            if row is None:
                raise Unknown(f"no server {server_id!r}")
            old = read_record(row)
            if before is not None and before != old.facts:
                raise Conflict(
                    "somebody else changed the server meanwhile",
                    code="BM503",
                    server=old.name,
                    fix="look at it again",
                )
            _refuse_clash(connection, server_id, old.name, facts)
            connection.execute(update(SERVERS).where(_S.id == server_id).values(**_columns(facts)))
            if facts.macs != old.facts.macs:
                connection.execute(delete(MACS).where(MACS.c.server_id == server_id))
                _add_macs(connection, server_id, facts.macs)
            if credentials is not None:
                connection.execute(delete(CREDENTIALS).where(CREDENTIALS.c.server_id == server_id))
                self._seal(connection, server_id, credentials)
            known = _document(old.facts)
            what = [name for name, value in _document(facts).items() if value != known[name]]
            what += ["credentials"] if credentials is not None else []
            audit(connection, at, server_id, old.name, note, by=by, data={"changed": what})
        return replace(old, facts=facts)

    def forget(self, server_id: str, at: datetime, by: str, *, generation: int | None = None) -> None:
        """Remove a server with its account, runs and logs. Its history stays; its id never comes back.

        `generation`: the one that the decision to forget was made from; if the server has moved on meanwhile, Conflict
        is raised and nothing is removed.
        """
        with self._db.write() as connection:
            row = _BY_ID.run(connection, {"ref": server_id}).fetchone()
            if row is None:
                raise Unknown(f"no server {server_id!r}")
            old = read_record(row)
            if generation is None:
                _FORGET.run(connection, {"ref": server_id})
            elif _FORGET_AT.run(connection, {"ref": server_id, "guard": generation}).rowcount != 1:
                raise Conflict(
                    "somebody asked something of the server meanwhile",
                    code="BM503",
                    server=old.name,
                    fix="look at it again",
                )
            audit(
                connection,
                at,
                server_id,
                old.name,
                "forgotten",
                by=by,
                run=old.life.run.number if old.life.run else None,
                data={"state": str(old.life.state), "macs": list(old.facts.macs)},
            )

    def set_power(self, server_id: str, power: PowerState, at: datetime) -> HistoryEntry | None:
        """Note the power state that was read; a change is an observation in the history, and is returned."""
        with self._db.read() as connection:
            row = _POWER.run(connection, {"ref": server_id}).fetchone()
        if row is None:
            return None
        seen = maybe_moment(row[2])
        if row[1] == power and seen is not None and seen <= at < seen + POWER_FRESH:
            return None
        with self._db.write() as connection:
            return note_power(connection, server_id, power, at)

    def set_powers(self, seen: Mapping[str, PowerState], at: datetime) -> list[HistoryEntry]:
        """Note the power states that were read, by server id, in one transaction; returns the changes.

        A server that is gone meanwhile is passed over.
        """
        with self._db.write(long=True) as connection:
            entries = [note_power(connection, server_id, power, at) for server_id, power in seen.items()]
        return [entry for entry in entries if entry is not None]

    def reseal(self) -> int:
        """Seal every stored account with the newest key; returns how many. One transaction."""
        with self._db.write(long=True) as connection:
            rows = connection.execute(select(CREDENTIALS)).all()
            for row in rows:
                connection.execute(
                    update(CREDENTIALS)
                    .where(CREDENTIALS.c.server_id == row.server_id)
                    .values(sealed=self._secrets.reseal(row.sealed))
                )
        return len(rows)

    def _seal(self, connection: Connection, server_id: str, account: Credentials) -> None:
        sealed = self._secrets.seal(dump([account.user, account.password]))
        _ADD_SEALED.run(connection, {"server_id": server_id, "sealed": sealed})


def note_power(
    connection: Connection, server_id: str, power: PowerState, at: datetime
) -> HistoryEntry | None:
    """Note a power state in the open transaction; a change is an observation in the history, and is returned."""
    row = _POWER.run(connection, {"ref": server_id}).fetchone()
    if row is None:
        return None
    _SET_POWER.run(connection, {"ref": server_id, "power_state": str(power), "power_seen_at": micros(at)})
    name, before, _ = row
    if before == power:
        return None
    return append(
        connection,
        at,
        server_id,
        name,
        None,
        "observation",
        f"power {power}",
        data={"what": "power", "power": str(power), "before": before},
    )


def _columns(facts: Facts) -> dict[str, Any]:
    """Return the columns that hold facts. What is not known is NULL, because unknown things do not clash."""
    return {
        "facts": dump(_document(facts)),
        "bmc_identity": facts.bmc_identity,
        "uuid": facts.uuid.lower() or None,
        "serial": facts.serial or None,
    }


def _add_macs(connection: Connection, server_id: str, macs: Iterable[str]) -> None:
    for mac in macs:
        _ADD_MAC.run(connection, {"mac": mac, "server_id": server_id})
        _KNOWN_NOW.run(connection, {"the_mac": mac})


def _refuse_clash(connection: Connection, server_id: str, name: str, facts: Facts) -> None:
    marks = zip(_CLASHES, (name, facts.bmc_identity, facts.uuid.lower()), strict=True)
    asked = [(statement, what, value) for (statement, what), value in marks if value]
    asked += [(_MAC_CLASH, "MAC", mac) for mac in facts.macs]
    for statement, what, value in asked:
        if (row := statement.run(connection, {"ref": value, "self": server_id}).fetchone()) is not None:
            raise _taken(what, value, name, row[0])


def _assert_apart(new: Sequence[NewServer]) -> None:
    """Refuse what clashes within one enrolment, before the database is asked."""
    seen: dict[tuple[str, str], str] = {}
    for one in new:
        facts = one.facts
        marks = [("name", one.life.name), ("BMC", facts.bmc_identity), ("UUID", facts.uuid.lower())]
        for mark in [*marks, *(("MAC", mac) for mac in facts.macs)]:
            if mark[1] and mark in seen:
                raise _taken(*mark, one.life.name, seen[mark])
            seen[mark] = one.life.name


def _taken(what: str, value: str, name: str, other: str) -> Conflict:
    if what == "name":
        return Conflict(
            f"there is a server {value!r} already", server=name, fix="take another name, or forget that one"
        )
    return Conflict(
        f"the {what} {value} belongs to the server {other!r} already",
        server=name,
        fix=f"correct it here or there, or forget {other!r}",
    )


def _document(facts: Facts) -> dict[str, Any]:
    document = {field.name: getattr(facts, field.name) for field in fields(facts)}
    return {**document, "vars": dict(facts.vars), "tags": dict(facts.tags)}


@lru_cache(maxsize=2048)
def _facts(text: str) -> Facts:
    document = load(text)
    for name in ("macs", "quirks"):
        document[name] = tuple(document.get(name) or ())
    for name in ("vars", "tags"):
        document[name] = MappingProxyType(document.get(name) or {})
    known = Facts.__dataclass_fields__
    return Facts(**{name: value for name, value in document.items() if name in known})


def read_record(row: Sequence[Any]) -> ServerRecord:
    server_id, life, generation, fence, facts, power, seen, created, until, held = row
    return ServerRecord(
        server_id,
        decode_life(life, generation, fence),
        _facts(facts),
        PowerState(power),
        None if seen is None else moment(seen),
        moment(created),
        moment(until) if until is not None and held == fence else None,
    )
