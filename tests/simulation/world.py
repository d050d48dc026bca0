"""One simulated life's world: the real store, engine, drivers and boot service on a virtual clock, with faults between.

What is simulated is outside of the program: time, the BMC, the machine, its network, the operator, and the process's
death. A dead process is a `Killed` that unwinds everything; then a new engine is built on the same database.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from baremetal.drivers import sim as board
from baremetal.drivers.base import BmcCredentials, BmcDriver, BmcUrl, Permit
from baremetal.drivers.registry import open_conversation
from baremetal.engine.conversations import BmcMemo, Conversations
from baremetal.engine.engine import Begin, Engine
from baremetal.engine.observations import Observations
from baremetal.engine.perform import LoginTarget, Performer
from baremetal.engine.steady import SteadyClock
from baremetal.errors import BaremetalError, BmcError, BmcErrorKind, LoginError, Unavailable, Unknown
from baremetal.lifecycle.decision import Decision
from baremetal.lifecycle.events import Asked, Event, MaintenanceChanged, SystemChosen
from baremetal.lifecycle.model import MAIN, BootTarget, Server, Signal
from baremetal.lifecycle.workflows import CLONE, INSPECTION, INSTALL, RESCUE, WIPE, Errand, row
from baremetal.netboot.context import ServerFacts, merge_variables
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.templates import Frozen, Templates, freeze
from baremetal.netboot.tokens import TokenMint
from baremetal.service.boot.boot import Boot
from baremetal.service.boot.machine import Machine
from baremetal.service.boot.news import read_news
from baremetal.service.boot.sans import Sans
from baremetal.service.recipe import Kitchen, Recipe
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.clock import VirtualClock
from baremetal.sim.knobs import HEALTHY
from baremetal.sim.machine import SOUND, SimulatedMachine
from baremetal.sim.network import NoAnswer, Reply
from baremetal.sim.sessions import User
from baremetal.store.records import Committed, Credentials, Facts, NewServer, RunRecord, ServerRecord
from baremetal.store.store import Store
from tests.simulation.broken import Broken
from tests.simulation.faults import OwnFaults, Plan
from tests.simulation.invariants import Watch
from tests.simulation.rack import Rack

BASE = "http://boot.test"
MAC = "02:00:00:00:00:01"
PASSWORD = "made-up"
TEMPLATE = """# the part of an answer file that a simulated installer reads
report={{ urls.callback | sh }}
run={{ run.id | sh }}
disk={{ disk | sh }}
"""
RAM_TEMPLATE = """# the part of a RAM system's script that a simulated one reads
BM_ERRAND={{ profile.name | sh }}
report={{ urls.callback | sh }}
run={{ run.id | sh }}
"""
SEED_TEMPLATE = """#!/bin/sh
# the part of a clone's user-data that a simulated first boot reads
report={{ urls.callback | sh }}
run={{ run.id | sh }}
"""
PROFILE = Profile("sim", Family.KICKSTART, "vmlinuz", "initrd.img", "kickstart/sim.ks.j2")
CLONE_PROFILE = Profile("clone", Family.NOCLOUD, "", "", "nocloud/sim.sh.j2")
RAM_PROFILES = {
    errand: Profile(name, Family.RAMDISK, "vmlinuz", "initrd.img", "ramdisk/sim.sh.j2")
    for errand, name in ((WIPE, "wipe"), (INSPECTION, "inspect"), (RESCUE, "rescue"))
}
Menu = Mapping[Errand, tuple[Profile, Frozen]]


class Killed(BaseException):
    """The process is dead: nothing of it may run on."""


def frozen_templates(folder: Path) -> Menu:
    """Write the simulation's small templates and freeze them with the shipped loaders, by the errand they are for."""
    profiles = {INSTALL: PROFILE, CLONE: CLONE_PROFILE, **RAM_PROFILES}
    texts = {PROFILE.template: TEMPLATE, CLONE_PROFILE.template: SEED_TEMPLATE}
    for profile in profiles.values():
        path = folder / profile.template
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.get(profile.template, RAM_TEMPLATE))
    own = Templates.with_own(folder)
    return {errand: (profile, freeze(profile, own)) for errand, profile in profiles.items()}


class World:
    """One server's world. `plant` bends the program's own parts, for the planted bugs."""

    def __init__(
        self,
        seed: int,
        plan: Plan,
        store: Store,
        templates: Menu,
        plant: Callable[[World], None] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.plan = plan
        self.own = plan.own
        self.clock = VirtualClock()
        self.templates = templates
        self.real_store = store
        self.plant = plant
        self.incarnation = 0
        self.down_until: float | None = None
        self.stall_until = 0.0
        self.host_boot = 0
        self.writes = 0
        self._due: datetime | None = None
        self.unreturned = False
        """Whether the database did not take a reservation back; the next sweep returns it."""
        self._due_known_at = -1
        self.kitchen = Kitchen(TokenMint(b"0" * 32), "ssh-ed25519 AAAA proof")
        self.name = f"s{seed}"
        self.machine = SimulatedMachine(self.name, (MAC,), self.clock, self, BASE, random.Random(seed + 1))
        self.machine.knobs = plan.machine
        self.machine.pxe_first = plan.bmc.pxe_first
        self.bmc = SimulatedBmc(
            self.machine,
            self.clock.monotonic,
            plan.bmc,
            random.Random(seed + 2),
            users=(User("admin", PASSWORD),),
        )
        self.machine.firmware = self.bmc.take_boot
        board.plug(self.name, self.bmc, self.sleep)
        self.mode = self.rng.choice(("bios", "uefi"))
        quirks = ("efi=never",) if plan.bmc.efi_policy != "honest" and self.rng.random() < 0.5 else ()
        if plan.bmc.ignore_persist and self.rng.random() < 0.7:
            quirks = (*quirks, "flip=none")
        self.quirks = quirks
        wrong_password = self.rng.random() < 0.05
        wrong_suite = len(plan.bmc.suites) == 1 and self.rng.random() < 0.5
        self.plan.fired["wrong password"] += wrong_password
        facts = Facts(
            bmc=f"sim://{self.name}" + (f"?cipher={20 - plan.bmc.suites[0]}" if wrong_suite else ""),
            bmc_identity=f"sim://{self.name}",
            macs=(MAC,),
            boot_mode=self.mode,
            quirks=quirks,
        )
        account = Credentials("admin", "mistyped" if wrong_password else PASSWORD)
        (record,) = store.add_servers([NewServer(Server(self.name), facts, account)], self.clock.utc())
        self.id = record.id
        self._frozen: dict[tuple[Errand, BootTarget, str], Begin] = {}
        self.rack = Rack(self, plan.storage, random.Random(seed + 3)) if plan.storage is not None else None
        self.watch = Watch(self)
        self.callbacks: list[tuple[str, dict[str, object]]] = []
        self._boot_process()

    # -- the process: started, killed, restarted --

    def _boot_process(self) -> None:
        self.incarnation += 1
        alive = self.incarnation
        self.down_until = None
        self.store = cast(Store, FaultyStore(self, alive))
        if self.rng.random() < 0.1:
            self.host_boot += 1
        self.now = SteadyClock.resume(
            self.real_store, self.clock.utc, self.clock.monotonic, f"host-{self.host_boot}"
        )
        self.conversations = Conversations(
            lambda url, account: self._open(url, account, alive),
            _Memory(self.store),
            secret=b"s" * 32,
            clock=self.clock.monotonic,
            now=self.now,
            sleep=lambda seconds: self.sleep(seconds, alive),
        )
        volumes = self.rack.begin() if self.rack is not None else None
        self.performer = Performer(lambda seconds: self.sleep(seconds, alive), self._login, volumes=volumes)
        self.engine = Engine(self.store, self.conversations, self.performer, self._locate, self.now)
        self.engine.attend = _unforgiving(self.engine.attend)  # type: ignore[method-assign, assignment]
        self.observations = Observations(self.store, self.now)
        self.sans = Sans(self.store, self.rack.doors.san) if self.rack is not None else None
        self.boot = Boot(
            self.store, self.engine, self.observations, self.kitchen, now=self.now, sans=self.sans
        )
        if self.sans is not None:
            self.engine.listen(self.sans.follow)
            with suppress(Unavailable):
                self.sans.learn()
        if self.plant is not None:
            self.plant(self)
        self.real_store.void_reservations()
        self.writes += 1

    def die(self) -> None:
        """Kill the process now; it is started again some time later."""
        self.plan.fired["kill"] += 1
        self.incarnation += 1
        self.down_until = self.clock.monotonic() + self.rng.uniform(0.0, 120.0)
        raise Killed

    def check_alive(self, alive: int) -> None:
        """Raise Killed in code of a process that has died meanwhile."""
        if alive != self.incarnation:
            raise Killed

    def chance(self, knob: str) -> bool:
        """Draw one of our own faults, while faults last."""
        odds: float = getattr(self.own, knob)
        if odds and self.rng.random() < odds:
            self.plan.fired[knob] += 1
            return True
        return False

    def maybe_die(self) -> None:
        odds = self.own.kill
        if odds and self.rng.random() < odds:
            self.die()

    def heal(self) -> None:
        """End all faults, as I26 supposes."""
        self.own = OwnFaults()
        self.machine.knobs = SOUND
        self.bmc.knobs = replace(HEALTHY, pxe_first=self.plan.bmc.pxe_first)
        if self.rack is not None:
            self.rack.heal()
        self.stall_until = 0.0

    # -- time --

    def sleep(self, seconds: float, alive: int | None = None) -> None:
        """Let time pass inside the program; machines go on meanwhile, and may find it dead afterwards."""
        self.clock.pass_time(seconds)
        if alive is not None:
            self.check_alive(alive)

    def step(self, until_s: float) -> None:
        """Let time pass up to the next thing that happens, and sweep."""
        now = self.clock.monotonic()
        if self.down_until is not None:
            self.clock.pass_time(max(0.0, min(self.down_until, until_s) - now))
            if self.clock.monotonic() >= self.down_until:
                self._boot_process()
            return
        times = [until_s, now + 60.0]
        if (at := self.clock.next_at()) is not None:
            times.append(at)
        if now >= self.stall_until and (due := self._next_due()) is not None:
            offset = (due - self.now()).total_seconds()
            times.append(now + max(offset, 0.0))
        self._alive(lambda: self.clock.pass_time(max(min(times) - now, 0.01)))
        if self.chance("clock"):
            self.clock.offset_s += self.rng.choice((-1, 1)) * self.rng.uniform(1.0, 30 * 86400.0)
        if self.chance("miss_tick"):
            self.stall_until = self.clock.monotonic() + self.rng.uniform(1.0, 3600.0)
        if self.clock.monotonic() >= self.stall_until and self._is_due():
            self._alive(self.sweep)

    def _next_due(self) -> datetime | None:
        """Return when something is due; asked of the store again only after something was written to it."""
        if self._due_known_at != self.writes:
            self._due_known_at, self._due = self.writes, self.real_store.next_due()
        return self._due

    def _is_due(self) -> bool:
        """Whether a sweep would find anything: most ticks of a long install find nothing."""
        due = self._next_due()
        return self.unreturned or (due is not None and due <= self.now())

    def sweep(self) -> None:
        try:
            self.engine.sweep()
        except Unavailable:
            return
        self.unreturned = False

    def _alive(self, call: Callable[[], object]) -> None:
        if self.down_until is not None:
            return
        try:
            call()
        except Killed:
            return

    # -- the operator --

    @property
    def life(self) -> Server:
        return self.watch.life

    def ask(self, event: Asked | MaintenanceChanged | SystemChosen) -> Decision | None:
        """Ask as an operator does; None where the service does not answer."""
        if self.down_until is not None:
            return None
        begin = None
        if isinstance(event, Asked):
            self.watch.asked(event)
            flow = row(event.verb, wipe=event.wipe, method=event.method, target=event.target)
            if flow is not None and flow.errand is not None:
                begin = self.begin(flow.errand, event.target, event.system)
        try:
            return self.engine.submit(self.id, event, begin=begin)
        except (Killed, Unavailable):
            return None

    def begin(self, errand: Errand, target: BootTarget = BootTarget.DISK, system: str = MAIN) -> Begin:
        """Return what a run with this errand freezes: one recipe per life, boot target and system."""
        known = self._frozen.get((errand, target, system))
        if known is None:
            recipe = self.recipe(errand)
            if target is BootTarget.ISCSI and self.rack is not None:
                recipe = replace(recipe, volume=self.rack.plan(errand, system).as_dict())
            known = self._frozen[errand, target, system] = Begin(recipe.profile.name, recipe.as_dict())
        return known

    def recipe(self, errand: Errand = INSTALL) -> Recipe:
        facts = ServerFacts(self.id, self.name, (MAC,), MAC, boot_mode=self.mode)
        profile, templates = self.templates[errand]
        return Recipe(profile, "sim", merge_variables({}), facts, templates)

    def restore(self) -> None:
        """Have forgotten targets served again, as an operator does who reads what is not served (S4-11)."""
        if self.rack is not None and self.watch.volumes.has_lost():
            self.plan.fired["restore"] += 1
            self._alive(self.rack.restore)

    def heed_boot_device(self) -> None:
        """Name the quirk that an error about the boot device asks for, as an operator does who has read it."""
        self.quirks = (*self.quirks, "flip=none")
        record = self.real_store.server(self.id)
        facts = replace(record.facts, quirks=self.quirks)
        self.real_store.set_facts(self.id, facts, None, self.now(), "simulation", "quirk flip=none")

    def correct_bmc(self) -> None:
        """Set the BMC's account and URL right, as an operator does who has read the error."""
        record = self.real_store.server(self.id)
        facts = replace(record.facts, bmc=f"sim://{self.name}")
        account = Credentials("admin", PASSWORD)
        self.real_store.set_facts(self.id, facts, account, self.now(), "simulation", "corrected")
        self.conversations.thaw(BmcUrl.parse(facts.bmc))

    # -- the machine's network (baremetal.sim.network.Network) --

    def get(self, url: str) -> Reply:
        return self._carry(lambda: self._get(url))

    def post(self, url: str, fields: Mapping[str, object]) -> Reply:
        kept = (url, dict(fields))
        if kept not in self.callbacks:
            self.callbacks.append(kept)
        if self.chance("late"):
            self.clock.later(self.rng.uniform(1.0, 900.0), lambda: self._stray(url, fields))
        if self.chance("doubled"):
            self._stray(url, fields)
        return self._carry(lambda: self._post(url, fields))

    def _stray(self, url: str, fields: Mapping[str, object]) -> None:
        """A copy of a request that arrives by itself; nobody hears the reply."""
        try:
            self._carry(lambda: self._post(url, fields))
        except NoAnswer:
            return

    def _carry(self, request: Callable[[], Reply]) -> Reply:
        if self.down_until is not None or self.chance("lost"):
            raise NoAnswer("lost")
        try:
            reply = request()
            self.maybe_die()
        except Killed:
            raise NoAnswer("the service died") from None
        if self.chance("lost_reply"):
            raise NoAnswer("the reply was lost")
        return reply

    def _get(self, url: str) -> Reply:
        path = url.removeprefix(BASE)
        if path.startswith("/ipxe?mac="):
            look = self.boot.look(Machine(mac=path.removeprefix("/ipxe?mac="), address="10.0.0.5", base=BASE))
            text = self.boot.settle([look])[0] if look.commits else self.boot.script(look)
            self.watch.served_script(look.machine.mac, text)
            return Reply(200, text)
        _, _, token, file = path.split("/")
        try:
            text_or_none = self.boot.answer(token, file, "10.0.0.5", BASE)
        except Unavailable:
            return Reply(503, "wait")
        self.watch.served_answer(text_or_none)
        return Reply(200, text_or_none) if text_or_none is not None else Reply(404, "not found")

    def _post(self, url: str, fields: Mapping[str, object]) -> Reply:
        _, _, token, signal = url.removeprefix(BASE).split("/")
        caller = self.boot.caller(token)
        if caller is None:
            return Reply(404, "not found")
        try:
            word = self.boot.signal(*caller, Signal(signal), read_news(fields), "10.0.0.5")
        except Unavailable:
            return Reply(503, "wait")
        self.watch.answered(caller[1], Signal(signal), str(word), fields)
        status = {"go": 200, "ok": 200, "wait": 503, "refused": 409, "not found": 404}[str(word)]
        return Reply(status, str(word))

    # -- seams of the program --

    def _open(self, url: BmcUrl, account: BmcCredentials, alive: int) -> BmcDriver:
        self.check_alive(alive)
        self.watch.conversation_opened()
        try:
            driver = open_conversation(url, account)
        except BaseException as error:
            self.watch.conversation_closed()
            if isinstance(error, BmcError) and error.kind is BmcErrorKind.AUTH:
                self.watch.login_refused()
            raise
        return cast(BmcDriver, _Mortal(self, driver, alive))

    def _locate(self, record: ServerRecord, run: RunRecord) -> LoginTarget:
        return LoginTarget((("10.0.0.5", 22),), run.ssh_host_keys, f"{record.id}/{run.number}")

    def _login(self, address: str, port: int, host_keys: Sequence[str], deadline_s: float) -> str:
        try:
            text = self.machine.login()
        except NoAnswer as error:
            self.sleep(5.0)
            raise LoginError("no sshd", transient=True) from error
        if self.machine.host_key() not in host_keys:
            raise LoginError("another host key", transient=True)
        self.watch.logged_in = text
        return text

    def close(self) -> None:
        """Unplug the BMC and forget the server, also after a broken promise."""
        board.unplug(self.name)
        if self.rack is not None:
            self.rack.close()
        with suppress(Unknown):
            self.real_store.forget(self.id, self.clock.utc(), "simulation")


def _unforgiving(
    attend: Callable[[ServerRecord, datetime], float],
) -> Callable[[ServerRecord, datetime], float]:
    """A sweep logs what breaks for one server and goes on; here it is the end."""

    def watched(record: ServerRecord, now: datetime) -> float:
        try:
            return attend(record, now)
        except BaremetalError:
            raise
        except Exception as error:
            raise Broken(f"P1: the engine broke: {error!r}") from error

    return watched


# What moves nothing that is due: reads, and notes beside the decisions.
_READS = frozenset(
    {
        "due",
        "next_due",
        "server",
        "find_server",
        "run",
        "find_boot",
        "frozen",
        "credentials",
        "bmc_memo",
        "history",
    }
    | {"volumes", "door", "storage_hosts"}
    | {"observe", "save_bmc_memo", "saw_unknown", "add_log"}
)


class FaultyStore:
    """The real store, seen by one incarnation of the process: it may fail, or the process may die around it."""

    def __init__(self, world: World, alive: int) -> None:
        self._world = world
        self._alive = alive
        self._store = world.real_store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        world, alive, writes = self._world, self._alive, name not in _READS

        def call(*args: Any, **kwargs: Any) -> Any:
            world.check_alive(alive)
            if world.own.db_fault and world.chance("db_fault"):
                world.unreturned |= name == "unreserve"
                raise Unavailable("the database does not answer")
            world.writes += writes
            return method(*args, **kwargs)

        self.__dict__[name] = call
        return call

    def commit(
        self,
        server_id: str,
        before: Server,
        decision: Decision,
        event: Event,
        at: datetime,
        **more: Any,
    ) -> Committed | None:
        world = self._world
        world.check_alive(self._alive)
        world.maybe_die()
        self.race()
        fault = world.own.db_fault and world.chance("db_fault")
        world.unreturned |= bool(fault) and more.get("until") is not None
        if fault and world.rng.random() < 0.5:
            raise Unavailable("the database failed before the commit")
        world.writes += 1
        done = self._store.commit(server_id, before, decision, event, at, **more)
        if done is not None:
            world.watch.committed(before, decision, event, at)
            if done.fence is not None:
                world.watch.reserved(done.fence)
        if fault:
            raise Unavailable("the connection was lost after the commit")
        world.maybe_die()
        return done

    def after_commit(self, call: Callable[[], None]) -> None:
        self._store.after_commit(call)

    def race(self) -> None:
        """Let others be quicker, between the moment when a server was read and the one when it is written."""
        if self._world.own.race and self._world.chance("race"):
            self._world.sleep(self._world.rng.uniform(0.1, 30.0), self._alive)


class _Memory:
    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, identity: str) -> BmcMemo | None:
        memo = self._store.bmc_memo(identity)
        return BmcMemo(memo.refused, memo.at, memo.reason) if memo is not None else None

    def save(self, identity: str, memo: BmcMemo) -> None:
        self._store.save_bmc_memo(identity, memo)


class _Mortal:
    """A conversation that a dying process leaves open: its slot in the BMC's table is lost until it is reaped."""

    def __init__(self, world: World, driver: BmcDriver, alive: int) -> None:
        self._world = world
        self._driver = driver
        self._alive = alive
        self._over = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._driver, name)
        world = self._world

        def call(*args: Any, **kwargs: Any) -> Any:
            world.check_alive(self._alive)
            world.maybe_die()
            if name == "set_power":
                args = (args[0], self._watched(name, args[1]))
            elif name == "set_boot_device":
                kwargs["permit"] = self._watched(name, kwargs["permit"])
            result = method(*args, **kwargs)
            world.check_alive(self._alive)
            world.maybe_die()
            return result

        return call

    def _watched(self, name: str, permit: Permit) -> Permit:
        def ask() -> None:
            permit()
            self._world.watch.bmc_written(name)

        return ask

    def close(self) -> None:
        if self._over:
            return
        self._over = True
        self._world.watch.conversation_closed()
        if self._alive == self._world.incarnation:
            self._driver.close()


@contextmanager
def world(
    seed: int, plan: Plan, store: Store, templates: Menu, plant: Callable[[World], None] | None = None
) -> Iterator[World]:
    """Build a world and take it down again."""
    built = World(seed, plan, store, templates, plant)
    try:
        yield built
    finally:
        built.close()
