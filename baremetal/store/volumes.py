"""Volumes, the iSCSI targets they are served by, and the storage hosts that were added by command.

A row of a volume is written before the volume is made and deleted after it is gone, so that nothing of ours can stand
on a storage host unknown to us. Deliberately unknown: how a volume is made, and when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from baremetal.errors import Conflict, Unknown
from baremetal.store.codec import dump, load
from baremetal.store.connection import Prepared
from baremetal.store.history import audit
from baremetal.store.part import Part
from baremetal.store.records import DoorRecord, VolumeRecord
from baremetal.store.tables import DOORS, STORAGE_HOSTS, VOLUMES, micros, moment

_V = VOLUMES.c
_D = DOORS.c
_COLUMNS = [column.name for column in VOLUMES.c]
_VOLUMES = select(VOLUMES).order_by(_V.storage, _V.role, _V.name)
_ALL = Prepared(_VOLUMES)
_OF_SERVER = Prepared(_VOLUMES.where(_V.server_id == bindparam("ref")))
_NAMED = Prepared(
    select(VOLUMES).where(_V.storage == bindparam("the_storage"), _V.name == bindparam("the_name"))
)
_ADD = Prepared(insert(VOLUMES), _COLUMNS)
_STANDS = Prepared(update(VOLUMES).where(_V.id == bindparam("ref")), ("ready", "size"))
_GONE = Prepared(delete(VOLUMES).where(_V.id == bindparam("ref")))
_EVERY_DOOR = select(
    _D.server_id, _D.storage, _D.target, _D.initiator, _D.volume_id, _D.sealed, _D.at
).order_by(_D.at.desc())
_NAMED_DOOR = (_D.storage == bindparam("the_storage")) & (_D.target == bindparam("the_target"))
_OWNER = Prepared(select(_D.server_id).where(_NAMED_DOOR))
_ADD_DOOR = Prepared(insert(DOORS), [column.name for column in DOORS.c])
_SET_DOOR = Prepared(update(DOORS).where(_NAMED_DOOR), ("initiator", "volume_id", "sealed", "at"))
_DROP_DOOR = Prepared(delete(DOORS).where(_NAMED_DOOR & (_D.server_id == bindparam("the_server"))))
_DOORS = Prepared(_EVERY_DOOR.where(_D.server_id == bindparam("ref")))


class Volumes(Part):
    """What stands on the storage hosts."""

    # -- storage hosts --

    def storage_hosts(self) -> dict[str, Mapping[str, Any]]:
        """Return the facts of every storage host that was added, by name."""
        with self._db.read() as connection:
            rows = connection.execute(select(STORAGE_HOSTS).order_by(STORAGE_HOSTS.c.name)).all()
        return {row.name: load(row.facts) for row in rows}

    def add_storage_host(self, name: str, facts: Mapping[str, Any], at: datetime, by: str) -> None:
        """Raises Conflict where the name is taken."""
        try:
            with self._db.write() as connection:
                row = {"name": name, "facts": dump(dict(facts)), "created_at": micros(at)}
                connection.execute(insert(STORAGE_HOSTS), row)
                audit(connection, at, "", "", f"storage host {name!r} added", by=by)
        except IntegrityError as error:
            raise Conflict(
                f"there is a storage host {name!r} already", fix="remove it first, or take another name"
            ) from error

    def remove_storage_host(self, name: str, at: datetime, by: str) -> None:
        """Forget a storage host. Nothing is changed there. Raises Unknown; Conflict while volumes of ours are there."""
        with self._db.write() as connection:
            if connection.execute(select(_V.name).where(_V.storage == name).limit(1)).first() is not None:
                raise Conflict(
                    f"the storage host {name!r} keeps volumes",
                    code="BM807",
                    fix="release its servers and delete its golden images first",
                )
            if connection.execute(delete(STORAGE_HOSTS).where(STORAGE_HOSTS.c.name == name)).rowcount != 1:
                raise Unknown(f"no storage host {name!r} was added", code="BM809")
            audit(connection, at, "", "", f"storage host {name!r} removed", by=by)

    # -- volumes --

    def volumes(self, *, server_id: str | None = None) -> list[VolumeRecord]:
        """Return every volume, or those of one server; by storage host, role and name."""
        with self._db.read() as connection:
            asked = (
                _ALL.run(connection, {})
                if server_id is None
                else _OF_SERVER.run(connection, {"ref": server_id})
            )
            return [_volume(row) for row in asked.fetchall()]

    def want_volume(self, wanted: VolumeRecord) -> VolumeRecord:
        """Write down that a volume is to be made, and return it as it is written: an earlier row stands.

        Raises Conflict where the name belongs to another server or role.
        """
        named = {"the_storage": wanted.storage, "the_name": wanted.name}
        with self._db.write() as connection:
            row = _NAMED.run(connection, named).fetchone()
            if row is None:
                _ADD.run(
                    connection,
                    {
                        "id": wanted.id,
                        "storage": wanted.storage,
                        "name": wanted.name,
                        "role": wanted.role,
                        "server_id": wanted.server_id,
                        "run": wanted.run,
                        "size": wanted.size,
                        "origin": wanted.origin,
                        "ready": wanted.ready,
                        "created_at": micros(wanted.created_at),
                    },
                )
                return wanted
        found = _volume(row)
        if (found.role, found.server_id, found.run) != (wanted.role, wanted.server_id, wanted.run):
            raise Conflict(f"there is a volume {wanted.name!r} on {wanted.storage} already", code="BM805")
        return found

    def volume_stands(self, volume_id: str, size: int) -> None:
        """Note that a volume was seen standing whole, and how large it is."""
        with self._db.write() as connection:
            _STANDS.run(connection, {"ref": volume_id, "ready": True, "size": size})

    def volume_gone(self, volume_id: str) -> None:
        """Forget a volume that stands no more. Idempotent."""
        with self._db.write() as connection:
            _GONE.run(connection, {"ref": volume_id})

    def note_volume(self, volume: VolumeRecord, note: str, at: datetime, by: str) -> None:
        """Write into the history what an operator had done to a volume."""
        with self._db.write() as connection:
            audit(connection, at, volume.server_id, "", f"{note} on {volume.storage}", by=by)

    # -- doors --

    def doors(self, server_id: str | None = None) -> list[DoorRecord]:
        """Return every target that may be served, or those of one server; the newest first."""
        with self._db.read() as connection:
            if server_id is None:
                rows = connection.execute(_EVERY_DOOR).fetchall()
            else:
                rows = _DOORS.run(connection, {"ref": server_id}).fetchall()
        return [
            DoorRecord(server, storage, target, initiator, volume, self._opened(sealed), moment(at))
            for server, storage, target, initiator, volume, sealed, at in rows
        ]

    def door_owner(self, storage: str, target: str) -> str | None:
        """Return the id of the server that a target is written down for; that one may be forgotten."""
        with self._db.read() as connection:
            row = _OWNER.run(connection, {"the_storage": storage, "the_target": target}).fetchone()
        return None if row is None else str(row[0])

    def _opened(self, sealed: str) -> tuple[str, ...]:
        return tuple(load(self._secrets.open(sealed)))

    def save_door(self, door: DoorRecord) -> None:
        """Write a server's target down, in place of an earlier form of it. Raises Conflict where it is another's."""
        named = {"the_storage": door.storage, "the_target": door.target}
        row = {
            "initiator": door.initiator,
            "volume_id": door.volume_id,
            "sealed": self._secrets.seal(dump(list(door.secrets))),
            "at": micros(door.at),
        }
        with self._db.write() as connection:
            owner = _OWNER.run(connection, named).fetchone()
            if owner is None:
                place = {"storage": door.storage, "target": door.target, "server_id": door.server_id}
                _ADD_DOOR.run(connection, place | row)
            elif owner[0] == door.server_id:
                _SET_DOOR.run(connection, named | row)
            else:
                raise Conflict(
                    f"the target {door.target} on {door.storage} is another server's already",
                    code="BM805",
                    fix="delete what that server has left (`baremetal volume list`), or name targets otherwise",
                )

    def drop_door(self, door: DoorRecord) -> None:
        """Forget a target that is served no more. Idempotent."""
        named = {
            "the_storage": door.storage,
            "the_target": door.target,
            "the_server": door.server_id,
        }
        with self._db.write() as connection:
            _DROP_DOOR.run(connection, named)

    def reseal_doors(self) -> int:
        """Seal every CHAP secret with the newest key; returns how many. One transaction."""
        with self._db.write(long=True) as connection:
            rows = connection.execute(select(_D.storage, _D.target, _D.sealed)).all()
            for row in rows:
                named = (_D.storage == row.storage) & (_D.target == row.target)
                connection.execute(update(DOORS).where(named).values(sealed=self._secrets.reseal(row.sealed)))
        return len(rows)


def _volume(row: Sequence[Any]) -> VolumeRecord:
    known = dict(zip(_COLUMNS, row, strict=True))
    known["ready"], known["created_at"] = bool(known["ready"]), moment(known["created_at"])
    return VolumeRecord(**known)
