"""What a diskless life has beside its server: a storage host, and the service's own parts that deal with it.

The service's parts are the real ones (`service/storage`, `storage/host.py`) on the simulated keeper and portal; they
are built anew for each incarnation of the process, as a restart does.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from baremetal.errors import StorageError, Unavailable
from baremetal.lifecycle.workflows import CLONE, Errand
from baremetal.service.storage.doors import VolumeDoors
from baremetal.service.storage.hosts import Hosts
from baremetal.service.storage.volumes import VolumePlan, Volumes
from baremetal.storage.host import StorageHost
from baremetal.storage.names import volume_name
from baremetal.storage.settings import StorageSettings
from baremetal.store.records import VolumeRecord
from tests.simulation.faults import StorageFaults
from tests.simulation.storage import (
    GOLDEN,
    GOLDEN_ID,
    IQN,
    SIZE,
    SimulatedKeeper,
    SimulatedPortal,
    SimulatedShell,
    SimulatedStorage,
    Volume,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

HOST = "nas"
BASE = "http://boot.test"
SETTINGS = StorageSettings.parse(
    HOST,
    {
        "kind": "tgt",
        "portal": "10.0.0.9",
        "base_iqn": IQN,
        "folder": "/srv/volumes",
        "address": "storage.test",
        "host_key": "ssh-ed25519 AAAA",
    },
)
_CLASHING = (2, 3, 4)


class Rack:
    """One life's storage host, and the golden image that is known there."""

    def __init__(self, world: World, faults: StorageFaults, rng: random.Random) -> None:
        self._world = world
        self.storage = SimulatedStorage(world.clock, rng, faults)
        self.storage.judge = lambda change: world.watch.volumes.changed(change)
        self.storage.logged_in = lambda volume: world.watch.volumes.logged_in(volume)
        world.machine.fabric = self.storage
        if self.storage.chance("clash"):
            for run in _CLASHING:
                self.storage.stock(Volume(volume_name(world.name, world.id, run), SIZE, None))
        self._first = {name: looks(volume) for name, volume in self.storage.volumes.items()}
        if faults.forgets:
            for _ in range(rng.randint(1, 3)):
                world.clock.later(rng.uniform(0.0, world.plan.until_s), self._restart)
        golden = VolumeRecord(GOLDEN_ID, HOST, GOLDEN, "golden", SIZE, world.clock.utc(), ready=True)
        world.real_store.want_volume(golden)  # the lives on one database share its row

    def begin(self) -> Volumes:
        """Build the service's parts for a new incarnation of the process."""
        world = self._world
        shell = SimulatedShell(world, self.storage)
        self.keeper, self.portal = SimulatedKeeper(shell), SimulatedPortal(shell)
        host = StorageHost(HOST, shell, self.keeper, self.portal, "/srv/volumes/.lock")
        hosts = _OneHost(world, host)
        self.doors = VolumeDoors(world.store, hosts, world.kitchen, now=world.now)
        self.volumes = Volumes(
            world.store, hosts, world.kitchen, self.doors, base_for=lambda _: BASE, now=world.now
        )
        return self.volumes

    def plan(self, errand: Errand, system: str) -> VolumePlan:
        """Say what a run freezes about its volume."""
        names = (f"{IQN}:{self._world.name}.{system}", f"{IQN}:{self._world.name}", 1)
        return VolumePlan(HOST, SIZE, *names, *((GOLDEN_ID, "sim") if errand is CLONE else ()))

    def restore(self) -> None:
        """Have targets served again that the host has forgotten, as an operator does; where it fails, another time."""
        self._world.watch.volumes.restores = True
        try:
            self.doors.restore(HOST, "simulation")
        except (StorageError, Unavailable):
            return
        finally:
            self._world.watch.volumes.restores = False

    def heal(self) -> None:
        self.storage.faults = StorageFaults()

    def changed(self) -> list[str]:
        """Name what stood there before us, golden image and all, and is not as it was."""
        now = self.storage.volumes
        return [name for name, first in self._first.items() if name not in now or looks(now[name]) != first]

    def close(self) -> None:
        """Forget what the shared database knows of this life's host."""
        store = self._world.real_store
        for door in store.doors(self._world.id):
            store.drop_door(door)
        for one in store.volumes(server_id=self._world.id):
            store.volume_gone(one.id)

    def _restart(self) -> None:
        if self.storage.faults.forgets:
            self.storage.fired["forgets"] += 1
            self.storage.restart()


class _OneHost(Hosts):
    """The real storage hosts of one incarnation, of which the one that stands open is simulated."""

    def __init__(self, world: World, host: StorageHost) -> None:
        super().__init__(
            world.store, {HOST: SETTINGS}, remote=lambda _: host.shell, scan=lambda *_: "", now=world.now
        )
        self._simulated = host

    def host(self, name: str) -> StorageHost:
        assert self.settings(name).makes
        return self._simulated


def looks(volume: Volume) -> tuple[object, ...]:
    """Return what may never change of a volume that is not a server's of ours."""
    return (volume.size, volume.tag, volume.disk.system, tuple(volume.disk.log), volume.seed)
