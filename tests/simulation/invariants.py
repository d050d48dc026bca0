"""What must never be otherwise, checked while a simulated life is lived: one method per moment, one id per promise.

A broken invariant raises `Broken` at once, from wherever it was seen; the runner prints the seed that replays it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from baremetal.lifecycle.actions import EnsureBootDevice, EnsurePower
from baremetal.lifecycle.decision import Decision, Outcome
from baremetal.lifecycle.events import Asked, Did, Event, Heard, Intended
from baremetal.lifecycle.model import (
    BootDevice,
    BootTarget,
    Method,
    PowerState,
    Proof,
    ProvisionState,
    Run,
    Server,
    Signal,
    Verb,
)
from baremetal.lifecycle.moves import current_step, owed
from baremetal.lifecycle.table import edges, position
from baremetal.lifecycle.windows import answer_window_open, is_complete
from baremetal.lifecycle.workflows import FAILED, MOVING, allowed_verbs
from baremetal.sim.disk import SimulatedDisk
from baremetal.store.history import fold
from tests.simulation.broken import Broken, check
from tests.simulation.volumes import VolumeWatch

if TYPE_CHECKING:
    from tests.simulation.world import World


class Watch:
    """The observer of one world. It reads the real store, never the program's own view of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open = 0
        self._refused = 0
        self._intended: Intended | None = None
        self._reserved = 0
        self._flipped = 0
        self._scripts: Counter[tuple[int, int]] = Counter()
        self._wipes: dict[int, bool] = {}
        self.logged_in = ""
        """What the last successful login printed."""
        self.edges: Counter[str] = Counter()
        self.initial = world.real_store.server(world.id).life
        self.life = self.initial
        """The server as the commits have left it; compared with what is stored when the life is over."""
        self.volumes = VolumeWatch(self, world)
        """What is watched of a storage host, in a life that has one."""

    def asked(self, event: Asked) -> None:
        """The operator asks: whether for a wipe is known from here, not from what the program made of it."""
        if event.verb is not Verb.ABORT:
            self._wipes[self.life.runs + 1] = event.wipe

    def reserved(self, fence: int) -> None:
        check(fence > self.life.fence, "I11", "a reservation did not raise the fence")
        self.life = replace(self.life, fence=fence)
        assert self._intended is not None
        self._intended = replace(self._intended, fence=fence)  # what was intended with it is done under it
        self._reserved = fence

    # -- state --

    def committed(self, before: Server, decision: Decision, event: Event, at: datetime) -> None:
        after = decision.server
        if isinstance(event, Intended) and decision.outcome is Outcome.CHANGED:
            self._intended = event
        if decision.outcome is not Outcome.CHANGED:
            same = after is before or after == before
            check(same, "I8", "a {} changed {}", decision.outcome, before.state)
            return
        self.edges[f"{position(before)} -> {position(after)}"] += 1
        stored = self.life
        check(before is stored or before == stored, "I8", "decided on a server that has moved on")
        self.life = after
        if before.state is not after.state:
            check(
                (before.state, after.state) in edges(), "I9", "{} to {} is no edge", before.state, after.state
            )
        check(after.runs >= before.runs, "I10", "a run number went back")
        if before.run is not None and after.run is not None:
            check(after.run.number == before.run.number, "I10", "a run was replaced while it was open")
        check(after.fence >= before.fence, "I11", "the fence went down")
        if before.run is not None and before.run.go is not None and after.run is not None:
            same = after.run.go is not None and after.run.go.boot_id == before.run.go.boot_id
            check(same, "I3", "go was given twice")
        if after.maintenance and after.run is not None:
            check(after.run.deadline is None, "I17", "a deadline runs in maintenance")
            given = before.run is None or before.run.go == after.run.go
            check(given, "I17", "go in maintenance")
        if after.state in MOVING and not after.maintenance:
            check(after.run is not None and after.run.deadline is not None, "I9", "moving without a deadline")
        if after.state in FAILED - {ProvisionState.ENROLL}:
            check(bool(after.last_error), "I15", "{} without a reason", after.state)
            check(bool(allowed_verbs(after.state)), "I15", "{} without a next verb", after.state)
        if isinstance(event, Did):
            self._believed(before, event)
        if after.run is None and before.run is not None and not after.last_error:
            self._achieved(before, after, event)

    def _believed(self, before: Server, event: Did) -> None:
        """A recorded *done* is true of the machine: nothing is believed that was not read back.

        What was read and needed no write may have changed since, where time passes before the commit.
        """
        action, step, world = owed(before), current_step(before), self._world
        surely = event.wrote or not (world.own.race or world.bmc.knobs.delay)
        if step is not None and step.name == "flip" and before.run is not None:
            self._flipped = before.run.number
        if isinstance(action, EnsurePower):
            on = action.target is PowerState.ON
            check(world.machine.is_on is on or not surely, "P8", "{}: recorded, and not so", action)
        elif isinstance(action, EnsureBootDevice):
            flags = world.bmc.options.read(5, world.bmc.knobs, world.clock.monotonic())
            valid, persistent, device = bool(flags[2] & 0x80), bool(flags[2] & 0x40), flags[3] >> 2 & 0x0F
            efi = bool(flags[2] & 0x20)
            wanted = {BootDevice.PXE: 1, BootDevice.DISK: 2, BootDevice.NONE: 0}[action.device]
            so = (not valid or device == 0) if wanted == 0 else (valid and device == wanted)
            if wanted:
                so = so and persistent is action.persistent
                so = so and ("efi=never" in world.quirks or efi is (world.mode == "uefi"))
            # flags for one boot run out by themselves: then somebody else's quicker commit is all it takes
            ran_out = bool(world.own.race) and not action.persistent and not valid
            check(
                so or not surely or ran_out, "P8", "{}: recorded, and the BMC holds {}", action, flags.hex()
            )
            persists = persistent and device == 1
            check(not persists or self._may_persist(before), "I6", "persistent PXE")

    def _may_persist(self, server: Server) -> bool:
        """Whether it boots its volume: from the flip on, a clone from its power-on."""
        run, step = server.run, current_step(server)
        if run is None or step is None or run.target is not BootTarget.ISCSI:
            return False
        return step.name == "flip" or run.method is Method.CLONE

    def _achieved(self, before: Server, after: Server, event: Event) -> None:
        """A run has ended well: what it claims is so on the machine."""
        run, world = before.run, self._world
        assert run is not None
        name = f"{world.id}/{run.number}"
        if run.wipe:
            wiped = [write.what for write in world.machine.disk.log if write.run == name]
            check(
                wiped == ["wiping", "wiped"], "I18", f"{after.state} after a wipe, and the disk says {wiped}"
            )
            check(
                not world.machine.disk.system, "I18", f"{after.state} after a wipe, and a system is on disk"
            )
        if run.verb is Verb.INSPECT or run.verb is Verb.RESCUE:
            check(
                (str(run.verb), name) in world.machine.errands,
                "I14",
                f"{after.state}, and the machine was not there",
            )
        if run.verb is Verb.UNRESCUE:
            check(self._flipped == run.number, "I14", "unrescued, and the boot device was never set")
            if run.proof is Proof.SSH:
                check(self.logged_in == f"{world.id}/{after.deployed}", "I14", "unrescued to another system")
        elif after.state is ProvisionState.ACTIVE:
            self._proven(before, event)

    def _proven(self, before: Server, event: Event) -> None:
        run, machine = before.run, self._world.machine
        assert run is not None
        heard = run.heard | {event.signal} if isinstance(event, Heard) else run.heard
        name, disk = f"{self._world.id}/{run.number}", self._target_disk(run)
        cloned = run.method is Method.CLONE
        proof = Signal.FIRST_BOOT if cloned else Signal.INSTALL_COMPLETE
        check(proof in heard, "I14", "active without {} of this run", proof)
        check(disk.system == name, "I14", "active, and another system is on disk")
        check(machine.running == name and machine.root is disk, "I14", "active, and the system does not run")
        check(cloned or self._flipped == run.number, "I14", "active, and the boot device was never flipped")
        check(Signal.FIRST_BOOT in heard or run.proof is Proof.SSH, "I14", "active without first-boot")
        if run.proof is Proof.SSH:
            check(self.logged_in == name, "I14", "active, and nobody has logged in")

    def _target_disk(self, run: Run) -> SimulatedDisk:
        """Return what a run was to write to: the machine's own disk, or the run's volume."""
        return self._world.machine.disk if run.target is BootTarget.DISK else self.volumes.disk_of(run.number)

    # -- the BMC --

    def conversation_opened(self) -> None:
        self._open += 1
        check(self._open == 1, "I12", "two conversations with one BMC")

    def login_refused(self) -> None:
        self._refused += 1
        check(self._refused <= 2, "P10", "{} wrong logins with one account", self._refused)

    def conversation_closed(self) -> None:
        self._open -= 1

    def bmc_written(self, kind: str) -> None:
        """The first byte of a write is being sent, by a driver that asked for permission."""
        self.written(kind)

    def written(self, kind: str) -> Run:
        """Something outside is being changed, of which the engine was asked beforehand; return the run it is for."""
        life = self.life
        run = life.run
        check(self._intended is not None, "I13", "{} without a recorded intention", kind)
        assert self._intended is not None
        check(not life.maintenance, "I17", "{} in maintenance", kind)
        check(run is not None, "I13", "{} for a run that is over", kind)
        assert run is not None
        same = (self._intended.run, self._intended.step, self._intended.fence) == (
            run.number,
            run.step,
            life.fence,
        )
        check(same, "I11", "{} under an older fence", kind)
        check(self._reserved == life.fence, "I11", "{} without a reservation", kind)
        check(run.verb is not Verb.MANAGE, "I20", "{} while verifying", kind)
        return run

    # -- the boot app --

    def served_script(self, mac: str, text: str) -> None:
        if self._world.rack is not None:
            self.volumes.served_script(mac, text)
        if "/answer/" not in text:
            return
        life = self.life
        run = life.run
        check(mac == self._world.machine.macs[0], "I2", "an installer for a stranger")
        check(run is not None and not run.closing, "I1", "an installer's script in {}", life.state)
        assert run is not None
        check(run.go is None, "I3", "an installer's script after go")
        check(
            run.power_on_intended and not life.maintenance, "I4", "an installer's script outside the window"
        )
        self._scripts[run.number, run.attempt] += 1
        times = self._scripts[run.number, run.attempt]
        check(times <= run.limits.max_serves, "I3", "script number {} of one netboot", times)

    def served_answer(self, text: str | None) -> None:
        if text is None:
            return
        run = self.life.run
        check(run is not None and not run.closing, "I1", "an answer file in {}", self.life.state)
        assert run is not None
        check(run.power_on_intended, "I4", "an answer file before power-on was intended")
        check(f"{self._world.id}/{run.number}" in text, "I22", "an answer file of another run")
        check(not is_complete(run), "I4", "an answer file after the errand was complete")

    def answered(self, number: int, signal: Signal, word: str, fields: Mapping[str, object]) -> None:
        """A call-back has its reply: whatever it says was committed before."""
        life = self.life
        run = life.run if life.run is not None and life.run.number == number else None
        asks = signal is Signal.INSTALL_STARTED or signal is Signal.WIPE_STARTED
        check(word != "go" or asks, "I3", "go for {}", signal)
        if word == "go":
            check(run is not None and not run.closing, "I3", "go for a run that is over")
            assert run is not None
            check(run.go is not None and run.go.boot_id == fields["boot_id"], "I3", "go that is not recorded")
            if signal is Signal.WIPE_STARTED and run.go is not None:
                disk = self._world.machine.disk
                check(
                    run.go.disks == (f"{disk.name} {disk.serial}",), "I18", "go to wipe what is not recorded"
                )
        if signal in _COMPLETE and word == "ok":
            accepted = self._world.real_store.run(self._world.id, number)
            check(
                accepted is not None and str(signal) in accepted.accepted,
                "I5",
                "complete answered, not recorded",
            )
            check(not answer_window_open(life) or run is None, "I5", "complete answered with the window open")
        if run is None and word not in ("ok", "not found"):
            raise Broken(f"I22: {signal} of a run that is over heard {word!r}")

    # -- the end --

    def settled(self) -> None:
        """The life is over: the history tells the whole of it, and the disk's own log agrees with the requests."""
        world = self._world
        life = self.life
        check(world.real_store.server(world.id).life == life, "I8", "what is stored is not what was decided")
        entries = world.real_store.history(server_id=world.id, kinds=("decision",), limit=100_000)
        folded = fold(entries, self.initial)
        check(folded.generation == life.generation, "I8", "the history lacks a change")
        check(replace(folded, fence=life.fence) == life, "I8", "folding differs")
        step = current_step(life)
        check(step is None, "I26", "still {}, although faults stopped long ago", life.run)
        written = [*world.machine.disk.log, *(self.volumes.settled(life) if world.rack is not None else ())]
        begun = Counter((write.run, write.what) for write in written if write.boot_id)
        runs = sorted(world.real_store.runs(world.id), key=lambda run: run.number)
        check([run.number for run in runs] == [*range(1, life.runs + 1)], "I10", "run numbers with gaps")
        check(
            all(run.ended_at is not None for run in runs), "I10", "a run that is over is open in its record"
        )
        asked = {f"{world.id}/{run.number}": run for run in runs}
        for write in written:
            check(
                not write.boot_id or (write.run in asked and asked[write.run].boot_id == write.boot_id),
                "I3",
                f"{write.what} by a boot that was not given go",
            )
        for (name, what), times in begun.items():
            check(times == 1, "P2", f"run {name}: {what} {times} times")
            run = asked.get(name)
            check(run is not None, "P3", f"run {name}: {what} and nobody asked for it")
            assert run is not None
            installs = what in ("partitioning", "installed")
            wanted = run.verb in _INSTALLS if installs else self._wipes.get(run.number, False)
            check(wanted, "P3", f"run {name}, a {run.verb}: {what} and nobody asked for it")


_INSTALLS = (str(Verb.DEPLOY), str(Verb.REBUILD))
_COMPLETE = frozenset(
    {Signal.INSTALL_COMPLETE, Signal.WIPE_COMPLETE, Signal.INSPECT_COMPLETE, Signal.RESCUE_STARTED}
)
