"""A life: enrolled, deployed, rebuilt, released, with an operator who sometimes interferes, and then peace."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from baremetal.lifecycle.events import Asked, MaintenanceChanged, SystemChosen
from baremetal.lifecycle.model import (
    MAIN,
    BootDevice,
    BootTarget,
    Budgets,
    Limits,
    Method,
    Proof,
    ProvisionState,
    Signal,
    Verb,
)
from baremetal.lifecycle.table import position
from baremetal.lifecycle.workflows import METHODS, Way
from baremetal.service.boot.news import read_news
from baremetal.sim.network import NoAnswer
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.simulation.broken import Broken, check
from tests.simulation.faults import DISKLESS, draw
from tests.simulation.world import BASE, MAC, Menu, World, world

S = ProvisionState
# The longest that a run's deadlines allow, with nothing stretched any more, and two sweeps of the simulation.
# No disk here needs the day that a real one may take.
_B, _L = Budgets(wipe_s=7200.0), Limits()
CALM_S = (
    _L.netboot_attempts * (3 * _B.ensure_s + _B.boot_s)
    + (_B.start_s + max(_B.install_s, _B.wipe_s) + 3 * _B.ensure_s + _B.first_boot_s + _B.proof_s)
    + (_B.ensure_s + 2 * 60.0)
)
VOLUMES_S = 2 * _B.volume_s + 2 * _B.ensure_s
"""What a run with volumes may take longer: making one, tidying, removing."""
STORE_LIVES = 250
_DEPLOYS = (Way.CLONE, Way.CLONE, Way.ISCSI)
_REBUILDS = (Way.CLONE, Way.CLONE, Way.ISCSI, Way.ISCSI, Way.DISK)
NEXT = {
    S.ENROLL: Verb.MANAGE,
    S.MANAGEABLE: Verb.PROVIDE,
    S.AVAILABLE: Verb.DEPLOY,
    S.DEPLOY_FAILED: Verb.DEPLOY,
    S.ERROR: Verb.RELEASE,
    S.INSPECT_FAILED: Verb.MANAGE,
    S.CLEAN_FAILED: Verb.PROVIDE,
    S.RESCUE: Verb.UNRESCUE,
    S.RESCUE_FAILED: Verb.UNRESCUE,
    S.UNRESCUE_FAILED: Verb.UNRESCUE,
}


@dataclass(frozen=True, slots=True)
class Habits:
    """What else an operator does with a server, beside deploying and releasing it."""

    inspects: bool
    rescues: bool
    wipes: bool
    deploy: Way = Way.DISK
    rebuild: Way = Way.DISK
    second: str = MAIN
    """What the rebuild is to be called: another name adds a system beside the first."""

    def goals(self) -> tuple[S | Verb, ...]:
        rescue = (Verb.RESCUE, Verb.UNRESCUE) if self.rescues else ()
        return (S.ACTIVE, *self.rebuilds(), *rescue, Verb.RELEASE)

    def rebuilds(self) -> tuple[Verb, ...]:
        """Two where there are two systems: the second of them replaces one and leaves the other."""
        return (Verb.REBUILD,) * (1 if self.second == MAIN else 2)


@dataclass(slots=True)
class Tally:
    """What some lives amounted to."""

    lives: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    edges: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.lives += other.lives
        self.fired += other.fired
        self.edges += other.edges
        self.ends += other.ends


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the program's own log silent: in a simulation every fault is expected."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


class _Unsealed(Secrets):
    """Leaves accounts as they are: they are made up, and sealing has tests of its own."""

    def seal(self, text: str) -> str:
        return text

    def open(self, sealed: str) -> str:
        return sealed


class Lives:
    """Lives one seed after the other on a few in-memory databases."""

    def __init__(
        self,
        templates: Menu,
        plant: Callable[[World], None] | None = None,
        diskless: float = DISKLESS,
    ) -> None:
        self._templates = templates
        self._plant = plant
        self._diskless = diskless
        self._store: Store | None = None
        self._used = 0

    def live(self, seed: int) -> Tally:
        """Live one life. Raises Broken."""
        if self._store is None or self._used >= STORE_LIVES:
            self.close()
            self._store, self._used = Store.open("sqlite://", _Unsealed.ephemeral()), 0
        self._used += 1
        plan = draw(random.Random(seed), self._diskless)
        with world(seed, plan, self._store, self._templates, self._plant) as the:
            try:
                habits = _live(the)
                tally = Tally(1)
                tally.fired = plan.fired + the.bmc.fired + the.machine.fired
                if the.rack is not None:
                    tally.fired += the.rack.storage.fired
                tally.edges = the.watch.edges
                tally.ends[str(the.life.state)] += 1
                if not tally.fired:
                    _check_smooth(the, habits)
                _forget(the)
            except Exception as error:
                raise Broken(f"P1: the program broke: {error!r}") from error
        return tally

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def _live(the: World) -> Habits:
    rng = the.rng
    inspects, rescues, wipes = (rng.random() < 0.2 for _ in range(3))
    habits = Habits(inspects, rescues, wipes)
    if the.rack is not None:
        deploy, rebuild = rng.choice(_DEPLOYS), rng.choice(_REBUILDS)
        second = "other" if rng.random() < 0.4 and rebuild is not Way.DISK else MAIN
        habits = replace(habits, deploy=deploy, rebuild=rebuild, second=second)
    old = rng.random() < 0.1
    if old and the.rack is None:  # a disk that boots by itself makes no diskless server
        the.machine.disk.install(0.0, "an old system", "", "")
    for goal in habits.goals():
        for _ in range(4):
            if _asked(the, goal, habits):
                _run_out(the)
            if _reached(the, goal):
                break
        if the.rack is not None and the.life.state is S.ACTIVE:
            _live_on(the)
    _peace(the)
    the.watch.settled()
    return habits


def _live_on(the: World) -> None:
    """An active server's power fails, in maintenance and while the database is away, and it comes back (I7)."""
    rng = the.rng
    if rng.random() < 0.4:
        return
    smooth = not any((the.plan.fired, the.bmc.fired, the.machine.fired))
    if len(the.life.systems) > 1:
        the.plan.fired["boot another"] += 1
        the.ask(SystemChosen(rng.choice(the.life.systems)[0], by="simulation"))
    _come_back(the, smooth)
    in_maintenance, own = rng.random() < 0.3, the.own
    if in_maintenance:
        the.ask(MaintenanceChanged(True))
    if rng.random() < 0.3:
        the.own = replace(own, db_fault=1.0)
    _come_back(the, smooth)
    the.own = own if the.clock.monotonic() < the.plan.until_s else the.own


def _come_back(the: World, smooth: bool) -> None:
    the.machine.reset(the.bmc.take_boot())
    end = the.clock.monotonic() + 300.0
    while the.clock.monotonic() < end and not the.machine.running:
        the.step(end)
    check(
        not smooth or the.machine.running == f"{the.id}/{the.life.deployed}",
        "I7",
        "its power failed, and now: {}",
        the.machine.stage,
    )


def _reached(the: World, goal: S | Verb) -> bool:
    wanted = {Verb.RELEASE: S.AVAILABLE, Verb.RESCUE: S.RESCUE}
    return the.life.state is (wanted.get(goal, S.ACTIVE) if isinstance(goal, Verb) else goal)


def _asked(the: World, goal: S | Verb, habits: Habits) -> bool:
    """Ask for the next verb on the way to a goal; False where there is none."""
    life = the.life
    if life.maintenance:
        the.ask(MaintenanceChanged(False))
    if life.state is S.ENROLL and life.last_error and the.rng.random() < 0.5:
        the.correct_bmc()
    if the.rack is not None and the.rng.random() < 0.5:
        the.restore()
    if "BM105 boot device disk" in life.last_error and "flip=none" not in the.quirks:
        the.heed_boot_device()
    verb = NEXT.get(life.state)
    if life.state is S.ACTIVE:
        verb = goal if isinstance(goal, Verb) and goal is not Verb.UNRESCUE else None
    elif goal is Verb.RELEASE and life.state in (
        S.DEPLOY_FAILED,
        S.RESCUE,
        S.RESCUE_FAILED,
        S.UNRESCUE_FAILED,
    ):
        verb = Verb.RELEASE
    elif life.state is S.RESCUE_FAILED and goal is Verb.RESCUE and the.rng.random() < 0.5:
        verb = Verb.RESCUE
    elif life.state is S.CLEAN_FAILED and the.rng.random() < 0.5:
        verb = Verb.MANAGE
    elif life.state is S.MANAGEABLE and habits.inspects and not the.machine.errands:
        verb = Verb.INSPECT
    if verb is None or life.run is not None:
        return life.run is not None
    installs = verb in (Verb.DEPLOY, Verb.REBUILD)
    way = habits.rebuild if verb is Verb.REBUILD else habits.deploy
    target = BootTarget.DISK if way is Way.DISK or not installs else BootTarget.ISCSI
    asked = Asked(
        verb,
        by="simulation",
        force=the.rng.random() < 0.5 or life.found_on,
        wipe=habits.wipes if verb is Verb.RELEASE else verb is Verb.PROVIDE and life.state is S.CLEAN_FAILED,
        method=(Method.CLONE if way is Way.CLONE else Method.INSTALLER) if installs else None,
        target=target,
        system=_system(the, verb, habits),
        proof=_proof(the, verb),
        budgets=_B,
        flip=_flip(the, target if installs else life.target),
    )
    the.ask(asked)
    if the.down_until is not None:
        the.step(the.clock.monotonic() + 200.0)
    return True


def _system(the: World, verb: Verb, habits: Habits) -> str:
    if verb is not Verb.REBUILD or habits.second == MAIN:
        return MAIN
    return habits.second if len(the.life.systems) == 1 else the.rng.choice((MAIN, habits.second))


def _flip(the: World, target: BootTarget) -> BootDevice:
    if target is BootTarget.ISCSI:
        return BootDevice.PXE
    return BootDevice.NONE if "flip=none" in the.quirks else BootDevice.DISK


def _proof(the: World, verb: Verb) -> Proof:
    if verb is Verb.UNRESCUE:
        return Proof.SSH if the.life.deployed else Proof.NONE
    return the.rng.choice((Proof.SSH, Proof.SSH, Proof.FIRST_BOOT))


def _run_out(the: World) -> None:
    """Let time pass until the run is over, interfering now and then; faults end when their time is up."""
    calm_since = the.clock.monotonic()
    meddles = the.rng.random() < 0.25
    while the.life.run is not None or the.down_until is not None:
        now = the.clock.monotonic()
        if now >= the.plan.until_s:
            the.heal()
        the.step(now + 600.0)
        if meddles and the.rng.random() < 0.03:
            _meddle(the)
        if the.life.maintenance:
            calm_since = now
        calm_s = now - max(calm_since, the.plan.until_s)
        if calm_s > CALM_S + (VOLUMES_S if the.rack is not None else 0.0):
            raise Broken(f"I26: still {position(the.life)} {calm_s:.0f} s after faults stopped")


def _check_smooth(the: World, habits: Habits) -> None:
    """Where nothing went wrong and nobody interfered, everything that was asked for was done, at the first try."""
    verbs = [(run.verb, run.outcome) for run in the.real_store.runs(the.id)]
    wanted = [("manage", "manageable"), ("deploy", "active"), ("release", "available")]
    wanted += [("rebuild", "active")] * len(habits.rebuilds())
    if habits.inspects:
        wanted.append(("inspect", "manageable"))
    if habits.rescues:
        wanted += [("rescue", "rescue"), ("unrescue", "active")]
    check(sorted(verbs) == sorted(wanted), "P1", f"an undisturbed life went otherwise: {verbs}")


def _meddle(the: World) -> None:
    """Do what operators, strangers and attackers do at the wrong moment."""
    what = the.rng.randrange(5)
    if what == 0:
        the.plan.fired["abort"] += 1
        the.clock.later(the.rng.uniform(0.0, 60.0), lambda: _abort(the))
    elif what == 1:
        the.plan.fired["maintenance"] += 1
        the.clock.later(the.rng.uniform(0.0, 10.0), lambda: _maintenance_on(the))
        the.clock.later(the.rng.uniform(10.0, 2000.0), lambda: _maintenance_off(the))
    elif what == 2 and the.callbacks:
        the.plan.fired["replay"] += 1
        _replay(the)
    elif what == 3:
        the.plan.fired["second verb"] += 1
        verb, wipe = the.rng.choice(tuple(Verb)), the.rng.random() < 0.3
        the.ask(Asked(verb, method=Method.INSTALLER if verb in METHODS else None, wipe=wipe, budgets=_B))
    else:
        the.plan.fired["stranger"] += 1
        try:
            the.get("http://boot.test/ipxe?mac=02:00:00:00:00:99")
        except NoAnswer:
            return


def _abort(the: World) -> None:
    the.ask(Asked(Verb.ABORT, by="simulation"))


def _maintenance_on(the: World) -> None:
    the.ask(MaintenanceChanged(True))


def _maintenance_off(the: World) -> None:
    if the.life.maintenance and the.ask(MaintenanceChanged(False)) is None:
        the.clock.later(120.0, lambda: _maintenance_off(the))


def _replay(the: World) -> None:
    """Send an old call-back again, word for word: only the open run's own may change anything."""
    url, fields = the.rng.choice(the.callbacks)
    caller = the.boot.caller(url.split("/")[4])
    before = the.life
    try:
        the.post(url, fields)
    except NoAnswer:
        return
    if caller is not None and (before.run is None or before.run.number != caller[1]):
        check(the.life.state is before.state, "I22", f"a call-back of run {caller[1]} moved {before.state}")


def _peace(the: World) -> None:
    """Faults stop: every server reaches a stable or failed state within its deadlines and two sweeps (I26)."""
    the.heal()
    the.step(the.clock.monotonic() + 200.0)
    the.step(the.clock.monotonic() + 1.0)
    if the.life.maintenance:
        the.ask(MaintenanceChanged(False))
    the.restore()


def _forget(the: World) -> None:
    """A forgotten server's tokens never work again (I16)."""
    the.real_store.forget(the.id, the.clock.utc(), "simulation")
    the.watch.volumes.is_forgotten = True
    for url, fields in the.callbacks[-3:]:
        *_, token, signal = url.split("/")
        caller = the.boot.caller(token)
        assert caller is not None
        word = the.boot.signal(*caller, Signal(signal), read_news(fields), "10.0.0.5")
        check(word == "not found", "I16", f"a forgotten server's token heard {word!r}")
    script = the.get(f"{BASE}/ipxe?mac={MAC}").body
    check("/answer/" not in script, "I2", "an installer for a forgotten server")
    check("root-path" not in script, "I2", "a volume for a forgotten server")
