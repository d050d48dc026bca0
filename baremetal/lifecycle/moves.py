"""Moving along a run: standing at a step, leaving it, giving the run up, ending it.

Owns how one decision changes a server that stands somewhere in a workflow's row. Deliberately unknown: what happened to
cause it (`decide.py`, `news.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from baremetal.lifecycle.actions import Action, EnsureBootDevice, EnsureNoVolume
from baremetal.lifecycle.decision import Decision, Outcome, Reply
from baremetal.lifecycle.model import BootTarget, ProvisionState, Run, Server, Verb
from baremetal.lifecycle.workflows import FAILS_TO, ROWS, Do, Step, Workflow, allowed_verbs


def owed(server: Server) -> Action | None:
    """Return the action that the server's state says must be done; recomputed, never queued."""
    if server.run is None or server.maintenance:
        return None
    step = workflow(server.run).step(server.run)
    if not isinstance(step, Do):
        return None
    return step.action or EnsureBootDevice(server.run.flip, persistent=server.run.flip != "none")


def workflow(run: Run) -> Workflow:
    return ROWS[run.verb, run.wipe, run.method, run.target]


def current_step(server: Server) -> Step | None:
    """Return the step the server's open run stands at, or None without a run."""
    return workflow(server.run).step(server.run) if server.run else None


def enter(server: Server, index: int, now: datetime) -> Server:
    """Return the server standing at a step of its run (or closing row), its deadline set, its counters clean."""
    return replace(server, **_standing_at(server, index, now))


def _standing_at(server: Server, index: int, now: datetime) -> dict[str, Any]:
    """Return what changes of the server when it enters a step."""
    run = server.run
    assert run is not None
    flow = workflow(run)
    step = (flow.closing if run.closing else flow.steps)[index]
    budget = getattr(run.budgets, step.budget)
    deadline: datetime | None = later(now, budget)
    paused = server.paused
    if server.maintenance:
        deadline, paused = None, timedelta(seconds=budget)
    standing = replace(
        run,
        step=index,
        entered=now,
        deadline=deadline,
        retry_at=None,
        postponed_s=0.0,
        tries=0,
        power_writes=0,
        trouble="",
    )
    return {"state": step.state, "paused": paused, "run": standing}


def advance(before: Server, server: Server, note: str, now: datetime) -> Decision:
    """The current step is done: go to the next one that is still to be done, or end the run."""
    run = server.run
    assert run is not None
    flow = workflow(run)
    if run.closing:
        return _end(before, server, FAILS_TO[server.state], run.closing, note)
    index = next_step(server, run.step + 1)
    if index is None:
        return _end(before, server, flow.ends, "", note)
    return changed(before, server, note, **_standing_at(server, index, now))


def next_step(server: Server, first: int) -> int | None:
    """Return the first step, from this one on, that is still to be done by the server's run; None: it is done."""
    run = server.run
    assert run is not None
    steps = workflow(run).steps
    return next((index for index in range(first, len(steps)) if not _is_settled(steps[index], server)), None)


def resume(before: Server, server: Server, note: str, now: datetime) -> Decision:
    """A signal was heard: leave the current step if that settles it, else just remember."""
    run = server.run
    assert run is not None
    if _is_settled(workflow(run).step(run), server):
        return advance(before, server, note, now)
    return changed(before, server, note)


def _is_settled(step: Step, server: Server) -> bool:
    run = server.run
    assert run is not None
    if step.only_for is not None and run.proof not in step.only_for:
        return True
    if step.proven_by is not None and step.proven_by in run.heard:
        return True
    if not isinstance(step, Do):
        return step.signal in run.heard
    match step.action:
        case EnsureNoVolume(earlier=True):
            return set(server.volumes) <= kept_volumes(server)
        case EnsureNoVolume():
            return not server.volumes
    return False


def other_systems(server: Server) -> tuple[tuple[str, int], ...]:
    """Return the systems beside the one that the open run is about."""
    run = server.run
    assert run is not None
    return tuple(system for system in server.systems if system[0] != run.system)


def kept_volumes(server: Server) -> frozenset[int]:
    """Return the runs whose volumes outlast the open run's tidying: none where it ends on the disk."""
    run = server.run
    if run is None or run.target is not BootTarget.ISCSI:
        return frozenset()
    return frozenset({run.number, *(number for _, number in other_systems(server))})


def netboot_again(server: Server, now: datetime) -> Server:
    run = server.run
    assert run is not None
    reset = server.with_run(attempt=run.attempt + 1, serves=0, power_on_intended=False, flags_at=None)
    return enter(reset, workflow(run).netboot, now)


def close(before: Server, reason: str, now: datetime) -> Decision:
    """Give the run up in one commit: tokens dead, fence raised; then the closing row, then the failed state."""
    run = before.run
    assert run is not None
    server = replace(before, fence=before.fence + 1)
    ends = FAILS_TO[before.state]
    last = [at for at, step in enumerate(workflow(run).closing) if FAILS_TO[step.state] is ends]
    if not last:
        return _end(before, server, ends, reason, reason)
    closing = enter(server.with_run(closing=reason), last[0], now)
    return changed(before, closing, f"{reason}; the run is closed, power off follows")


def fail(server: Server, reason: str, now: datetime) -> Decision:
    run = server.run
    assert run is not None
    if run.closing:
        reason = f"{run.closing}; and then: {reason}"
    return _end(server, server, FAILS_TO[server.state], reason, f"failed: {reason}")


def _end(before: Server, server: Server, state: ProvisionState, reason: str, note: str) -> Decision:
    run = server.run
    assert run is not None
    deployed, found_on, target = server.deployed, server.found_on, server.target
    systems = server.systems
    released = run.verb is Verb.RELEASE and (not reason or state is ProvisionState.CLEAN_FAILED)
    if not reason and run.method is not None:
        deployed, found_on, target = run.number, False, run.target
        systems = (*other_systems(server), (run.system, run.number)) if target is BootTarget.ISCSI else ()
    elif released or (run.wipe and not reason):
        deployed, found_on, target, systems = 0, False, BootTarget.DISK, ()
    elif run.go is not None or run.served:
        # what its target showed before is not shown any more; other systems have targets of their own
        systems = other_systems(server) if run.served else systems
        if not (run.served and any(number == deployed for _, number in systems)):
            deployed, target = 0, BootTarget.DISK
    ended = replace(
        server,
        state=state,
        run=None,
        paused=None,
        last_error=reason,
        deployed=deployed,
        found_on=found_on,
        target=target,
        systems=systems,
    )
    return changed(before, ended, f"{note}; now {state}" if not reason else f"{note}")


def changed(before: Server, after: Server, note: str, **more: Any) -> Decision:
    """Decide for `after`, with `more` of its fields changed."""
    after = replace(after, generation=before.generation + 1, **more)
    return Decision(after, owed(after), note)


def noop(server: Server, note: str, reply: Reply = Reply.OK) -> Decision:
    return Decision(server, owed(server), note, Outcome.NOOP, reply)


def refuse_machine(server: Server, note: str) -> Decision:
    """Refuse the machine: recorded, answered with 409."""
    return Decision(server, owed(server), note, Outcome.REFUSED, Reply.REFUSED)


def refuse_operator(server: Server, what: str) -> Decision:
    """Refuse an operator, naming what is allowed."""
    allowed = ", ".join(allowed_verbs(server.state)) or "nothing but waiting"
    return Decision(server, owed(server), f"{what} (allowed: {allowed})", Outcome.REFUSED, Reply.REFUSED)


def later(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)
