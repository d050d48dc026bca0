"""What happens to a server, told in one place.

Theory: a verb runs a workflow, which is a row of steps. A step *does* (one idempotent action, repeated until its target
is read back) or *awaits* (news from the machine, or evidence of it). Only three things end a step: its action's result,
its signal, its deadline. `decide` runs these rows; the transition table and `docs/lifecycle.md` are derived from them.

A workflow that sends its machine to netboot has an *errand*: what the machine is to do there, and with which signals it
says so. An errand that writes to disks begins with a signal that asks for go; one that touches none has no such signal.

Warning: a *do* step may be skipped only when its row names the signal that proves it. The *netboot* steps have one
(`install-started` cannot come from a machine that did not netboot); the flip of the boot device has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from baremetal.lifecycle.actions import (
    Action,
    CheckAccess,
    CheckLogin,
    EnsureBootDevice,
    EnsureNoVolume,
    EnsurePower,
    EnsureServed,
    EnsureVolume,
)
from baremetal.lifecycle.model import (
    BootDevice,
    BootTarget,
    Method,
    PowerState,
    Proof,
    ProvisionState,
    Run,
    Signal,
    Verb,
)

S = ProvisionState


@dataclass(frozen=True, slots=True)
class Do:
    """Make one thing true. `budget` names a field of Budgets; `action` None means the run's own boot target.

    `may_fail`: a run does not fail over it; what was not done is said, and done by a later run.
    """

    name: str
    action: Action | None
    state: ProvisionState
    budget: str = "ensure_s"
    proven_by: Signal | None = None
    only_for: frozenset[Proof] | None = None
    may_fail: bool = False


@dataclass(frozen=True, slots=True)
class Await:
    """Wait for a signal, or (signal None) for a boot script to be fetched; a miss may start netboot again."""

    name: str
    signal: Signal | None
    budget: str
    state: ProvisionState
    proven_by: Signal | None = None
    only_for: frozenset[Proof] | None = None


Step = Do | Await


@dataclass(frozen=True, slots=True)
class Errand:
    """What a netbooted machine is to do. `started` asks for go, None where no disk is touched.

    `noun` is the errand's name in sentences, `doer` who fails at it. `boots_later`: what it leaves behind calls home.
    `from_volume`: what it boots is the system on its volume, not a kernel of ours.
    """

    noun: str
    doer: str
    started: Signal | None
    complete: Signal
    failed: Signal
    boots_later: bool = False
    from_volume: bool = False

    @property
    def proof(self) -> Signal:
        """The first signal of the errand, which only a machine that netbooted can send."""
        return self.started or self.complete


class Way(StrEnum):
    """Which of a verb's rows a run takes, where there are several; its value ends the row's name."""

    DISK = ""
    ISCSI = " to iscsi"
    CLONE = " by clone"

    @classmethod
    def of(cls, method: Method | None, target: BootTarget) -> Way:
        """Choose by how the system gets onto its target, and where that is."""
        if method is Method.CLONE:
            return cls.CLONE
        return cls.ISCSI if method is not None and target is BootTarget.ISCSI else cls.DISK


@dataclass(frozen=True, slots=True)
class Workflow:
    """A verb's row. Where it fails to is the affair of the state it stands in (`fails_to`).

    `closing` has one step for each failed state that the row can end in.
    """

    verb: Verb
    begins: frozenset[ProvisionState]
    steps: tuple[Step, ...]
    ends: ProvisionState
    closing: tuple[Step, ...] = ()
    errand: Errand | None = None
    wipe: bool = False
    way: Way = Way.DISK

    @property
    def name(self) -> str:
        return f"{self.verb}{' --wipe' if self.wipe else ''}{self.way}"

    def step(self, run: Run) -> Step:
        """Return the step that an open run stands at."""
        return (self.closing if run.closing else self.steps)[run.step]

    def index(self, name: str) -> int:
        return next(i for i, step in enumerate(self.steps) if step.name == name)

    @property
    def netboot(self) -> int:
        """The index at which *netboot* begins: the power off before the boot device is set."""
        before = self.steps[: self.index("pxe")]
        return max(at for at, step in enumerate(before) if isinstance(step, Do) and step.action == _OFF)


FAILS_TO: Mapping[ProvisionState, ProvisionState] = {
    S.VERIFYING: S.ENROLL,
    S.DEPLOYING: S.DEPLOY_FAILED,
    S.WAIT_CALLBACK: S.DEPLOY_FAILED,
    S.DELETING: S.ERROR,
    S.CLEANING: S.CLEAN_FAILED,
    S.CLEAN_WAIT: S.CLEAN_FAILED,
    S.INSPECTING: S.INSPECT_FAILED,
    S.INSPECT_WAIT: S.INSPECT_FAILED,
    S.RESCUING: S.RESCUE_FAILED,
    S.RESCUE_WAIT: S.RESCUE_FAILED,
    S.UNRESCUING: S.UNRESCUE_FAILED,
}
"""The failed state of each moving state."""


_OFF = EnsurePower(PowerState.OFF)


def _off(state: ProvisionState, name: str = "off") -> Do:
    return Do(name, _OFF, state)


def _netboot(
    errand: Errand,
    doing: ProvisionState,
    waiting: ProvisionState,
    first: str = "off",
    once_off: tuple[Step, ...] = (),
) -> tuple[Step, ...]:
    proof = errand.proof
    # what boots from its volume goes on doing so, until release (promises I6)
    pxe = EnsureBootDevice(BootDevice.PXE, persistent=errand.from_volume)
    return (
        Do(first, _OFF, doing, proven_by=proof),
        *once_off,
        Do("pxe", pxe, doing, proven_by=proof),
        Do("on", EnsurePower(PowerState.ON), doing, proven_by=proof),
        Await("script", None, "boot_s", waiting, proven_by=proof),
    )


INSTALL = Errand(
    "install",
    "the installer",
    Signal.INSTALL_STARTED,
    Signal.INSTALL_COMPLETE,
    Signal.INSTALL_FAILED,
    boots_later=True,
)
CLONE = Errand("first boot", "the clone", None, Signal.FIRST_BOOT, Signal.INSTALL_FAILED, from_volume=True)
WIPE = Errand("wipe", "the wipe", Signal.WIPE_STARTED, Signal.WIPE_COMPLETE, Signal.WIPE_FAILED)
INSPECTION = Errand("inspection", "the inspection", None, Signal.INSPECT_COMPLETE, Signal.INSPECT_FAILED)
RESCUE = Errand("rescue", "the rescue system", None, Signal.RESCUE_STARTED, Signal.RESCUE_FAILED)

_VOLUME = Do("volume", EnsureVolume(), S.DEPLOYING, "volume_s")
# Once the server is off: a system that ran would go on writing, and its target shows another volume now.
_SERVE = Do("serve", EnsureServed(), S.DEPLOYING, "volume_s")
_PROOF = Do("proof", CheckLogin(), S.DEPLOYING, "proof_s", only_for=frozenset({Proof.SSH}))
# The volume of the run before goes once this run's system is proven, and not a moment earlier; mostly there is none.
_TIDY = Do("tidy", EnsureNoVolume(earlier=True), S.DEPLOYING, may_fail=True)

_AFTER_NETBOOT: tuple[Step, ...] = (
    Await("started", Signal.INSTALL_STARTED, "start_s", S.WAIT_CALLBACK),
    Await("complete", Signal.INSTALL_COMPLETE, "install_s", S.WAIT_CALLBACK),
    Do("flip", None, S.DEPLOYING),
    Await(
        "first boot",
        Signal.FIRST_BOOT,
        "first_boot_s",
        S.WAIT_CALLBACK,
        only_for=frozenset({Proof.SSH, Proof.FIRST_BOOT}),
    ),
    _PROOF,
    _TIDY,
)
_INSTALLING = (*_netboot(INSTALL, S.DEPLOYING, S.WAIT_CALLBACK), *_AFTER_NETBOOT)
_INSTALLING_THERE = (
    _VOLUME,
    *_netboot(INSTALL, S.DEPLOYING, S.WAIT_CALLBACK, once_off=(_SERVE,)),
    *_AFTER_NETBOOT,
)
_CLONING: tuple[Step, ...] = (
    _VOLUME,
    *_netboot(CLONE, S.DEPLOYING, S.WAIT_CALLBACK, once_off=(_SERVE,)),
    Await("first boot", Signal.FIRST_BOOT, "first_boot_s", S.WAIT_CALLBACK),
    _PROOF,
    _TIDY,
)
_RELEASING: tuple[Step, ...] = (
    _off(S.DELETING),
    Do("clear", EnsureBootDevice(BootDevice.NONE), S.DELETING),
)


def _wiping(first: str) -> tuple[Step, ...]:
    return (
        *_netboot(WIPE, S.CLEANING, S.CLEAN_WAIT, first),
        Await("started", Signal.WIPE_STARTED, "start_s", S.CLEAN_WAIT),
        Await("complete", Signal.WIPE_COMPLETE, "wipe_s", S.CLEAN_WAIT),
        _off(S.CLEANING, "end"),
    )


def _deploying(steps: tuple[Step, ...], errand: Errand, way: Way) -> Iterator[Workflow]:
    for verb, begins in (
        (Verb.DEPLOY, frozenset({S.AVAILABLE, S.DEPLOY_FAILED})),
        (Verb.REBUILD, frozenset({S.ACTIVE})),
    ):
        yield Workflow(verb, begins, steps, S.ACTIVE, closing=(_off(S.DEPLOYING),), errand=errand, way=way)


_TAKEN = frozenset({S.ACTIVE, S.DEPLOY_FAILED, S.ERROR, S.RESCUE, S.RESCUE_FAILED, S.UNRESCUE_FAILED})

_ROWS = (
    Workflow(
        Verb.MANAGE,
        begins=frozenset({S.ENROLL, S.AVAILABLE, S.CLEAN_FAILED, S.INSPECT_FAILED}),
        steps=(Do("check", CheckAccess(), S.VERIFYING, "access_s"),),
        ends=S.MANAGEABLE,
    ),
    Workflow(Verb.PROVIDE, frozenset({S.MANAGEABLE}), (), ends=S.AVAILABLE),
    Workflow(Verb.ADOPT, frozenset({S.MANAGEABLE}), (), ends=S.ACTIVE),
    *_deploying(_INSTALLING, INSTALL, Way.DISK),
    *_deploying(_INSTALLING_THERE, INSTALL, Way.ISCSI),
    *_deploying(_CLONING, CLONE, Way.CLONE),
    Workflow(
        Verb.RELEASE,
        _TAKEN,
        (*_RELEASING, Do("volume", EnsureNoVolume(), S.DELETING)),
        ends=S.AVAILABLE,
        closing=(_off(S.DELETING),),
    ),
    Workflow(
        Verb.INSPECT,
        begins=frozenset({S.MANAGEABLE, S.INSPECT_FAILED}),
        steps=(
            *_netboot(INSPECTION, S.INSPECTING, S.INSPECT_WAIT),
            Await("complete", Signal.INSPECT_COMPLETE, "inspect_s", S.INSPECT_WAIT),
            _off(S.INSPECTING, "end"),
        ),
        ends=S.MANAGEABLE,
        closing=(_off(S.INSPECTING),),
        errand=INSPECTION,
    ),
    Workflow(
        Verb.RESCUE,
        begins=frozenset({S.ACTIVE, S.RESCUE_FAILED, S.UNRESCUE_FAILED}),
        steps=(
            *_netboot(RESCUE, S.RESCUING, S.RESCUE_WAIT),
            Await("started", Signal.RESCUE_STARTED, "rescue_s", S.RESCUE_WAIT),
        ),
        ends=S.RESCUE,
        closing=(_off(S.RESCUING),),
        errand=RESCUE,
    ),
    Workflow(
        Verb.UNRESCUE,
        begins=frozenset({S.RESCUE, S.RESCUE_FAILED, S.UNRESCUE_FAILED}),
        steps=(
            _off(S.UNRESCUING),
            Do("flip", None, S.UNRESCUING),
            # not "on": this power-on sends nobody to netboot, so it opens no window
            Do("boot", EnsurePower(PowerState.ON), S.UNRESCUING),
            Do("proof", CheckLogin(), S.UNRESCUING, "first_boot_s", only_for=frozenset({Proof.SSH})),
        ),
        ends=S.ACTIVE,
        closing=(_off(S.UNRESCUING),),
    ),
    Workflow(
        Verb.PROVIDE,
        begins=frozenset({S.MANAGEABLE, S.CLEAN_FAILED}),
        steps=_wiping("off"),
        ends=S.AVAILABLE,
        closing=(_off(S.CLEANING),),
        errand=WIPE,
        wipe=True,
    ),
    Workflow(
        Verb.RELEASE,
        begins=_TAKEN,
        # the volume first: from a wipe that failed, ways lead to available that know of no volume
        steps=(*_RELEASING, Do("volume", EnsureNoVolume(), S.DELETING), *_wiping("still off")),
        ends=S.AVAILABLE,
        closing=(_off(S.DELETING), _off(S.CLEANING)),
        errand=WIPE,
        wipe=True,
    ),
)

WORKFLOWS: Mapping[tuple[Verb, bool, Way], Workflow] = {
    (flow.verb, flow.wipe, flow.way): flow for flow in _ROWS
}
"""Every row, by its verb, whether wiping is asked, and its way."""
ROWS: Mapping[tuple[Verb, bool, Method | None, BootTarget], Workflow] = {
    (verb, wipe, method, target): flow
    for (verb, wipe, way), flow in WORKFLOWS.items()
    for method in (None, *Method)
    for target in BootTarget
    if Way.of(method, target) is way
}
"""The same, by what a run knows: its verb, whether wiping is asked, its method, its target."""
METHODS: Mapping[Verb, frozenset[Method]] = {
    Verb.DEPLOY: frozenset(Method),
    Verb.REBUILD: frozenset(Method),
}


def row(
    verb: Verb, *, wipe: bool = False, method: Method | None = None, target: BootTarget = BootTarget.DISK
) -> Workflow | None:
    """Return the row that a verb runs, None where there is none."""
    return ROWS.get((verb, wipe, method, target))


MOVING = frozenset(step.state for flow in _ROWS for step in (*flow.steps, *flow.closing))
FAILED = frozenset(FAILS_TO.values())


def allowed_verbs(state: ProvisionState) -> tuple[str, ...]:
    """Return the verbs that may begin in this state, in the order an operator would try them."""
    verbs = list(dict.fromkeys(str(flow.verb) for flow in _ROWS if state in flow.begins))
    return tuple(verbs + (["abort"] if state in MOVING else []))
