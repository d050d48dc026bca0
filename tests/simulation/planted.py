"""Bugs planted on purpose: a simulation that finds nothing must be shown to find these.

Each bends one part of one process of the program, the way a plausible mistake would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from msgspec.structs import replace

from baremetal.drivers.base import BmcDriver, Permit
from baremetal.engine.perform import Performer, Quirks, Seen
from baremetal.errors import BaremetalError, Unknown
from baremetal.lifecycle.actions import Action, CheckAccess, EnsureBootDevice, EnsurePower
from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Decision, Outcome
from baremetal.lifecycle.events import Asked, Event, Heard
from baremetal.lifecycle.model import BootMode, Run, Server, Signal, Verb
from baremetal.lifecycle.workflows import WIPE
from baremetal.service.boot.callbacks import Word
from baremetal.service.boot.looks import Look
from baremetal.service.boot.machine import Machine
from baremetal.service.boot.news import News
from baremetal.service.servers.manner import local_script
from baremetal.storage.base import Tag
from baremetal.store.records import Committed, ServerRecord
from baremetal.store.store import Store
from tests.simulation.world import FaultyStore, Killed, World


def answer_before_commit(world: World) -> None:
    """The reply to the call-back that ends an install leaves first; the commit follows when there is time."""
    honest = world.boot.signal

    def signal(server_id: str, run: int, signal: Signal, news: News, address: str) -> Word:
        if signal is not Signal.INSTALL_COMPLETE:
            return honest(server_id, run, signal, news, address)
        event = Heard(signal, run, news.boot_id, address, news.disk, stage=news.stage, message=news.text)
        try:
            life = world.store.server(server_id).life
        except Unknown:
            return Word.GONE
        decision = decide(life, event, world.now())
        alive = world.incarnation

        def commit() -> None:
            if alive == world.incarnation:
                try:
                    world.engine.submit(server_id, event, facts=news.facts(signal))
                except (BaremetalError, Killed):
                    return

        world.clock.later(1.0, commit)
        return Word(str(decision.reply))

    world.boot.signal = signal  # type: ignore[method-assign]


def ignore_the_generation(world: World) -> None:
    """A decision is written down whatever happened since its server was read."""

    class Careless(FaultyStore):
        def commit(
            self, server_id: str, before: Server, decision: Decision, event: Event, at: datetime, **more: Any
        ) -> Committed | None:
            if decision.outcome is Outcome.CHANGED:
                self.race()
                now = world.real_store.server(server_id).life
                fence = max(now.fence, decision.server.fence)
                after = replace(decision.server, generation=now.generation + 1, fence=fence)
                before = replace(before, generation=now.generation, fence=now.fence)
                decision = replace(decision, server=after)
            return super().commit(server_id, before, decision, event, at, **more)

    world.engine.store = cast(Store, Careless(world, world.incarnation))


class _Trusting(Performer):
    """Believes the BMC's OK."""

    def perform(
        self, action: Action, bmc: BmcDriver, boot_mode: BootMode, quirks: Quirks, permit: Permit
    ) -> Seen:
        if isinstance(action, EnsurePower):
            bmc.set_power(action.target, permit)  # type: ignore[arg-type]
            return Seen(wrote=True, power=action.target)
        if isinstance(action, EnsureBootDevice):
            efi = boot_mode is BootMode.UEFI
            bmc.set_boot_device(action.device, persistent=action.persistent, efi=efi, permit=permit)
            return Seen(wrote=True)
        assert isinstance(action, CheckAccess)
        return super().perform(action, bmc, boot_mode, quirks, permit)


def skip_a_read_back(world: World) -> None:
    """What the BMC accepted is taken for done."""
    world.engine._performer = _Trusting(
        world.performer.sleep, world.performer.login, volumes=world.performer.volumes
    )


def serve_a_script_after_go(world: World) -> None:
    """Whoever asks while a run is open is served its script."""
    honest = world.boot.settle

    def settle(looks: Sequence[Look]) -> list[str]:
        (look,) = looks
        run = look.record.life.run if look.record is not None else None
        if look.record is None or run is None or run.go is None or run.closing:
            return honest(looks)
        return [world.kitchen.script(world.recipe(), look.record.id, run.number, look.machine.base)]

    world.boot.settle = settle  # type: ignore[method-assign]


def accept_an_old_run(world: World) -> None:
    """A call-back's token opens the server's present run, whichever run it was made for."""
    honest = world.boot.signal

    def signal(server_id: str, run: int, signal: Signal, news: News, address: str) -> Word:
        try:
            present = world.store.server(server_id).life.run
        except Unknown:
            present = None
        return honest(
            server_id, present.number if present else run, signal, dataclasses.replace(news, run=""), address
        )

    world.boot.signal = signal  # type: ignore[method-assign]


def wipe_at_every_release(world: World) -> None:
    """Whatever is released is wiped too."""
    honest = world.engine.submit

    def submit(server_id: str, event: Event, **more: Any) -> Decision:
        if isinstance(event, Asked) and event.verb is Verb.RELEASE and not event.wipe:
            return honest(server_id, replace(event, wipe=True), begin=world.begin(WIPE))
        return honest(server_id, event, **more)

    world.engine.submit = submit  # type: ignore[method-assign]


def wipe_before_go_is_recorded(world: World) -> None:
    """A wipe is let go at once, and is decided when there is time."""
    honest = world.boot.signal

    def signal(server_id: str, run: int, signal: Signal, news: News, address: str) -> Word:
        if signal is not Signal.WIPE_STARTED:
            return honest(server_id, run, signal, news, address)
        alive = world.incarnation

        def commit() -> None:
            if alive == world.incarnation:
                try:
                    honest(server_id, run, signal, news, address)
                except (BaremetalError, Killed):
                    return

        world.clock.later(1.0, commit)
        return Word.GO

    world.boot.signal = signal  # type: ignore[method-assign]


def remove_a_volume_by_its_name(world: World) -> None:
    """Whatever has the name that a volume of ours would have is removed."""
    rack = world.rack
    if rack is None:
        return
    honest = rack.keeper.remove

    def remove(name: str, tag: Tag) -> bool:
        there = rack.storage.volumes.get(name)
        return honest(name, there.tag if there is not None else tag)  # type: ignore[arg-type]

    rack.keeper.remove = remove  # type: ignore[method-assign]


def make_a_volume_unasked(world: World) -> None:
    """A volume is made as soon as it is owed; that it was to be is written down with the result."""
    rack = world.rack
    if rack is None:
        return
    honest = rack.volumes.make

    def make(record: ServerRecord, run: Run, permit: Permit) -> str:
        return honest(record, run, lambda: None)

    rack.volumes.make = make  # type: ignore[method-assign]


def tidy_before_the_proof(world: World) -> None:
    """The volume of the run before goes as soon as there is a new one."""
    rack = world.rack
    if rack is None:
        return
    volumes = rack.volumes
    honest = volumes.serve

    def serve(record: ServerRecord, run: Run, permit: Permit) -> str:
        served = honest(record, run, permit)
        volumes.remove(record, run, permit, earlier=True)
        return served

    volumes.serve = serve  # type: ignore[method-assign]


def tidy_every_system_but_the_newest(world: World) -> None:
    """What is not this run's is of the past, the volumes of other systems too."""
    rack = world.rack
    if rack is None:
        return
    honest = rack.volumes.remove

    def remove(record: ServerRecord, run: Run, permit: Permit, *, earlier: bool) -> str:
        alone = replace(record, life=replace(record.life, systems=()))
        return honest(alone, run, permit, earlier=earlier)

    rack.volumes.remove = remove  # type: ignore[method-assign]


def serve_a_volume_as_soon_as_it_stands(world: World) -> None:
    """A server's target shows a new volume while its old system still runs from there."""
    rack = world.rack
    if rack is None:
        return
    volumes = rack.volumes
    honest = volumes.make

    def make(record: ServerRecord, run: Run, permit: Permit) -> str:
        return honest(record, run, permit) + volumes.serve(record, run, permit)

    volumes.make = make  # type: ignore[method-assign]


def leave_servers_in_maintenance_alone(world: World) -> None:
    """In maintenance, a machine that asks is left to its own disk, even one that has none."""
    honest = world.boot.look

    def look(machine: Machine) -> Look:
        found = honest(machine)
        if found.record is None or not found.record.life.maintenance:
            return found
        return Look(machine, found.record, None, text=local_script(found.record, "in maintenance"))

    world.boot.look = look  # type: ignore[method-assign]


def forget_where_volumes_are(world: World) -> None:
    """Where a server's volume is, is asked of the database each time."""
    if world.sans is not None:
        world.sans.recall = lambda machine: None  # type: ignore[method-assign]


PLANTED: Mapping[Callable[[World], None], str] = {
    answer_before_commit: "I5",
    ignore_the_generation: "I8",
    skip_a_read_back: "P8",
    serve_a_script_after_go: "I3",
    accept_an_old_run: "I22",
    wipe_at_every_release: "P3",
    wipe_before_go_is_recorded: "I3",
    remove_a_volume_by_its_name: "I21",
    make_a_volume_unasked: "I13",
    tidy_before_the_proof: "I21",
    tidy_every_system_but_the_newest: "I21",
    serve_a_volume_as_soon_as_it_stands: "I7",
    leave_servers_in_maintenance_alone: "I7",
    forget_where_volumes_are: "I7",
}
"""Each with the promise that finds it broken."""
OF_STORAGE = frozenset(
    {
        remove_a_volume_by_its_name,
        make_a_volume_unasked,
        tidy_before_the_proof,
        tidy_every_system_but_the_newest,
        serve_a_volume_as_soon_as_it_stands,
        leave_servers_in_maintenance_alone,
        forget_where_volumes_are,
    }
)
"""Those that only a server which boots from a storage host can suffer from."""
