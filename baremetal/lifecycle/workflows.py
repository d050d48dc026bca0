"""What happens to a server, told in one place.

Theory: a verb runs a workflow, which is a row of steps. A step *does* (one idempotent action, repeated until its target
is read back) or *awaits* (news from the machine, or evidence of it). Only three things end a step: its action's result,
its signal, its deadline. `decide` runs these rows; the transition table and `docs/lifecycle.md` are derived from them.

Warning: a *do* step may be skipped only when its row names the signal that proves it. The *netboot* steps have one
(`install-started` cannot come from a machine that did not netboot); the flip of the boot device has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from baremetal.lifecycle.actions import Action, CheckAccess, CheckLogin, EnsureBootDevice, EnsurePower
from baremetal.lifecycle.model import BootDevice, Method, PowerState, Proof, ProvisionState, Run, Signal, Verb

S = ProvisionState


@dataclass(frozen=True, slots=True)
class Do:
    """Make one thing true. `budget` names a field of Budgets; `action` None means the run's own boot target."""

    name: str
    action: Action | None
    state: ProvisionState
    budget: str = "ensure_s"
    proven_by: Signal | None = None
    only_for: frozenset[Proof] | None = None


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
class Workflow:
    verb: Verb
    begins: frozenset[ProvisionState]
    steps: tuple[Step, ...]
    ends: ProvisionState
    fails_to: ProvisionState
    closing: tuple[Step, ...] = ()

    def step(self, run: Run) -> Step:
        """Return the step that an open run stands at."""
        return (self.closing if run.closing else self.steps)[run.step]

    def index(self, name: str) -> int:
        return next(i for i, step in enumerate(self.steps) if step.name == name)


def _off(state: ProvisionState) -> Do:
    return Do("off", EnsurePower(PowerState.OFF), state)


NETBOOT: tuple[Step, ...] = (
    Do("off", EnsurePower(PowerState.OFF), S.DEPLOYING, proven_by=Signal.INSTALL_STARTED),
    Do("pxe", EnsureBootDevice(BootDevice.PXE), S.DEPLOYING, proven_by=Signal.INSTALL_STARTED),
    Do("on", EnsurePower(PowerState.ON), S.DEPLOYING, proven_by=Signal.INSTALL_STARTED),
    Await("script", None, "boot_s", S.WAIT_CALLBACK, proven_by=Signal.INSTALL_STARTED),
)

INSTALL: tuple[Step, ...] = (
    *NETBOOT,
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
    Do("proof", CheckLogin(), S.DEPLOYING, "proof_s", only_for=frozenset({Proof.SSH})),
)

MANAGE = Workflow(
    Verb.MANAGE,
    begins=frozenset({S.ENROLL, S.AVAILABLE}),
    steps=(Do("check", CheckAccess(), S.VERIFYING, "access_s"),),
    ends=S.MANAGEABLE,
    fails_to=S.ENROLL,
)
PROVIDE = Workflow(Verb.PROVIDE, frozenset({S.MANAGEABLE}), (), ends=S.AVAILABLE, fails_to=S.MANAGEABLE)
ADOPT = Workflow(Verb.ADOPT, frozenset({S.MANAGEABLE}), (), ends=S.ACTIVE, fails_to=S.MANAGEABLE)
DEPLOY = Workflow(
    Verb.DEPLOY,
    begins=frozenset({S.AVAILABLE, S.DEPLOY_FAILED}),
    steps=INSTALL,
    ends=S.ACTIVE,
    fails_to=S.DEPLOY_FAILED,
    closing=(_off(S.DEPLOYING),),
)
REBUILD = Workflow(
    Verb.REBUILD,
    begins=frozenset({S.ACTIVE}),
    steps=INSTALL,
    ends=S.ACTIVE,
    fails_to=S.DEPLOY_FAILED,
    closing=(_off(S.DEPLOYING),),
)
RELEASE = Workflow(
    Verb.RELEASE,
    begins=frozenset({S.ACTIVE, S.DEPLOY_FAILED, S.ERROR}),
    steps=(_off(S.DELETING), Do("clear", EnsureBootDevice(BootDevice.NONE), S.DELETING)),
    ends=S.AVAILABLE,
    fails_to=S.ERROR,
    closing=(_off(S.DELETING),),
)

WORKFLOWS: Mapping[Verb, Workflow] = {w.verb: w for w in (MANAGE, PROVIDE, ADOPT, DEPLOY, REBUILD, RELEASE)}
METHODS: Mapping[Verb, frozenset[Method]] = {
    Verb.DEPLOY: frozenset({Method.INSTALLER, Method.IMAGE}),
    Verb.REBUILD: frozenset({Method.INSTALLER, Method.IMAGE}),
}
MOVING = frozenset(step.state for w in WORKFLOWS.values() for step in (*w.steps, *w.closing))


def allowed_verbs(state: ProvisionState) -> tuple[str, ...]:
    """Return the verbs that may begin in this state, in the order an operator would try them."""
    verbs = [str(w.verb) for w in WORKFLOWS.values() if state in w.begins]
    return tuple(verbs + (["abort"] if state in MOVING else []))
