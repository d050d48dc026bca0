"""What must never be otherwise with the volumes of a diskless server; the storage host's own log is the judge.

Part of the watch in `invariants.py`, of which it asks what was intended, and under which fence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from baremetal.lifecycle.model import BootTarget, Method, ProvisionState, Server, Verb
from baremetal.lifecycle.moves import current_step, kept_volumes
from baremetal.sim.disk import SimulatedDisk, Write
from baremetal.sim.diskless import read_ticket
from tests.simulation.broken import check
from tests.simulation.storage import GOLDEN, IQN, Change, SimulatedStorage, Volume

if TYPE_CHECKING:
    from tests.simulation.invariants import Watch
    from tests.simulation.world import World

_MAKES = (Verb.DEPLOY, Verb.REBUILD)


class VolumeWatch:
    """The observer of one world's storage host."""

    def __init__(self, watch: Watch, world: World) -> None:
        self._watch = watch
        self._world = world
        self._known: tuple[int, ProvisionState, int] | None = None
        self.is_forgotten = False
        self.restores = False
        """Whether an operator is having targets served again, which no run intends."""

    @property
    def _storage(self) -> SimulatedStorage:
        assert self._world.rack is not None
        return self._world.rack.storage

    def _target(self, system: str) -> str:
        return f"{IQN}:{self._world.name}.{system}"

    def _booted(self, life: Server) -> str:
        """Return the target that shows what a server is to boot."""
        run = life.run
        if run is not None and run.served:
            return self._target(run.system)
        return self._target(next(name for name, number in life.systems if number == life.deployed))

    def _served(self) -> set[str]:
        return {target for target in self._storage.targets if target.startswith(self._target(""))}

    def _mine(self) -> list[Volume]:
        return [one for one in self._storage.volumes.values() if one.tag and one.tag.server == self._world.id]

    def disk_of(self, number: int) -> SimulatedDisk:
        """Return the disk of a run's volume."""
        found = [one.disk for one in self._mine() if one.tag and one.tag.run == number]
        check(len(found) == 1, "I14", "{} volumes of run {} stand", len(found), number)
        return found[0]

    # -- the storage host --

    def changed(self, change: Change) -> None:
        """A change begins, of a volume or of a target."""
        storage, what, name, tag = self._storage, change.what, change.name, change.tag
        check(storage.is_held, "I12", "{} {} without the lock", what, name)
        if self.restores:
            check(what == "serving", "I20", "{} {} while a target is restored", what, name)
            return
        run = self._watch.written(f"{what} {name}")
        mine = tag is not None and tag.server == self._world.id
        number = tag.run if tag is not None else 0
        if what in ("making", "seeded"):
            check(run.verb in _MAKES, "I20", "{} {} in a {}", what, name, run.verb)
            check(mine and number == run.number, "I21", "{} {}, tagged {}", what, name, tag)
            origin = GOLDEN if run.method is Method.CLONE else ""
            check(what == "seeded" or change.of == origin, "I21", "{} {} of {!r}", what, name, change.of)
        elif what == "removing":
            check(mine, "I21", "removing {}, tagged {}", name, tag)
            step = current_step(self._watch.life)
            tidies = step is not None and step.name == "tidy" and number not in kept_volumes(self._watch.life)
            check(tidies or run.verb is Verb.RELEASE, "I21", "removing {} in a {}", name, run.verb)
            machine = self._world.machine
            used = machine.is_on and machine.root is storage.volumes[name].disk
            check(not used, "I21", "removing {} under its running system", name)
        else:
            check(name.startswith(self._target("")), "I21", "{} {}, not ours", what, name)
            served = what == "serving" and name != self._target(run.system)
            check(not served, "I21", "serving {} for the system {}", name, run.system)
            machine = self._world.machine
            # what was rebuilt onto the disk, or is another system, runs while the target of the old one is withdrawn
            elsewhere = what == "withdrawing" and not self._runs_behind(name)
            check(elsewhere or not machine.is_on, "I7", "{} {} under a running system", what, name)

    def _runs_behind(self, target: str) -> bool:
        """Whether what runs on the machine lives on a volume that a target shows."""
        shown = self._storage.targets.get(target)
        behind = [self._storage.at(lun.path) for lun in shown.luns] if shown is not None else []
        return any(one is not None and self._world.machine.root is one.disk for one in behind)

    def logged_in(self, volume: Volume) -> None:
        """The machine is let in to a volume."""
        mine = volume.tag is not None and volume.tag.server == self._world.id
        check(mine, "I7", "let in to {}", volume.name)

    # -- the boot app --

    def served_script(self, mac: str, text: str) -> None:
        """An active server hears of its own volume and of nothing else; once that is known, of nothing else ever."""
        if self.is_forgotten:
            return
        life, ticket = self._watch.life, read_ticket(text)
        known = (self._world.incarnation, life.state, life.deployed)
        if ticket is not None:
            check(mac == self._world.machine.macs[0], "I2", "a volume for a stranger")
            names = (ticket.target, ticket.initiator, ticket.address, ticket.port, ticket.lun)
            own = (self._booted(life), f"{IQN}:{self._world.name}", "10.0.0.9", 3260, 1)
            check(names == own, "I7", "sent to {}", names)
        if life.state is not ProvisionState.ACTIVE or life.target is not BootTarget.ISCSI:
            self._known = None
        elif mac == self._world.machine.macs[0]:
            if ticket is None:
                check("bm-waits" in text, "I7", "an active server that boots its volume was told: {}", text)
                check(self._known != known, "I7", "its volume was known, and it was told to wait")
            else:
                check(ticket.boots, "I7", "an installer for an active server")
                self._known = known

    # -- the end --

    def has_lost(self) -> bool:
        """Whether the storage host has forgotten a target of a server that needs it now."""
        life = self._watch.life
        wanted = {self._target(name) for name, _ in life.systems}
        return _needs_its_volume(life) and not wanted <= self._served()

    def settled(self, life: Server) -> list[Write]:
        """Nothing of ours stands unknown, nothing that is wanted is missing, nothing of others was touched.

        Return what was ever written to a volume.
        """
        world, storage = self._world, self._storage
        assert world.rack is not None
        check(world.rack.changed() == [], "I21", "others' volumes were changed: {}", world.rack.changed())
        mine = self._mine()
        half = [one for one in storage.half.values() if one.tag and one.tag.server == world.id]
        rows = {row.id for row in world.real_store.volumes(server_id=world.id)}
        for one in (*mine, *half):
            assert one.tag is not None
            check(one.tag.run in life.volumes, "I21", "{} stands and nobody knows of it", one.name)
            check(one.tag.volume in rows, "I21", "{} stands without its row", one.name)
        doors = {door.target for door in world.real_store.doors(world.id)}
        served = self._served()
        check(served <= doors, "I21", "{} served and nobody knows of it", served - doors)
        if life.state is ProvisionState.AVAILABLE:
            check(life.volumes == () and rows == set(), "I21", "released, and volumes {}", life.volumes)
            check(not served and not doors, "I21", "released, and {} is served", served | doors)
            flags = world.bmc.options.read(5, world.bmc.knobs, world.clock.monotonic())
            persists = flags[2] & 0xC0 == 0xC0 and flags[3] >> 2 & 0x0F == 1
            check(not persists, "I6", "released, and it netboots for good: {}", flags.hex())
        if _needs_its_volume(life):
            check(life.deployed in dict(life.systems).values(), "I14", "run {} is no system", life.deployed)
            for name, number in life.systems:
                disk = self.disk_of(number)
                own = f"{world.id}/{number}"
                check(disk.system == own, "I7", "{}: {} stands as {}", life.state, disk.system, name)
                check(self._target(name) in served, "I7", "{}, and {} is not served", life.state, name)
        written = [write for volume in storage.every for write in volume.disk.log]
        for volume in storage.every:
            owner = f"{volume.tag.server}/{volume.tag.run}" if volume.tag else ""
            stray = [write for write in volume.disk.log if write.run != owner]
            check(stray == [], "I18", "{} was written to by {}", volume.name, stray)
        return written


def _needs_its_volume(life: Server) -> bool:
    """Whether its system lives on a volume: an active one does, and one whose rebuild failed before it was touched."""
    stands = life.state is ProvisionState.ACTIVE or life.state is ProvisionState.DEPLOY_FAILED
    return stands and life.deployed > 0 and life.target is BootTarget.ISCSI
