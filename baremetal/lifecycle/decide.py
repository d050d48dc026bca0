"""One function that runs a server's life: `decide(server, event, now)`.

Pure: values in, values out; no clock, no log, no I/O. The caller records the decision first and acts afterwards,
perhaps in another process, perhaps twice. The rows it runs are in `workflows.py`; the answers it gives are compared,
cell by cell, with `tests/golden/transitions.md`. Here are the verbs, the results of our own actions, and time; what the
machine says is in `news.py`, how a run moves along in `moves.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import blake2b

from msgspec.structs import replace

from baremetal.lifecycle.actions import (
    CheckAccess,
    CheckLogin,
    EnsureNoVolume,
    EnsurePower,
    EnsureServed,
    EnsureVolume,
)
from baremetal.lifecycle.decision import Decision
from baremetal.lifecycle.events import (
    Asked,
    Did,
    Event,
    Failed,
    Fetched,
    Heard,
    Intended,
    MaintenanceChanged,
    Overdue,
    SystemChosen,
)
from baremetal.lifecycle.model import BootTarget, PowerState, ProvisionState, Run, Server, Verb
from baremetal.lifecycle.moves import (
    advance,
    changed,
    close,
    enter,
    fail,
    kept_volumes,
    later,
    netboot_again,
    next_step,
    noop,
    owed,
    refuse_operator,
    workflow,
)
from baremetal.lifecycle.news import hear, notice_fetch
from baremetal.lifecycle.workflows import METHODS, MOVING, Do, Workflow, row

HOUR = timedelta(hours=1)
# What switches off, or overwrites, a system that somebody else may have left running.
_INTERRUPTS = frozenset({"deploy", "inspect", "provide --wipe"})


def decide(server: Server, event: Event, now: datetime) -> Decision:
    """Return what this event makes of this server. Total: every event has an answer in every state.

    `now` is aware and only compared with the times that earlier decisions wrote, so a replay of the recorded events
    at their recorded times gives the same values.
    """
    match event:
        case Asked(verb=Verb.ABORT):
            return _abort(server, event, now)
        case Asked():
            return _begin(server, event, now)
        case Intended():
            return _intended(server, event, now)
        case Did():
            return _did(server, event, now)
        case Failed():
            return _failed(server, event, now)
        case Heard():
            return hear(server, event, now)
        case Fetched():
            return notice_fetch(server, event, now)
        case Overdue():
            return _overdue(server, event, now)
        case MaintenanceChanged():
            return _maintenance(server, event, now)
        case SystemChosen():
            return _choose(server, event)


# -- verbs ---------------------------------------------------------------------------------------------------------


def _begin(server: Server, asked: Asked, now: datetime) -> Decision:
    flow = row(asked.verb, wipe=asked.wipe, method=asked.method, target=asked.target)
    if flow is None:
        what = "wipes nothing; provide and release do" if asked.wipe else f"no method {asked.method}"
        return refuse_operator(server, f"{asked.verb}: {what}")
    if server.run is not None:
        return refuse_operator(
            server, f"{asked.verb}: the server is {server.state}; run {server.run.number} is under way"
        )
    if server.maintenance:
        return refuse_operator(
            server, f"{asked.verb}: the server is in maintenance; switch maintenance off first"
        )
    if server.state not in flow.begins:
        return refuse_operator(server, f"{flow.name}: not from {server.state}{_hint(server, flow)}")
    if asked.verb in METHODS and asked.method not in METHODS[asked.verb]:
        return refuse_operator(server, f"{asked.verb}: no method {asked.method or 'given'}")
    if flow.name in _INTERRUPTS and server.found_on and not asked.force:
        return refuse_operator(
            server,
            f"{flow.name}: the server was found powered on when it was enrolled and has never been released by us; "
            "it may carry a system. Adopt and release it, or use --force",
        )
    if not flow.steps:
        word = "on the operator's word" if asked.verb is Verb.ADOPT else "nothing to do on the machine"
        ended = replace(server, state=flow.ends, last_error="")
        if asked.verb is Verb.ADOPT:
            ended = replace(ended, target=asked.target)
        return changed(server, ended, f"{asked.verb}: {word}; now {flow.ends}")
    number = server.runs + 1
    run = Run(
        number=number,
        verb=asked.verb,
        method=asked.method,
        started=now,
        entered=now,
        wipe=asked.wipe,
        # what installs nothing brings back, or takes away, what is there
        target=server.target if asked.method is None else asked.target,
        system=asked.system,
        proof=asked.proof,
        reboots=asked.reboots,
        asks_go=asked.asks_go,
        flip=asked.flip,
        budgets=asked.budgets,
        limits=asked.limits,
        last_sign=f"{flow.name} asked by {asked.by}",
    )
    begun = replace(server, runs=number, run=run, last_error="")
    note = f"{flow.name} asked by {asked.by}: run {number} begins"
    return changed(server, enter(begun, next_step(begun, 0) or 0, now), note)


def _hint(server: Server, flow: Workflow) -> str:
    if flow.verb is Verb.DEPLOY and server.state is ProvisionState.ACTIVE:
        return "; use --rebuild to install it anew"
    if flow.verb is Verb.PROVIDE and server.state is ProvisionState.CLEAN_FAILED:
        return " without --wipe; manage it first to offer it as it is"
    return ""


def _abort(server: Server, asked: Asked, now: datetime) -> Decision:
    run = server.run
    if run is None or server.state not in MOVING:
        return refuse_operator(server, f"abort: nothing is under way, the server is {server.state}")
    if run.closing:
        return refuse_operator(server, "abort: the run is being closed already")
    return close(server, f"aborted by {asked.by}", now)


def _maintenance(server: Server, event: MaintenanceChanged, now: datetime) -> Decision:
    if event.on == server.maintenance:
        return noop(server, f"maintenance is {'on' if event.on else 'off'} already")
    after = replace(server, maintenance=event.on, fence=server.fence + 1)
    run = server.run
    if event.on and run is not None and run.deadline is not None:
        after = replace(after.with_run(deadline=None), paused=max(run.deadline - now, timedelta(0)))
    elif not event.on and run is not None and server.paused is not None:
        after = replace(after.with_run(deadline=now + server.paused), paused=None)
    return changed(server, after, f"maintenance {'on' if event.on else 'off'} by {event.by}")


def _choose(server: Server, event: SystemChosen) -> Decision:
    number = dict(server.systems).get(event.system)
    if number is None:
        has = ", ".join(name for name, _ in server.systems) or "none on volumes"
        return refuse_operator(server, f"boot {event.system}: no such system; it has {has}")
    if server.run is not None or server.state not in (ProvisionState.ACTIVE, ProvisionState.DEPLOY_FAILED):
        return refuse_operator(server, f"boot {event.system}: the server is {server.state}, not active")
    if number == server.deployed:
        return noop(server, f"it boots {event.system} already")
    note = f"boots {event.system} from now on, by {event.by}"
    return changed(server, server, note, deployed=number, target=BootTarget.ISCSI)


# -- results of our own actions ------------------------------------------------------------------------------------


def _current(server: Server, event: Intended | Did | Failed) -> Do | None:
    """Return the step this result belongs to, or None when it is stale."""
    run = server.run
    if run is None or (event.run, event.step, event.fence) != (run.number, run.step, server.fence):
        return None
    step = workflow(run).step(run)
    return step if isinstance(step, Do) else None


def _intended(server: Server, event: Intended, now: datetime) -> Decision:
    step = _current(server, event)
    run = server.run
    if step is None or run is None or isinstance(step.action, CheckAccess | CheckLogin):
        return noop(server, "a write that is no longer wanted was not sent")
    if server.maintenance:
        return noop(server, "in maintenance: the write was not sent")
    if run.deadline is not None and now >= run.deadline:
        return noop(server, f"{step.name}: the deadline has passed, the write was not sent")
    if not isinstance(step.action, EnsurePower):
        kept = server.volumes
        if isinstance(step.action, EnsureVolume) and run.number not in kept:
            kept = (*kept, run.number)
        intends = replace(run, trouble="", served=run.served or isinstance(step.action, EnsureServed))
        return changed(server, server, f"intends {owed(server)}", run=intends, volumes=kept)
    # a write that seems to be ahead of us was made before the clock was set back
    recent = tuple(at for at in server.power_writes if timedelta(0) <= now - at < HOUR)
    if run.power_writes >= run.limits.power_writes_per_step:
        return fail(
            server, f"BM109 {step.action}: {run.power_writes} power writes in one step had no effect", now
        )
    if len(recent) >= run.limits.power_writes_per_hour:
        return fail(
            server, f"BM109 {step.action}: {len(recent)} power writes in an hour, the flap guard says no", now
        )
    netboot_on = step.name == "on"
    if netboot_on and (run.flags_at is None or _seconds(now, run.flags_at) > run.limits.flags_fresh_s):
        if run.attempt >= run.limits.netboot_attempts:
            return close(server, f"BM110 power on came too late for the boot flags, {run.attempt} times", now)
        again = enter(server.with_run(attempt=run.attempt + 1), workflow(run).index("pxe"), now)
        note = "the boot flags are too old to trust; setting them again before power on"
        return changed(server, again, note)
    intended = replace(
        run, power_writes=run.power_writes + 1, power_on_intended=run.power_on_intended or netboot_on
    )
    return changed(server, server, f"intends {step.action}", power_writes=(*recent, now), run=intended)


def _did(server: Server, event: Did, now: datetime) -> Decision:
    step = _current(server, event)
    run = server.run
    if step is None or run is None:
        return noop(server, "a result that came too late")
    action = owed(server) or step.action
    if step.name == "on" and not run.power_on_intended:
        if run.attempt >= run.limits.netboot_attempts:
            return close(server, "BM110 somebody else keeps switching the server on", now)
        note = "power was on although nobody here intended it; netboot begins again"
        return changed(server, netboot_again(server, now), note)
    after = server
    if isinstance(step.action, CheckAccess):
        after = replace(after, found_on=after.found_on or event.power is PowerState.ON)
    if step.name == "pxe":
        after = after.with_run(flags_at=now)
    if isinstance(step.action, EnsureNoVolume):
        kept = kept_volumes(server) if step.action.earlier else frozenset()
        after = replace(after, volumes=tuple(each for each in after.volumes if each in kept))
    how = "done" if event.wrote else "already so"
    seen = f" ({event.seen})" if event.seen else ""
    return advance(server, after, f"{action}: {how}{seen}", now)


def _failed(server: Server, event: Failed, now: datetime) -> Decision:
    step = _current(server, event)
    run = server.run
    if step is None or run is None:
        return noop(server, f"a failure that came too late: {event.error}")
    if not event.transient:
        return _give_up(server, step, event.error, now)
    wait = max(event.retry_after_s, _backoff_s(run))
    changes: dict[str, object] = {
        "tries": run.tries + 1,
        "trouble": event.error,
        "retry_at": later(now, wait),
    }
    if event.pauses and run.deadline is not None:
        spent = run.postponed_s + wait
        if spent <= run.limits.patience_s:
            changes |= {"postponed_s": spent, "deadline": later(run.deadline, wait)}
    return changed(server, server.with_run(**changes), f"{event.error}; trying again in {wait:.0f} s")


def _give_up(server: Server, step: Do, error: str, now: datetime) -> Decision:
    if step.may_fail:
        return advance(server, server, f"{step.action}: not done, and left to a later run: {error}", now)
    return fail(server, error, now)


def _backoff_s(run: Run) -> float:
    """Exponential 1 to 20 s with full jitter, drawn from the run itself so that a replay decides the same."""
    top = min(20.0, 2.0**run.tries)
    seed = f"{run.number}/{run.step}/{run.tries}/{run.started.timestamp()}".encode()
    share = int.from_bytes(blake2b(seed, digest_size=4).digest(), "big") / 2**32
    return 0.25 + share * (top - 0.25)


# -- time ----------------------------------------------------------------------------------------------------------


def _overdue(server: Server, event: Overdue, now: datetime) -> Decision:
    run = server.run
    if run is None or (run.number, run.step) != (event.run, event.step):
        return noop(server, "a deadline of a step that is over")
    if run.deadline is None or now < run.deadline:
        return noop(server, "the deadline is not reached")
    step = workflow(run).step(run)
    if isinstance(step, Do):
        return _give_up(server, step, run.trouble or f"BM111 {step.name}: not done within its time", now)
    if step.name == "script":
        spent = f"no boot script was asked for within {run.budgets.boot_s:.0f} s of power on"
        if run.attempt < run.limits.netboot_attempts:
            return changed(server, netboot_again(server, now), f"{spent}; netboot begins again")
        return close(server, f"BM301 {spent}, {run.attempt} times", now)
    budget = getattr(run.budgets, step.budget)
    return fail(
        server, f"BM401 no {step.signal} within {budget:.0f} s; last sign of life: {run.last_sign}", now
    )


def _seconds(now: datetime, then: datetime) -> float:
    return (now - then).total_seconds()
