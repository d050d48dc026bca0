"""The volumes of servers, made when a run is owed one and removed when it is owed that: the engine's third seam.

Owns what a run freezes about its volume, the rows that are written before a storage host is touched, and the names by
which a server's target is served. Deliberately unknown: when a volume is wanted (`lifecycle`), and how one is made
(`storage`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from baremetal.errors import Invalid, StorageError, StorageErrorKind
from baremetal.lifecycle.model import MAIN, Method, Run
from baremetal.lifecycle.moves import kept_volumes
from baremetal.netboot.profile import Family
from baremetal.netboot.san import San
from baremetal.service.profiles import Offer
from baremetal.service.recipe import Kitchen, Recipe
from baremetal.service.storage.doors import VolumeDoors, names_of, open_door, shown, volume_of
from baremetal.service.storage.hosts import Hosts
from baremetal.storage.base import Tag
from baremetal.storage.host import Permit, Wanted
from baremetal.storage.names import check_volume_name, volume_name
from baremetal.storage.seed import make_seed
from baremetal.storage.settings import StorageSettings
from baremetal.storage.sizes import read_size
from baremetal.store.records import ServerRecord, VolumeRecord
from baremetal.store.store import Store

MOST_DATA = 8
_ONTO_VOLUMES = (Family.KICKSTART, Family.PRESEED, Family.AUTOYAST)


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """What a run freezes about its volume: where, how large, and by which names it is served.

    `golden`: the id of the image that it is a clone of, "" for an empty one; `image` is what people call that. `data`:
    its data disks in the order of their LUNs, each with `name`, `size` and `golden`.
    """

    storage: str
    size: int
    target: str
    initiator: str
    lun: int
    golden: str = ""
    image: str = ""
    data: Sequence[Mapping[str, Any]] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"data": [dict(disk) for disk in self.data]}


class Volumes:
    """See `engine.perform.Volumes`."""

    def __init__(
        self,
        store: Store,
        hosts: Hosts,
        kitchen: Kitchen,
        doors: VolumeDoors,
        *,
        base_for: Callable[[str], str],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._kitchen = kitchen
        self._doors = doors
        self._base_for = base_for
        self._now = now

    # -- before a run --

    def plan(
        self,
        record: ServerRecord,
        offer: Offer,
        method: Method,
        variables: Mapping[str, Any],
        system: str = MAIN,
    ) -> VolumePlan:
        """Decide which volume a run would make for a system, of what. Raises Invalid, Unknown, Conflict."""
        said = self._hosts.settings(str(variables.get("storage") or offer.storage))
        names = (*self._doors.names(record, said, variables, system), said.lun)
        self._doors.refuse_shared(record, said, names[0], system)
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
            return VolumePlan(said.name, size, *names, data=self._data(said, offer, variables))
        if not said.makes:
            raise Invalid(
                f"the volumes of {said.name} are made by hand, so nobody clones them",
                variable="storage",
                server=record.name,
                fix="name another storage host, or install onto the volume",
            )
        golden = self.golden(said.name, str(variables.get("golden") or offer.golden or offer.name))
        of = (golden.id, golden.name.removeprefix("golden-"))
        data = self._data(said, offer, variables)
        return VolumePlan(said.name, max(size, golden.size), *names, *of, data)

    def golden(self, storage: str, name: str) -> VolumeRecord:
        """Find a golden image: the newest version of it, unless `name` says which. Raises Invalid BM810."""
        known = [one for one in self._store.volumes() if one.role == "golden" and one.storage == storage]
        found = max(
            (one for one in known if one.ready), key=lambda one: version_of(one.name, name), default=None
        )
        if found is None or not version_of(found.name, name):
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
        return self._doors.new(record, said, plan.target, plan.initiator).masked()

    # -- owed by a run --

    def make(self, record: ServerRecord, run: Run, permit: Permit) -> str:
        """Have this run's volume stand whole; nobody sees it yet. Idempotent. Raises StorageError, Conflict."""
        recipe = self._kitchen.recipe(self._store, record.id, run.number)
        plan = VolumePlan(**recipe.volume)
        seed = self._seed(record, run, recipe) if plan.golden else None
        name = volume_name(record.name, record.id, run.number)
        what = self._make(record, run, plan.storage, ("system", name, plan.size, plan.golden), seed, permit)
        for at, disk in enumerate(plan.data, 1):
            name = volume_name(record.name, record.id, run.number, at)
            wanted = ("data", name, disk["size"], disk["golden"])
            what += f"; data disk {self._make(record, run, plan.storage, wanted, None, permit)}"
        return what

    def serve(self, record: ServerRecord, run: Run, permit: Permit) -> str:
        """Have the server's target show this run's volume. Idempotent. Raises StorageError, Conflict."""
        plan = VolumePlan(**self._kitchen.recipe(self._store, record.id, run.number).volume)
        said = self._hosts.settings(plan.storage)
        volume = volume_of(self._store, record.id, run.number)
        permit()
        door = self._doors.of_run(record, (said.name, plan.target, plan.initiator), volume)
        self._store.save_door(door)
        if said.makes:
            host = self._hosts.host(plan.storage)
            known = names_of(self._store, record.id, plan.storage)
            host.serve(shown(self._store, volume), open_door(door), known, permit)
        return f"as {door.target} to {door.initiator}"

    def remove(self, record: ServerRecord, run: Run, permit: Permit, *, earlier: bool) -> str:
        """Have no volume of this server stand, or none but those that outlast this run; targets likewise. Idempotent.

        Raises StorageError.
        """
        stay = kept_volumes(record.life) if earlier else frozenset()
        all_of_it = self._store.volumes(server_id=record.id)
        going = [one for one in all_of_it if one.run not in stay]
        doors = self._store.doors(record.id)
        if stay:  # a target of which somebody was told, and which no run has used yet, is nobody's past
            used = {one.id for one in all_of_it if one.run in stay} | {""}
            doors = [door for door in doors if door.volume_id not in used]
        permit()
        for door in doors:
            if self._hosts.settings(door.storage).makes:
                known = [one.name for one in all_of_it if one.storage == door.storage]
                self._hosts.host(door.storage).withdraw(door.target, known, permit)
            self._store.drop_door(door)
        for storage, some in groupby(sorted(going, key=lambda one: one.storage), lambda one: one.storage):
            volumes = list(some)
            if self._hosts.settings(storage).makes:
                self._hosts.host(storage).drop([(one.name, tag_of(one)) for one in volumes], permit)
            self._forget(volumes)
        left = ", ".join(volume_name(record.name, record.id, number) for number in sorted(stay))
        return f"only {left} left" if stay else "gone"

    # -- inside --

    def _make(
        self,
        record: ServerRecord,
        run: Run,
        storage: str,
        wanted: tuple[str, str, int, str],
        seed: bytes | None,
        permit: Permit,
    ) -> str:
        """Have one volume of a run stand, once its row is written. `wanted`: its role, name, size and golden image."""
        role, name, size, golden = wanted
        permit()
        volume = self._store.want_volume(
            VolumeRecord(
                id=uuid.uuid4().hex,
                storage=storage,
                name=name,
                role=role,
                size=size,
                created_at=self._now(),
                server_id=record.id,
                run=run.number,
                origin=golden,
            )
        )
        what = "made by hand"
        if self._hosts.settings(storage).makes:
            host, origin = self._hosts.host(storage), self._origin(golden)
            host.make(Wanted(name, tag_of(volume), size, origin, seed), permit)
            what = f"a clone by {host.keeper.snapshots}" if origin else "empty"
        self._store.volume_stands(volume.id, size)
        return f"{name} on {storage}, {what}"

    def _data(
        self, said: StorageSettings, offer: Offer, variables: Mapping[str, Any]
    ) -> list[Mapping[str, Any]]:
        """Read which data disks a system is to have (S4-7): `NAME`, a clone of that golden image, or `NAME:SIZE`."""
        text = str(variables.get("data_disks") or offer.data_disks)
        words = [word.strip() for word in text.split(",") if word.strip()]
        if words and not said.makes:
            raise Invalid(
                f"the volumes of {said.name} are made by hand, data disks too",
                variable="data_disks",
                fix="map them there as further LUNs",
            )
        if len(words) > MOST_DATA:
            raise Invalid(f"{len(words)} data disks are more than {MOST_DATA}", variable="data_disks")
        disks: list[Mapping[str, Any]] = []
        for word in words:
            name, colon, size = word.partition(":")
            check_volume_name(name)
            if colon:
                disks.append({"name": name, "size": read_size(size), "golden": ""})
            else:
                golden = self.golden(said.name, name)
                disks.append({"name": name, "size": golden.size, "golden": golden.id})
        if len({disk["name"] for disk in disks}) < len(disks):
            raise Invalid("two data disks have the same name", variable="data_disks")
        return disks

    def _origin(self, golden: str) -> str | None:
        if not golden:
            return None
        for one in self._store.volumes():
            if one.id == golden:
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


def golden_name(name: str) -> str:
    """Name a golden image as the storage host has it."""
    return f"golden-{name}"


def version_of(volume: str, name: str) -> int:
    """Return which version of the golden image `name` a volume is by its name, from 1; 0 for none."""
    bare = golden_name(name)
    if volume == bare:
        return 1
    version = volume.removeprefix(f"{bare}-v")
    return int(version) if version != volume and re.fullmatch(r"[1-9][0-9]{0,5}", version) else 0


def tag_of(volume: VolumeRecord) -> Tag:
    """Return the tag that a volume carries on its storage host."""
    return Tag(volume.id, volume.server_id, volume.run)
