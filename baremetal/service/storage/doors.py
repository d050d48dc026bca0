"""Doors: the iSCSI targets by which servers reach their volumes, a door for each of a server's systems.

Owns their names and secrets, which volume is behind which, and that they follow a server whose names change.
Deliberately unknown: when a volume is made or goes (`volumes.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace as replaced
from datetime import datetime
from functools import partial
from typing import Any

from msgspec.structs import replace

from baremetal.errors import Conflict, Invalid, Refused, StorageError, StorageErrorKind, Superseded
from baremetal.lifecycle.model import MAIN, PowerState
from baremetal.lifecycle.windows import booted_run, boots_volume
from baremetal.netboot.san import San
from baremetal.service.recipe import Kitchen
from baremetal.service.servers.enrolment import quirk
from baremetal.service.storage.hosts import Hosts
from baremetal.storage.base import Chap
from baremetal.storage.by_hand import steps
from baremetal.storage.chap import mint
from baremetal.storage.host import Door, Shown
from baremetal.storage.names import check_system, name_values, san_uri, split_portal
from baremetal.storage.settings import StorageSettings
from baremetal.storage.sizes import read_size
from baremetal.store.records import DoorRecord, Facts, ServerRecord, VolumeRecord
from baremetal.store.store import Store


class VolumeDoors:
    """For threads. What a run is served by, what a boot script says, and what an operator restores or does by hand."""

    def __init__(self, store: Store, hosts: Hosts, kitchen: Kitchen, *, now: Callable[[], datetime]) -> None:
        self._store = store
        self._hosts = hosts
        self._kitchen = kitchen
        self._now = now

    # -- for a run --

    def names(
        self, record: ServerRecord, said: StorageSettings, variables: Mapping[str, Any], system: str
    ) -> tuple[str, str]:
        """Name the target and the initiator of a server's system. Raises Invalid."""
        hostname = str(variables.get("hostname") or record.name)
        values = name_values(record.name, hostname, record.facts.macs[0], system)
        return said.naming.target_iqn(values), said.naming.initiator_iqn(values)

    def refuse_shared(self, record: ServerRecord, said: StorageSettings, target: str, system: str) -> None:
        """Refuse a target that another server has, or another system of this one. Raises Conflict, Invalid."""
        owner = self._store.door_owner(said.name, target)
        if owner not in (None, record.id):
            raise Conflict(
                f"the target {target} on {said.name} is another server's already",
                code="BM805",
                server=record.name,
                fix="delete what that server has left (`baremetal volume list`), or name targets otherwise",
            )
        door = self._named(record.id, said.name, target)
        for other, number in record.life.systems:
            volume = system_volume(self._store, record.id, number)
            if other != system and door is not None and volume is not None and door.volume_id == volume.id:
                raise Invalid(
                    f"the target {target} is that of its system {other}",
                    variable="system",
                    server=record.name,
                    fix=f"let the template of targets on {said.name} say {{system}}",
                )

    def of_run(self, record: ServerRecord, names: tuple[str, str, str], volume: VolumeRecord) -> DoorRecord:
        """Return by which names and secret a run's volume is served: what was told to an array holds for every run.

        `names`: the storage host, the target and the initiator.
        """
        storage, target, initiator = names
        said, old = self._hosts.settings(storage), self._named(record.id, storage, target)
        if old is None or old.initiator != initiator:
            return DoorRecord(record.id, *names, volume.id, _secrets(record, said), self._now())
        if old.volume_id == volume.id:
            return old
        secrets = _secrets(record, said) if said.makes else old.secrets
        return DoorRecord(record.id, *names, volume.id, secrets, self._now())

    def new(self, record: ServerRecord, said: StorageSettings, target: str, initiator: str) -> San:
        """Say how a volume would be found that nobody serves yet."""
        door = DoorRecord(record.id, said.name, target, initiator, "", _secrets(record, said), self._now())
        return self._san(record, door, MAIN)

    # -- at boot --

    def san(self, record: ServerRecord) -> San | None:
        """Say how a server finds its volume, and between runs those of its other systems. None where it has none.

        Raises Unavailable, Unknown.
        """
        doors = self._store.doors(record.id)
        if not doors:
            return None
        life, number = record.life, booted_run(record.life)
        behind = {door.volume_id: door for door in reversed(doors)}
        ids = {one.run: one.id for one in self._store.volumes(server_id=record.id) if one.role == "system"}
        door = behind.get(ids.get(number, "-")) if number else self._adopted(record, doors)
        if door is None:
            return None
        systems = life.systems if life.run is None and len(life.systems) > 1 else ()
        sans = {
            run: self._san(record, behind[ids[run]], name) for name, run in systems if ids.get(run) in behind
        }
        others = tuple(san for run, san in sans.items() if run != number)
        return replaced(sans.get(number) or self._san(record, door, MAIN), others=others)

    def _adopted(self, record: ServerRecord, doors: Sequence[DoorRecord]) -> DoorRecord | None:
        """Find the target of a system that was there before us, made by hand: the one that was told for `main`."""
        for door in doors:
            said = self._hosts.settings(door.storage)
            if not door.volume_id and door.target == self.names(record, said, record.facts.vars, MAIN)[0]:
                return door
        return None

    def _san(self, record: ServerRecord, door: DoorRecord, system: str) -> San:
        said = self._hosts.settings(door.storage)
        uri = san_uri(said.portal, said.lun, door.target)
        user, password, mutual_user, mutual_password = door.secrets or ("", "", "", "")
        gateway = split_portal(said.portal)[0] if quirk(record.facts, "san_gateway") else ""
        return San(
            uri, door.initiator, user, password, mutual_user, mutual_password, gateway=gateway, system=system
        )

    # -- a server's own change --

    def follow(self, record: ServerRecord, facts: Facts) -> bool:
        """Serve an active server's volumes by the names that new facts of it make; return whether they are others.

        The new names are written down before they are served, and the old ones until they are withdrawn. Raises Refused
        while the server is not off, for its system lives on a session by the old names; StorageError, Conflict.
        """
        if record.life.run is not None or not boots_volume(record.life):
            return False
        followed = [self._follows(record, facts, system, number) for system, number in record.life.systems]
        return any(followed)

    def _follows(self, record: ServerRecord, facts: Facts, system: str, number: int) -> bool:
        volume = volume_of(self._store, record.id, number)
        door = self._to(volume)
        if door is None or not self._hosts.settings(door.storage).makes:
            return False
        said, host = self._hosts.settings(door.storage), self._hosts.host(door.storage)
        variables = self._kitchen.recipe(self._store, record.id, number).variables
        target, initiator = self.names(replace(record, facts=facts), said, variables, system)
        before = self.names(record, said, variables, system)
        # what was cut off half way has the new names in its row, and may be served by the old ones
        stale = [
            old for old in self._store.doors(record.id) if old.volume_id == volume.id and old.target != target
        ]
        if (target, initiator) == before and not stale:
            return False
        if record.power_state is not PowerState.OFF:
            raise Refused(
                "the names of its volume change with this, and its system lives on the old ones",
                server=record.name,
                seen=f"power {record.power_state}",
                fix=f"power it off first: baremetal power soft-off {record.name}",
            )
        new = replaced(door, target=target, initiator=initiator, at=self._now())
        self._store.save_door(new)
        host.serve(shown(self._store, volume), open_door(new), names_of(self._store, record.id, door.storage))
        for old in stale:
            host.withdraw(old.target, names_of(self._store, record.id, old.storage))
            self._store.drop_door(old)
        return True

    # -- by hand --

    def steps(self, storage: str, server_name: str, size: str, system: str = MAIN) -> list[str]:
        """Say what has to be done by hand on an array for a server's system; its secret is made now, if it has none.

        Raises Unknown, Invalid; Refused for a storage host on which nothing is done by hand.
        """
        record, said = self._store.server(server_name), self._hosts.settings(storage)
        if said.makes:
            raise Refused(
                f"on {said.name} nothing is done by hand: a deploy makes its volume", server=record.name
            )
        target, initiator = self.names(record, said, record.facts.vars, check_system(system))
        door = self._named(record.id, said.name, target)
        if door is None or door.initiator != initiator:
            if door is not None and (record.life.run is not None or boots_volume(record.life)):
                raise Refused(
                    f"it boots from {door.target} as {door.initiator}",
                    server=record.name,
                    fix="release it first",
                )
            secrets = _secrets(record, said)
            door = DoorRecord(record.id, said.name, target, initiator, "", secrets, self._now())
            self._store.save_door(door)
        return steps(said, open_door(door), read_size(size) if size else 0)

    def restore(self, storage: str, by: str) -> dict[str, Any]:
        """Serve every volume again that a storage host has ceased to serve: tgt forgets all when it restarts (S4-11).

        Returns the servers that are `served` again, and those that `failed` with what stood in the way: one server's
        trouble is its own. Changes no volume. Raises Unknown, StorageError where nothing can be asked at all.
        """
        host = self._hosts.host(self._hosts.settings(storage).name)
        there = host.portal.targets()
        served, failed = [], {}
        for record, door, volume in self._behind(host.name):
            wanted = host.target(shown(self._store, volume), open_door(door))
            if host.portal.agrees(there.get(door.target), wanted):
                continue
            try:
                known = names_of(self._store, record.id, host.name)
                host.serve(shown(self._store, volume), open_door(door), known, partial(self._still, door))
            except (StorageError, Superseded) as error:
                failed[record.name] = str(error)
                continue
            self._store.note_volume(volume, f"{volume.name} served again", self._now(), by)
            served.append(record.name)
        return {"served": served, "failed": failed}

    def _still(self, door: DoorRecord) -> None:
        """Raise Superseded where a run has begun on the server meanwhile, or its target is another now."""
        record = self._store.find_server(door.server_id)
        if record is None or record.life.run is not None or door not in self._store.doors(record.id):
            raise Superseded("the server has moved on meanwhile")

    def missing(self, storage: str) -> list[str]:
        """Name the servers whose volume a storage host does not serve as it should. Reads only. Raises StorageError."""
        host = self._hosts.host(storage)
        there = host.portal.targets()
        lost = []
        for record, door, volume in self._behind(storage):
            wanted = host.target(shown(self._store, volume), open_door(door))
            if not host.portal.agrees(there.get(door.target), wanted):
                lost.append(record.name)
        return lost

    def _behind(self, storage: str) -> Iterator[tuple[ServerRecord, DoorRecord, VolumeRecord]]:
        """Give each whole volume of a server on a storage host, with the target that it is behind."""
        behind = {door.volume_id: door for door in reversed(self._store.doors())}
        servers = {record.id: record for record in self._store.servers()}
        for volume in self._store.volumes():
            door, record = behind.get(volume.id), servers.get(volume.server_id)
            if volume.storage == storage and volume.ready and door is not None and record is not None:
                yield record, door, volume

    # -- inside --

    def _named(self, server_id: str, storage: str, target: str) -> DoorRecord | None:
        known = self._store.doors(server_id)
        return next((door for door in known if (door.storage, door.target) == (storage, target)), None)

    def _to(self, volume: VolumeRecord) -> DoorRecord | None:
        known = self._store.doors(volume.server_id)
        return next((door for door in known if door.volume_id == volume.id), None)


def shown(store: Store, volume: VolumeRecord) -> Shown:
    """Return what the target of a system's volume shows: that, its seed, and the data disks that its run has made."""
    known = store.volumes(server_id=volume.server_id)
    data = sorted(one.name for one in known if one.role == "data" and one.run == volume.run)
    return Shown(volume.name, bool(volume.origin), tuple(data))


def volume_of(store: Store, server_id: str, run: int) -> VolumeRecord:
    """Return the volume that a run has made for its server's system. Raises StorageError."""
    found = system_volume(store, server_id, run)
    if found is None:
        raise StorageError(
            f"the volume of run {run} is not known any more", StorageErrorKind.MISSING, fix="deploy it again"
        )
    return found


def system_volume(store: Store, server_id: str, run: int) -> VolumeRecord | None:
    """Return the volume that a run has made for its server's system."""
    known = store.volumes(server_id=server_id)
    return next((one for one in known if one.run == run and one.role == "system"), None)


def names_of(store: Store, server_id: str, storage: str) -> list[str]:
    """Name the volumes of a server on one storage host: its targets may have shown any of them."""
    return [one.name for one in store.volumes(server_id=server_id) if one.storage == storage]


def _secrets(record: ServerRecord, said: StorageSettings) -> tuple[str, ...]:
    if not said.chap:
        return ()
    chap = mint(record.name, mutual=said.mutual_chap)
    return chap.user, chap.password, chap.mutual_user, chap.mutual_password


def open_door(door: DoorRecord) -> Door:
    return Door(door.target, door.initiator, Chap(*door.secrets) if door.secrets else None)
