"""The volumes of servers, made when a run is owed one and removed when it is owed that: the engine's third seam.

Owns what a run freezes about its volume, the rows that are written before a storage host is touched, and the names by
which a server's target is served. Deliberately unknown: when a volume is wanted (`lifecycle`), and how one is made
(`storage`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_door
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any

from msgspec.structs import replace

from baremetal.errors import Conflict, Invalid, Refused, StorageError, StorageErrorKind, Superseded
from baremetal.lifecycle.model import BootTarget, Method, PowerState, Run
from baremetal.lifecycle.windows import boots_volume
from baremetal.netboot.profile import Family
from baremetal.netboot.san import San
from baremetal.service.profiles import Offer
from baremetal.service.recipe import Kitchen, Recipe
from baremetal.service.storage.hosts import Hosts
from baremetal.storage.base import Chap, Tag
from baremetal.storage.by_hand import steps
from baremetal.storage.chap import mint
from baremetal.storage.host import Door, Permit, Wanted
from baremetal.storage.names import name_values, san_uri, volume_name
from baremetal.storage.seed import make_seed
from baremetal.storage.settings import StorageSettings
from baremetal.storage.sizes import read_size
from baremetal.store.records import DoorRecord, Facts, ServerRecord, VolumeRecord
from baremetal.store.store import Store

SYSTEM = "main"
_ONTO_VOLUMES = (Family.KICKSTART, Family.PRESEED, Family.AUTOYAST)


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """What a run freezes about its volume: where, how large, and by which names it is served.

    `golden`: the id of the image that it is a clone of, "" for an empty one; `image` is what people call that.
    """

    storage: str
    size: int
    target: str
    initiator: str
    lun: int
    golden: str = ""
    image: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Volumes:
    """See `engine.perform.Volumes`."""

    def __init__(
        self,
        store: Store,
        hosts: Hosts,
        kitchen: Kitchen,
        *,
        base_for: Callable[[str], str],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._kitchen = kitchen
        self._base_for = base_for
        self._now = now

    # -- before a run --

    def plan(
        self, record: ServerRecord, offer: Offer, method: Method, variables: Mapping[str, Any]
    ) -> VolumePlan:
        """Decide which volume a run would make, of what. Raises Invalid, Unknown."""
        said = self._hosts.settings(str(variables.get("storage") or offer.storage))
        names = (*self._door_names(record, said, variables), said.lun)
        owner = self._store.door_owner(said.name, names[0])
        if owner not in (None, record.id):
            raise Conflict(
                f"the target {names[0]} on {said.name} is another server's already",
                code="BM805",
                server=record.name,
                fix="delete what that server has left (`baremetal volume list`), or name targets otherwise",
            )
        asked = str(variables.get("volume_size") or offer.volume_size)
        size = read_size(asked) if asked else 0
        if method is not Method.CLONE:
            if offer.profile.family not in _ONTO_VOLUMES:
                raise Invalid(
                    f"profile {offer.name}: {offer.profile.family} is not installed onto volumes yet",
                    variable="boot_target",
                    server=record.name,
                    fix="install it on a disk, or make a golden image of it and deploy clones",
                )
            if not size and said.makes:
                raise Invalid(
                    f"profile {offer.name}: how large is its volume to be?",
                    variable="volume_size",
                    server=record.name,
                    fix="give --var volume_size=20G, or set it in the profile",
                )
            return VolumePlan(said.name, size, *names)
        if not said.makes:
            raise Invalid(
                f"the volumes of {said.name} are made by hand, so nobody clones them",
                variable="storage",
                server=record.name,
                fix="name another storage host, or install onto the volume",
            )
        golden = self.golden(said.name, str(variables.get("golden") or offer.golden or offer.name))
        return VolumePlan(
            said.name, max(size, golden.size), *names, golden.id, golden.name.removeprefix("golden-")
        )

    def golden(self, storage: str, name: str) -> VolumeRecord:
        """Find a golden image. Raises Invalid BM810."""
        known = [one for one in self._store.volumes() if one.role == "golden" and one.storage == storage]
        found = next((one for one in known if one.name == golden_name(name) and one.ready), None)
        if found is None:
            names = ", ".join(one.name.removeprefix("golden-") for one in known if one.ready) or "none"
            raise Invalid(
                f"no golden image {name[:64]!r} on {storage}",
                code="BM810",
                variable="golden",
                seen=f"there are {names}",
                fix=f"baremetal volume import {name} FILE",
            )
        return found

    def foreseen(self, record: ServerRecord, recipe: Recipe) -> San | None:
        """Say how the server would find the volume of a recipe, None where it has none; the secret is masked.

        For what people are shown: the real secret is made when the volume is served. Raises Unknown.
        """
        if not recipe.volume:
            return None
        plan = VolumePlan(**recipe.volume)
        said = self._hosts.settings(plan.storage)
        uri = san_uri(said.portal, plan.lun, plan.target)
        return San(uri, plan.initiator, *(self._secrets(record, said) or ("", "", "", ""))).masked()

    # -- owed by a run --

    def make(self, record: ServerRecord, run: Run, permit: Permit) -> str:
        """Have this run's volume stand whole; nobody sees it yet. Idempotent. Raises StorageError, Conflict."""
        recipe = self._kitchen.recipe(self._store, record.id, run.number)
        plan = VolumePlan(**recipe.volume)
        said = self._hosts.settings(plan.storage)
        permit()
        volume = self._store.want_volume(
            VolumeRecord(
                id=uuid.uuid4().hex,
                storage=plan.storage,
                name=volume_name(record.name, record.id, run.number),
                role="system",
                size=plan.size,
                created_at=self._now(),
                server_id=record.id,
                run=run.number,
                origin=plan.golden,
            )
        )
        what = "made by hand"
        if said.makes:
            host, origin = self._hosts.host(plan.storage), self._origin(plan)
            seed = self._seed(record, run, recipe) if origin else None
            host.make(Wanted(volume.name, tag_of(volume), plan.size, origin, seed), permit)
            what = f"a clone by {host.keeper.snapshots}" if origin else "empty"
        self._store.volume_stands(volume.id, plan.size)
        return f"{volume.name} on {plan.storage}, {what}"

    def serve(self, record: ServerRecord, run: Run, permit: Permit) -> str:
        """Have the server's target show this run's volume. Idempotent. Raises StorageError, Conflict."""
        plan = VolumePlan(**self._kitchen.recipe(self._store, record.id, run.number).volume)
        said = self._hosts.settings(plan.storage)
        volume = self._volume_of(record.id, run.number)
        permit()
        door = self._door_of_run(record, plan, said, volume)
        self._store.save_door(door)
        if said.makes:
            host = self._hosts.host(plan.storage)
            known = self._names(record, plan.storage)
            host.serve(volume.name, bool(volume.origin), _door(door), known, permit)
        return f"as {door.target} to {door.initiator}"

    def remove(self, record: ServerRecord, run: Run, permit: Permit, *, earlier: bool) -> str:
        """Have no volume of this server stand, or none but this run's; targets likewise. Idempotent.

        Raises StorageError.
        """
        stays = run.number if earlier and run.target is BootTarget.ISCSI else None
        all_of_it = [one for one in self._store.volumes(server_id=record.id) if one.role == "system"]
        going = [one for one in all_of_it if one.run != stays]
        doors = self._store.doors(record.id)
        permit()
        for door in doors[1:] if stays is not None else doors:
            if self._hosts.settings(door.storage).makes:
                known = [one.name for one in all_of_it if one.storage == door.storage]
                self._hosts.host(door.storage).withdraw(door.target, known, permit)
            self._store.drop_door(door)
        for storage, some in groupby(sorted(going, key=lambda one: one.storage), lambda one: one.storage):
            volumes = list(some)
            if self._hosts.settings(storage).makes:
                self._hosts.host(storage).drop([(one.name, tag_of(one)) for one in volumes], permit)
            self._forget(volumes)
        return "gone" if stays is None else f"only {volume_name(record.name, record.id, stays)} is left"

    # -- a server's own change --

    def follow(self, record: ServerRecord, facts: Facts) -> bool:
        """Serve an active server's volume by the names that new facts of it make; return whether they are others.

        The new names are written down before they are served, and the old ones until they are withdrawn. Raises Refused
        while the server is not off, for its system lives on a session by the old names; StorageError, Conflict.
        """
        door = self._store.door(record.id)
        if door is None or record.life.run is not None or not boots_volume(record.life):
            return False
        if not self._hosts.settings(door.storage).makes:
            return False
        said, host = self._hosts.settings(door.storage), self._hosts.host(door.storage)
        variables = self._kitchen.recipe(self._store, record.id, record.life.deployed).variables
        target, initiator = self._door_names(replace(record, facts=facts), said, variables)
        if (target, initiator) == (door.target, door.initiator):
            return False
        if record.power_state is not PowerState.OFF:
            raise Refused(
                "the names of its volume change with this, and its system lives on the old ones",
                server=record.name,
                seen=f"power {record.power_state}",
                fix=f"power it off first: baremetal power soft-off {record.name}",
            )
        volume = self._volume_of(record.id, record.life.deployed)
        new = replace_door(door, target=target, initiator=initiator, at=self._now())
        self._store.save_door(new)
        host.serve(volume.name, bool(volume.origin), _door(new), self._names(record, door.storage))
        if target != door.target:
            host.withdraw(door.target, self._names(record, door.storage))
            self._store.drop_door(door)
        return True

    # -- by hand --

    def steps(self, storage: str, server_name: str, size: str) -> list[str]:
        """Say what has to be done by hand on an array for one server; its secret is made now, if it has none.

        Raises Unknown, Invalid; Refused for a storage host on which nothing is done by hand.
        """
        record, said = self._store.server(server_name), self._hosts.settings(storage)
        if said.makes:
            raise Refused(
                f"on {said.name} nothing is done by hand: a deploy makes its volume", server=record.name
            )
        target, initiator = self._door_names(record, said, record.facts.vars)
        door = self._store.door(record.id)
        if door is None or (door.storage, door.target, door.initiator) != (said.name, target, initiator):
            if door is not None and (record.life.run is not None or boots_volume(record.life)):
                raise Refused(
                    f"it boots from {door.storage} by other names", server=record.name, fix="release it first"
                )
            secrets = self._secrets(record, said)
            door = DoorRecord(record.id, said.name, target, initiator, "", secrets, self._now())
            self._store.save_door(door)
        return steps(said, _door(door), read_size(size) if size else 0)

    def restore(self, storage: str, by: str) -> dict[str, Any]:
        """Serve every volume again that a storage host has ceased to serve: tgt forgets all when it restarts (S4-11).

        Returns the servers that are `served` again, and those that `failed` with what stood in the way: one server's
        trouble is its own. Changes no volume. Raises Unknown, StorageError where nothing can be asked at all.
        """
        host = self._hosts.host(self._hosts.settings(storage).name)
        there = host.portal.targets()
        served, failed = [], {}
        for record, door, volume in self._doors(host.name):
            wanted = host.target(volume.name, bool(volume.origin), _door(door))
            if host.portal.agrees(there.get(door.target), wanted):
                continue
            try:
                known = self._names(record, host.name)
                host.serve(volume.name, bool(volume.origin), _door(door), known, partial(self._still, door))
            except (StorageError, Superseded) as error:
                failed[record.name] = str(error)
                continue
            self._store.note_volume(volume, f"{volume.name} served again", self._now(), by)
            served.append(record.name)
        return {"served": served, "failed": failed}

    def _still(self, door: DoorRecord) -> None:
        """Raise Superseded where a run has begun on the server meanwhile, or its target is another now."""
        record = self._store.find_server(door.server_id)
        if record is None or record.life.run is not None or self._store.door(door.server_id) != door:
            raise Superseded("the server has moved on meanwhile")

    def missing(self, storage: str) -> list[str]:
        """Name the servers whose volume a storage host does not serve as it should. Reads only. Raises StorageError."""
        host = self._hosts.host(storage)
        there = host.portal.targets()
        lost = []
        for record, door, volume in self._doors(storage):
            wanted = host.target(volume.name, bool(volume.origin), _door(door))
            if not host.portal.agrees(there.get(door.target), wanted):
                lost.append(record.name)
        return lost

    def _doors(self, storage: str) -> Iterator[tuple[ServerRecord, DoorRecord, VolumeRecord]]:
        """Give each server with the target and the whole volume that it has on a storage host."""
        for volume in self._store.volumes():
            if volume.storage != storage or not volume.server_id or not volume.ready:
                continue
            door, record = self._store.door(volume.server_id), self._store.find_server(volume.server_id)
            if door is not None and record is not None and door.volume_id == volume.id:
                yield record, door, volume

    # -- at boot --

    def san(self, server_id: str) -> San | None:
        """Say how a server finds its volume, None where it has none. Raises Unavailable, Unknown."""
        door = self._store.door(server_id)
        if door is None:
            return None
        said = self._hosts.settings(door.storage)
        uri = san_uri(said.portal, said.lun, door.target)
        return San(uri, door.initiator, *(door.secrets or ("", "", "", "")))

    # -- inside --

    def _door_of_run(
        self, record: ServerRecord, plan: VolumePlan, said: StorageSettings, volume: VolumeRecord
    ) -> DoorRecord:
        """Return by which names and secret a run's volume is served: what was told to an array holds for every run."""
        old = self._store.door(record.id)
        names = (said.name, plan.target, plan.initiator)
        same = old is not None and (old.storage, old.target, old.initiator) == names
        keeps = same and (not said.makes or (old is not None and old.volume_id == volume.id))
        secrets = old.secrets if old is not None and keeps else self._secrets(record, said)
        at = old.at if old is not None and same and old.volume_id == volume.id else self._now()
        return DoorRecord(record.id, *names, volume.id, secrets, at)

    def _volume_of(self, server_id: str, run: int) -> VolumeRecord:
        found = system_volume(self._store, server_id, run)
        if found is None:
            raise StorageError(
                f"the volume of run {run} is not known any more",
                StorageErrorKind.MISSING,
                fix="deploy it again",
            )
        return found

    def _secrets(self, record: ServerRecord, said: StorageSettings) -> tuple[str, ...]:
        if not said.chap:
            return ()
        chap = mint(record.name, mutual=said.mutual_chap)
        return chap.user, chap.password, chap.mutual_user, chap.mutual_password

    def _names(self, record: ServerRecord, storage: str) -> list[str]:
        return [one.name for one in self._store.volumes(server_id=record.id) if one.storage == storage]

    def _door_names(
        self, record: ServerRecord, said: StorageSettings, variables: Mapping[str, Any]
    ) -> tuple[str, str]:
        """Name a server's target and initiator. Raises Invalid."""
        hostname = str(variables.get("hostname") or record.name)
        values = name_values(record.name, hostname, record.facts.macs[0], SYSTEM)
        return said.naming.target_iqn(values), said.naming.initiator_iqn(values)

    def _origin(self, plan: VolumePlan) -> str | None:
        if not plan.golden:
            return None
        for one in self._store.volumes():
            if one.id == plan.golden:
                return one.name
        raise StorageError(
            "the golden image of this run is gone", StorageErrorKind.MISSING, fix="deploy with another one"
        )

    def _seed(self, record: ServerRecord, run: Run, recipe: Recipe) -> bytes:
        """Render what the clone's first boot reads (cloud-init's NoCloud)."""
        base = self._base_for(record.facts.ip)
        files = {
            name: self._kitchen.answer(recipe, record.id, run.number, name, base).encode()
            for name in recipe.profile.answer_files
        }
        return make_seed(files, run.started)

    def _forget(self, volumes: list[VolumeRecord]) -> None:
        for one in volumes:
            self._store.volume_gone(one.id)


def _door(door: DoorRecord) -> Door:
    return Door(door.target, door.initiator, Chap(*door.secrets) if door.secrets else None)


def system_volume(store: Store, server_id: str, run: int) -> VolumeRecord | None:
    """Return the volume that a run has made for its server's system."""
    known = store.volumes(server_id=server_id)
    return next((one for one in known if one.run == run and one.role == "system"), None)


def golden_name(name: str) -> str:
    """Name a golden image as the storage host has it."""
    return f"golden-{name}"


def tag_of(volume: VolumeRecord) -> Tag:
    """Return the tag that a volume carries on its storage host."""
    return Tag(volume.id, volume.server_id, volume.run)
