"""A simulated storage host: volumes and targets that outlive the service's process, and a log of its own, the judge.

Its keeper and portal follow `storage/base.py` line by line, as the real ones follow a shell: each line may be cut
before or after it took effect, may hang, may find no room; the host may restart, and forgets its targets then, as tgt
does. What was half-made stays half-made. Something of others stands there from the start.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.sim.clock import VirtualClock
from baremetal.sim.disk import SimulatedDisk
from baremetal.sim.diskless import Attached, Ticket
from baremetal.sim.network import NoAnswer
from baremetal.storage.base import Kept, Lun, Output, Room, Tag, Target
from tests.simulation.broken import check
from tests.simulation.faults import StorageFaults

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

FOLDER = "/srv/volumes"
IQN = "iqn.2026-01.test.site"
GOLDEN = "golden-sim"
GOLDEN_ID = "golden-id"
GOLDEN_SYSTEM = "golden"
STRANGER = Target(
    "iqn.2020-01.test.others:archive", ("iqn.2020-01.test.others:c",), (Lun(1, "/srv/archive"),)
)
SIZE = 20 << 30
_REBOOT_S = 90.0


@dataclass(slots=True)
class Volume:
    """A volume as it stands there; `tag` None: not ours."""

    name: str
    size: int
    tag: Tag | None
    disk: SimulatedDisk = field(default_factory=lambda: SimulatedDisk("sda", "VOLUME"))
    origin: str = ""
    seed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the host's own log. `tag`: of the volume that was changed, as it is read there; `of`: its origin.

    `what`: making, made, seeded, removing, removed (volumes); serving, served, withdrawing, withdrawn (targets).
    """

    at: float
    what: str
    name: str
    tag: Tag | None = None
    of: str = ""


class SimulatedStorage:
    """The host itself. `judge` hears of every change as its first line takes effect, and of every login."""

    def __init__(self, clock: VirtualClock, rng: random.Random, faults: StorageFaults) -> None:
        self.clock = clock
        self.rng = rng
        self.faults = faults
        self.fired: Counter[str] = Counter()
        self.volumes: dict[str, Volume] = {}
        self.half: dict[str, Volume] = {}
        self.targets: dict[str, Target] = {STRANGER.iqn: STRANGER}
        self.log: list[Change] = []
        self.every: list[Volume] = []
        """Every volume there ever was, because its disk's log is a judge too."""
        self.is_held = False
        self.back_at = 0.0
        self.restarts = 0
        self.judge: Callable[[Change], None] = lambda change: None
        self.logged_in: Callable[[Volume], None] = lambda volume: None
        self.stock(Volume(GOLDEN, SIZE, Tag(GOLDEN_ID))).disk.system = GOLDEN_SYSTEM
        self.stock(Volume("archive", 4 << 40, None)).disk.system = "somebody's"
        self.stock(Volume("bm-other-ffffff-3", SIZE, Tag("f" * 32, "e" * 32, 3))).disk.system = "another's"

    def stock(self, volume: Volume) -> Volume:
        """Put a volume there by hand."""
        self.volumes[volume.name] = volume
        self.every.append(volume)
        return volume

    def note(self, what: str, name: str, tag: Tag | None = None, of: str = "") -> None:
        change = Change(self.clock.monotonic(), what, name, tag, of)
        self.judge(change)
        self.log.append(change)

    def chance(self, knob: str) -> bool:
        """Draw whether a fault happens now."""
        odds: float = getattr(self.faults, knob)
        if odds and self.rng.random() < odds:
            self.fired[knob] += 1
            return True
        return False

    @property
    def is_up(self) -> bool:
        return self.clock.monotonic() >= self.back_at

    def restart(self) -> None:
        """Be gone for a while. Volumes stay, whole and half; of targets only those that others wrote down stay."""
        self.restarts += 1
        self.targets = {STRANGER.iqn: STRANGER}
        self.is_held = False
        self.back_at = self.clock.monotonic() + _REBOOT_S

    def may_restart(self) -> None:
        """Restart by chance, at a moment when nobody looks."""
        if self.chance("forgets"):
            self.restart()

    # -- the storage network (baremetal.sim.diskless.Fabric) --

    def log_in(self, ticket: Ticket) -> Attached:
        if not self.is_up:
            raise NoAnswer("no portal")
        target = self.targets.get(ticket.target)
        if target is None or ticket.initiator not in target.initiators:
            raise NoAnswer("no such target for this initiator")
        chap = target.chap
        if chap is not None and (ticket.user, ticket.password) != (chap.user, chap.password):
            raise NoAnswer("authentication failure")
        behind = {lun.number: lun.path for lun in target.luns}
        volume = self.at(behind.get(ticket.lun, ""))
        if volume is None:
            raise NoAnswer("no such LUN")
        self.logged_in(volume)
        beside = behind.get(ticket.lun + 1) == seed_path(volume.name)
        return Attached(volume.disk, volume.seed if beside else None)

    def at(self, path: str) -> Volume | None:
        """Return the volume that a target shows under a path, None where nothing stands."""
        return self.volumes.get(_owner(path) or "")


class SimulatedShell:
    """The way to the host of one incarnation of the process. See `storage.base.Shell`, of which nothing is run here."""

    def __init__(self, world: World, storage: SimulatedStorage) -> None:
        self._world = world
        self._alive = world.incarnation
        self.storage = storage
        self.place = "storage.test"

    def line(self, effect: Callable[[], T]) -> T:
        """Have one line of a dialogue take effect, unless something comes in between. Raises StorageError."""
        world, storage = self._world, self.storage
        world.check_alive(self._alive)
        world.maybe_die()
        storage.may_restart()
        if not storage.is_up:
            world.sleep(12.0, self._alive)
            raise _unreachable("no connection")
        for knob, waits_s in (("ssh_cut", 0.0), ("ssh_hang", 30.0)):
            if storage.chance(knob):
                if storage.rng.random() < 0.5:
                    effect()
                if waits_s:
                    world.sleep(waits_s, self._alive)
                raise _unreachable(knob)
        done = effect()
        world.maybe_die()
        return done

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds, self._alive)

    @contextmanager
    def holding(self, argv: Sequence[str], *, deadline_s: float) -> Iterator[None]:
        storage = self.storage
        check(not storage.is_held, "I12", "two storage changes at one time")
        try:
            self.line(self._hold)
            yield
        finally:
            storage.is_held = False  # with the connection, however that ends

    def _hold(self) -> None:
        self.storage.is_held = True

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        raise AssertionError(f"a simulated host runs no {argv[0]}")

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        raise AssertionError(f"a simulated host runs no {argv[0]}")


class SimulatedKeeper:
    """See `storage.base.Keeper`: made under another name, renamed when whole, renamed away before it is deleted."""

    snapshots = "simulated copies"

    def __init__(self, shell: SimulatedShell) -> None:
        self._shell = shell
        self._storage = shell.storage

    def check(self) -> Room:
        return self._shell.line(lambda: Room(100 * SIZE, 90 * SIZE))

    def volumes(self) -> list[Kept]:
        return self._shell.line(
            lambda: [
                Kept(one.name, one.size, 0, one.origin or None, one.tag)
                for one in self._storage.volumes.values()
            ]
        )

    def create(self, name: str, size: int, tag: Tag) -> None:
        if not self._is_there(name, tag):
            self._begin(Volume(name, size, tag))
            self._finish(name)

    def clone(self, name: str, origin: str, size: int, tag: Tag) -> None:
        if self._is_there(name, tag):
            return
        self._begin(Volume(name, size, tag, origin=origin))
        self._shell.line(lambda: self._copy(name, origin))
        self._finish(name)

    def fill(self, name: str, size: int, tag: Tag, source: Iterator[bytes]) -> None:
        if not self._is_there(name, tag):
            volume = Volume(name, size, tag)
            self._begin(volume)
            volume.disk.system = b"".join(source).decode()
            self._finish(name)

    def seed(self, name: str, content: bytes | None) -> None:
        self._shell.line(lambda: self._seed(name, content))

    def path(self, name: str) -> str:
        return f"{FOLDER}/{name}/disk.img"

    def seed_path(self, name: str) -> str:
        return seed_path(name)

    def remove(self, name: str, tag: Tag) -> bool:
        self._shell.line(lambda: self._storage.half.pop(name, None))
        there = self._is_there(name, tag)
        if there:
            self._shell.line(lambda: self._part_with(name))
            self._shell.line(lambda: self._storage.half.pop(name, None))
        return there

    # -- the lines --

    def _is_there(self, name: str, tag: Tag) -> bool:
        there = self._shell.line(lambda: self._storage.volumes.get(name))
        if there is None or there.tag == tag:
            return there is not None
        raise StorageError(f"{name} is not ours", StorageErrorKind.CLASH)

    def _begin(self, volume: Volume) -> None:
        def effect() -> None:
            self._storage.note("making", volume.name, volume.tag, volume.origin)
            self._storage.half[volume.name] = volume
            self._storage.every.append(volume)

        self._shell.line(effect)
        if self._storage.chance("full"):
            raise StorageError(f"{FOLDER} is full", StorageErrorKind.FULL)

    def _copy(self, name: str, origin: str) -> None:
        storage = self._storage
        golden = storage.volumes.get(origin)
        if golden is None:
            raise StorageError(f"no {origin}", StorageErrorKind.FAILED)
        slow, before = storage.chance("slow_copy"), storage.restarts
        self._shell.sleep(storage.rng.uniform(60.0, 900.0) if slow else storage.rng.uniform(0.1, 4.0))
        if storage.restarts != before:
            raise _unreachable("the connection is gone")
        storage.half[name].disk.system = golden.disk.system

    def _finish(self, name: str) -> None:
        def effect() -> None:
            volume = self._storage.volumes[name] = self._storage.half.pop(name)
            self._storage.log.append(
                Change(self._storage.clock.monotonic(), "made", name, volume.tag, volume.origin)
            )

        self._shell.line(effect)

    def _seed(self, name: str, content: bytes | None) -> None:
        volume = self._storage.volumes[name]
        self._storage.note("seeded", name, volume.tag)
        volume.seed = content

    def _part_with(self, name: str) -> None:
        volume = self._storage.volumes[name]
        self._storage.note("removing", name, volume.tag)
        self._storage.half[name] = self._storage.volumes.pop(name)


class SimulatedPortal:
    """See `storage.base.Portal`: a target grows line by line, as by tgtadm, and whoever is not bound has no access."""

    first_lun = 1

    def __init__(self, shell: SimulatedShell) -> None:
        self._shell = shell
        self._storage = shell.storage

    def check(self) -> str:
        return self._shell.line(lambda: "simulated 1.0")

    def targets(self) -> dict[str, Target]:
        return self._shell.line(lambda: dict(self._storage.targets))

    def agrees(self, there: Target | None, wanted: Target) -> bool:
        return there == wanted

    def serve(self, target: Target, ours: Sequence[str]) -> bool:
        there = self._mine(target.iqn, [*ours, *(lun.path for lun in target.luns)])
        if there == target:
            return False
        steps = Target(target.iqn, (), ()) if there is None else there
        self._set("serving", steps)
        for change in ({"luns": target.luns}, {"chap": target.chap}, {"initiators": target.initiators}):
            steps = replace(steps, **change)
            self._set("", steps)
        if self._shell.line(lambda: self._storage.targets.get(target.iqn)) != target:
            raise StorageError(f"{target.iqn} is not as it was set", StorageErrorKind.FAILED)
        self._storage.log.append(Change(self._storage.clock.monotonic(), "served", target.iqn))
        return True

    def withdraw(self, iqn: str, ours: Sequence[str]) -> bool:
        there = self._mine(iqn, ours)
        if there is not None:
            self._set("withdrawing", replace(there, initiators=()))
            self._shell.line(lambda: self._delete(iqn))
        return there is not None

    # -- the lines --

    def _mine(self, iqn: str, ours: Sequence[str]) -> Target | None:
        there = self._shell.line(lambda: self._storage.targets.get(iqn))
        if there is not None and any(lun.path not in ours for lun in there.luns):
            raise StorageError(f"the target {iqn} is not ours", StorageErrorKind.SETTINGS)
        return there

    def _set(self, what: str, target: Target) -> None:
        def effect() -> None:
            if what:
                self._storage.note(what, target.iqn)
            self._storage.targets[target.iqn] = target

        self._shell.line(effect)

    def _delete(self, iqn: str) -> None:
        self._storage.targets.pop(iqn, None)
        self._storage.log.append(Change(self._storage.clock.monotonic(), "withdrawn", iqn))


def seed_path(name: str) -> str:
    return f"{FOLDER}/{name}/seed.img"


def _owner(path: str) -> str | None:
    folder, _, file = path.rpartition("/")
    parent, _, name = folder.rpartition("/")
    return name if parent == FOLDER and file in ("disk.img", "seed.img") else None


def _unreachable(how: str) -> StorageError:
    return StorageError(f"storage.test: {how}", StorageErrorKind.UNREACHABLE)
