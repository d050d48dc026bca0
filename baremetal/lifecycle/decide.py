"""One function that runs a server's life, `decide(server, event, now)`, and what a crash left undone, `owed(server)`.

Pure: values in, values out; no clock, no log, no I/O. The caller records the decision first and acts afterwards,
perhaps in another process, perhaps twice. The rows it runs are in `workflows.py`; the answers it gives are compared,
cell by cell, with `tests/golden/transitions.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b

from baremetal.lifecycle.actions import Action, CheckAccess, CheckLogin, EnsureBootDevice, EnsurePower
from baremetal.lifecycle.amend import amend
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
)
from baremetal.lifecycle.model import Fetch, Go, PowerState, ProvisionState, Run, Server, Signal, Verb
from baremetal.lifecycle.windows import boot_window_open, window_run
from baremetal.lifecycle.workflows import METHODS, MOVING, WORKFLOWS, Do, Step, Workflow, allowed_verbs

HOUR = timedelta(hours=1)


class Outcome(StrEnum):
    CHANGED = "changed"
    NOOP = "no-op"
    REFUSED = "refused"


class Reply(StrEnum):
    """What the machine is told: the boot app maps these to scripts and statuses."""

    OK = "ok"
    GO = "go"
    WAIT = "wait"
    REFUSED = "refused"
    GONE = "not found"
    SERVE = "serve"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Decision:
    """The server as it now is, the action it is owed, a sentence for the history, and the machine's reply."""

    server: Server
    action: Action | None
    note: str
    outcome: Outcome = Outcome.CHANGED
    reply: Reply = Reply.OK


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
            return _heard(server, event, now)
        case Fetched():
            return _fetched(server, event, now)
        case Overdue():
            return _overdue(server, event, now)
        case MaintenanceChanged():
            return _maintenance(server, event, now)


def owed(server: Server) -> Action | None:
    """Return the action that the server's state says must be done; recomputed, never queued."""
    if server.run is None or server.maintenance:
        return None
    step = workflow(server.run).step(server.run)
    if not isinstance(step, Do):
        return None
    return step.action or EnsureBootDevice(server.run.flip, persistent=server.run.flip != "none")


def workflow(run: Run) -> Workflow:
    return WORKFLOWS[run.verb]


def current_step(server: Server) -> Step | None:
    """Return the step the server's open run stands at, or None without a run."""
    return workflow(server.run).step(server.run) if server.run else None


# -- verbs ---------------------------------------------------------------------------------------------------------


def _begin(server: Server, asked: Asked, now: datetime) -> Decision:
    flow = WORKFLOWS[asked.verb]
    if server.run is not None:
        return _refuse(
            server, f"{asked.verb}: the server is {server.state}; run {server.run.number} is under way"
        )
    if server.maintenance:
        return _refuse(server, f"{asked.verb}: the server is in maintenance; switch maintenance off first")
    if server.state not in flow.begins:
        hint = (
            "; use --rebuild to install it anew"
            if asked.verb is Verb.DEPLOY and server.state == "active"
            else ""
        )
        return _refuse(server, f"{asked.verb}: not from {server.state}{hint}")
    if asked.verb in METHODS and asked.method not in METHODS[asked.verb]:
        return _refuse(server, f"{asked.verb}: no method {asked.method or 'given'}")
    if asked.verb is Verb.DEPLOY and server.found_on and not asked.force:
        return _refuse(
            server,
            "deploy: the server was found powered on when it was enrolled and has never been released by us; "
            "it may carry a system. Adopt and release it, or use --force",
        )
    if not flow.steps:
        word = "on the operator's word" if asked.verb is Verb.ADOPT else "nothing to do on the machine"
        ended = amend(server, state=flow.ends, last_error="")
        return _changed(server, ended, f"{asked.verb}: {word}; now {flow.ends}")
    number = server.runs + 1
    run = Run(
        number=number,
        verb=asked.verb,
        method=asked.method,
        started=now,
        entered=now,
        target=asked.target,
        proof=asked.proof,
        reboots=asked.reboots,
        asks_go=asked.asks_go,
        flip=asked.flip,
        budgets=asked.budgets,
        limits=asked.limits,
        last_sign=f"{asked.verb} asked by {asked.by}",
    )
    begun = amend(server, runs=number, run=run, last_error="")
    return _changed(server, _enter(begun, 0, now), f"{asked.verb} asked by {asked.by}: run {number} begins")


def _abort(server: Server, asked: Asked, now: datetime) -> Decision:
    run = server.run
    if run is None or server.state not in MOVING:
        return _refuse(server, f"abort: nothing is under way, the server is {server.state}")
    if run.closing:
        return _refuse(server, "abort: the run is being closed already")
    return _close(server, f"aborted by {asked.by}", now)


def _maintenance(server: Server, event: MaintenanceChanged, now: datetime) -> Decision:
    if event.on == server.maintenance:
        return _noop(server, f"maintenance is {'on' if event.on else 'off'} already")
    changed = amend(server, maintenance=event.on, fence=server.fence + 1)
    run = server.run
    if event.on and run is not None and run.deadline is not None:
        changed = amend(changed.with_run(deadline=None), paused=max(run.deadline - now, timedelta(0)))
    elif not event.on and run is not None and server.paused is not None:
        changed = amend(changed.with_run(deadline=now + server.paused), paused=None)
    return _changed(server, changed, f"maintenance {'on' if event.on else 'off'} by {event.by}")


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
        return _noop(server, "a write that is no longer wanted was not sent")
    if server.maintenance:
        return _noop(server, "in maintenance: the write was not sent")
    if run.deadline is not None and now >= run.deadline:
        return _noop(server, f"{step.name}: the deadline has passed, the write was not sent")
    if not isinstance(step.action, EnsurePower):
        return _changed(server, server.with_run(trouble=""), f"intends {owed(server)}")
    # a write that seems to be ahead of us was made before the clock was set back
    recent = tuple(at for at in server.power_writes if timedelta(0) <= now - at < HOUR)
    if run.power_writes >= run.limits.power_writes_per_step:
        return _fail(
            server, f"BM109 {step.action}: {run.power_writes} power writes in one step had no effect", now
        )
    if len(recent) >= run.limits.power_writes_per_hour:
        return _fail(
            server, f"BM109 {step.action}: {len(recent)} power writes in an hour, the flap guard says no", now
        )
    netboot_on = step.name == "on"
    if netboot_on and (run.flags_at is None or _seconds(now, run.flags_at) > run.limits.flags_fresh_s):
        if run.attempt >= run.limits.netboot_attempts:
            return _close(
                server, f"BM110 power on came too late for the boot flags, {run.attempt} times", now
            )
        again = _enter(server.with_run(attempt=run.attempt + 1), workflow(run).index("pxe"), now)
        note = "the boot flags are too old to trust; setting them again before power on"
        return _changed(server, again, note)
    changed = amend(server, power_writes=(*recent, now)).with_run(
        power_writes=run.power_writes + 1, power_on_intended=run.power_on_intended or netboot_on
    )
    return _changed(server, changed, f"intends {step.action}")


def _did(server: Server, event: Did, now: datetime) -> Decision:
    step = _current(server, event)
    run = server.run
    if step is None or run is None:
        return _noop(server, "a result that came too late")
    action = owed(server) or step.action
    if step.name == "on" and not run.power_on_intended:
        if run.attempt >= run.limits.netboot_attempts:
            return _close(server, "BM110 somebody else keeps switching the server on", now)
        note = "power was on although nobody here intended it; netboot begins again"
        return _changed(server, _netboot_again(server, now), note)
    changed = server
    if isinstance(step.action, CheckAccess):
        changed = amend(changed, found_on=changed.found_on or event.power is PowerState.ON)
    if step.name == "pxe":
        changed = changed.with_run(flags_at=now)
    how = "done" if event.wrote else "already so"
    seen = f" ({event.seen})" if event.seen else ""
    return _advance(server, changed, f"{action}: {how}{seen}", now)


def _failed(server: Server, event: Failed, now: datetime) -> Decision:
    step = _current(server, event)
    run = server.run
    if step is None or run is None:
        return _noop(server, f"a failure that came too late: {event.error}")
    if not event.transient:
        return _fail(server, event.error, now)
    wait = max(event.retry_after_s, _backoff_s(run))
    changes: dict[str, object] = {
        "tries": run.tries + 1,
        "trouble": event.error,
        "retry_at": _later(now, wait),
    }
    if event.pauses and run.deadline is not None:
        spent = run.postponed_s + wait
        if spent <= run.limits.patience_s:
            changes |= {"postponed_s": spent, "deadline": _later(run.deadline, wait)}
    return _changed(server, server.with_run(**changes), f"{event.error}; trying again in {wait:.0f} s")


def _backoff_s(run: Run) -> float:
    """Exponential 1 to 20 s with full jitter, drawn from the run itself so that a replay decides the same."""
    top = min(20.0, 2.0**run.tries)
    seed = f"{run.number}/{run.step}/{run.tries}/{run.started.timestamp()}".encode()
    share = int.from_bytes(blake2b(seed, digest_size=4).digest(), "big") / 2**32
    return 0.25 + share * (top - 0.25)


# -- news from the machine -----------------------------------------------------------------------------------------


def _heard(server: Server, event: Heard, now: datetime) -> Decision:
    run = server.run
    if run is None or run.number != event.run or run.closing or run.method is None:
        return _noop(server, f"{event.signal} of a run that is over", Reply.GONE)
    opened = window_run(server) is not None
    complete = Signal.INSTALL_COMPLETE in run.heard
    match event.signal:
        case Signal.INSTALL_STARTED:
            return _asked_go(server, run, event, now)
        case Signal.PROGRESS:
            if not opened or complete:
                return _noop(server, "progress outside the install")
            sign = " ".join(part for part in (event.stage, event.message) if part) or "progress"
            return _changed(server, server.with_run(last_sign=sign), sign)
        case Signal.INSTALL_COMPLETE:
            if run.go is None:
                return _refused(server, "install-complete without go")
            if complete:
                return _noop(server, "install-complete, again")
            heard = server.with_run(heard=run.heard | {event.signal}, last_sign="install-complete")
            return _resume(server, heard, "the installer reports that it is complete", now)
        case Signal.INSTALL_FAILED:
            if not opened:
                return _refused(server, "install-failed before the machine was told to boot")
            if complete:
                return _noop(server, "install-failed after install-complete")
            code = "BM402" if event.stage == "disk" else "BM404"
            # the shipped templates say the code too, for whoever stands at the machine's screen
            message = event.message.removeprefix(f"{code} ")
            what = ": ".join(part for part in (event.stage, message) if part) or "no reason given"
            return _fail(server, f"{code} the installer failed: {what}", now)
        case Signal.FIRST_BOOT:
            if run.go is None:
                return _refused(server, "first-boot without go")
            if Signal.FIRST_BOOT in run.heard:
                return _noop(server, "first-boot, again")
            heard = server.with_run(heard=run.heard | {event.signal}, last_sign="first boot")
            return _resume(server, heard, "the installed system calls home", now)


def _asked_go(server: Server, run: Run, event: Heard, now: datetime) -> Decision:
    if run.deadline is not None and now >= run.deadline:
        return _refused(server, "go asked for after the deadline")
    if run.go is not None:
        if Signal.INSTALL_COMPLETE in run.heard:
            return _refused(server, "go asked for after install-complete")
        if event.boot_id == run.go.boot_id:
            return _repeated_go(server, run, run.go, event)
        if run.reboots:
            return _refused(server, "go asked for by another boot; it was given already")
        failed = _fail(server, "BM405 rebooted during install: go was asked for by another boot", now)
        return amend(failed, reply=Reply.REFUSED)
    if server.maintenance:
        return _noop(server, "in maintenance: go must wait", Reply.WAIT)
    if window_run(server) is None:
        return _refused(server, "go asked for while the boot window is closed")
    if not event.boot_id:
        return _refused(server, "go asked for without a boot id")
    given = server.with_run(
        go=Go(event.boot_id, event.disk, event.address, now),
        heard=run.heard | {Signal.INSTALL_STARTED},
        last_sign=f"go for disk {event.disk}" if event.disk else "go",
    )
    what = f"may write to {event.disk}" if event.disk else "may begin; it names its disk before it writes"
    decision = _resume(server, given, f"go: run {run.number} {what}", now)
    return amend(decision, reply=Reply.GO)


def _repeated_go(server: Server, run: Run, go: Go, event: Heard) -> Decision:
    """The same boot asks again: it missed the reply, or it knows its disk only now (the Debian installer's partman)."""
    if not event.disk or event.disk == go.disk:
        return _noop(server, "go, repeated for the same boot", Reply.GO)
    if go.disk:
        return _refused(server, f"go was given for {go.disk}; {event.disk} is another disk")
    if server.maintenance:
        return _noop(server, "in maintenance: the disk must wait", Reply.WAIT)
    named = server.with_run(go=amend(go, disk=event.disk), last_sign=f"go for disk {event.disk}")
    note = f"go: run {run.number} may write to {event.disk}"
    return amend(_changed(server, named, note), reply=Reply.GO)


def _fetched(server: Server, event: Fetched, now: datetime) -> Decision:
    run = server.run
    if event.what is not Fetch.SCRIPT or run is None:
        return _noop(server, f"{event.what} fetched", Reply.LOCAL)
    in_time = run.deadline is None or now < run.deadline
    if boot_window_open(server) and in_time:
        flow = workflow(run)
        served = server.with_run(serves=run.serves + 1, last_sign="boot script")
        note = f"boot script served to {event.address or 'the machine'}"
        if not run.asks_go:
            return _served_once(server, served, note, now)
        if run.step < (started := flow.index("started")):
            return amend(_changed(server, _enter(served, started, now), note), reply=Reply.SERVE)
        return amend(_changed(server, served, f"{note}, again"), reply=Reply.SERVE)
    installing = run.go is not None and Signal.INSTALL_COMPLETE not in run.heard and not run.closing
    if installing and not run.reboots and not server.maintenance:
        failed = _fail(server, "BM405 rebooted during install: a boot script was asked for after go", now)
        return amend(failed, reply=Reply.LOCAL)
    return _noop(server, "boot script asked for outside the window", Reply.LOCAL)


def _served_once(before: Server, served: Server, note: str, now: datetime) -> Decision:
    """Give go with the boot script to an installer that cannot ask for it: there is no second script (promises I3)."""
    run = served.run
    assert run is not None
    given = served.with_run(
        go=Go("", "", "", now),
        heard=run.heard | {Signal.INSTALL_STARTED},
        last_sign="boot script, which was the go",
    )
    decision = _resume(before, given, f"{note}: go, for an installer that cannot ask for it", now)
    return amend(decision, reply=Reply.SERVE)


# -- time ----------------------------------------------------------------------------------------------------------


def _overdue(server: Server, event: Overdue, now: datetime) -> Decision:
    run = server.run
    if run is None or (run.number, run.step) != (event.run, event.step):
        return _noop(server, "a deadline of a step that is over")
    if run.deadline is None or now < run.deadline:
        return _noop(server, "the deadline is not reached")
    step = workflow(run).step(run)
    if isinstance(step, Do):
        return _fail(server, run.trouble or f"BM111 {step.name}: not done within its time", now)
    if step.name == "script":
        spent = f"no boot script was asked for within {run.budgets.boot_s:.0f} s of power on"
        if run.attempt < run.limits.netboot_attempts:
            return _changed(server, _netboot_again(server, now), f"{spent}; netboot begins again")
        return _close(server, f"BM301 {spent}, {run.attempt} times", now)
    budget = getattr(run.budgets, step.budget)
    return _fail(
        server, f"BM401 no {step.signal} within {budget:.0f} s; last sign of life: {run.last_sign}", now
    )


# -- moving along --------------------------------------------------------------------------------------------------


def _enter(server: Server, index: int, now: datetime) -> Server:
    """Return the server standing at a step of its run (or closing row), its deadline set, its counters clean."""
    run = server.run
    assert run is not None
    flow = workflow(run)
    step = (flow.closing if run.closing else flow.steps)[index]
    budget = getattr(run.budgets, step.budget)
    deadline: datetime | None = _later(now, budget)
    paused = server.paused
    if server.maintenance:
        deadline, paused = None, timedelta(seconds=budget)
    return amend(
        server,
        state=step.state,
        paused=paused,
        run=amend(
            run,
            step=index,
            entered=now,
            deadline=deadline,
            retry_at=None,
            postponed_s=0.0,
            tries=0,
            power_writes=0,
            trouble="",
        ),
    )


def _advance(before: Server, server: Server, note: str, now: datetime) -> Decision:
    """The current step is done: go to the next one that is still to be done, or end the run."""
    run = server.run
    assert run is not None
    flow = workflow(run)
    if run.closing:
        return _end(before, server, flow.fails_to, run.closing, note)
    for index in range(run.step + 1, len(flow.steps)):
        if not _is_settled(flow.steps[index], run):
            return _changed(before, _enter(server, index, now), note)
    return _end(before, server, flow.ends, "", note)


def _resume(before: Server, server: Server, note: str, now: datetime) -> Decision:
    """A signal was heard: leave the current step if that settles it, else just remember."""
    run = server.run
    assert run is not None
    if _is_settled(workflow(run).step(run), run):
        return _advance(before, server, note, now)
    return _changed(before, server, note)


def _is_settled(step: Step, run: Run) -> bool:
    if step.only_for is not None and run.proof not in step.only_for:
        return True
    if step.proven_by is not None and step.proven_by in run.heard:
        return True
    return not isinstance(step, Do) and step.signal in run.heard


def _netboot_again(server: Server, now: datetime) -> Server:
    run = server.run
    assert run is not None
    reset = server.with_run(attempt=run.attempt + 1, serves=0, power_on_intended=False, flags_at=None)
    return _enter(reset, workflow(run).index("off"), now)


def _close(before: Server, reason: str, now: datetime) -> Decision:
    """Give the run up in one commit: tokens dead, fence raised; then the closing row, then the failed state."""
    run = before.run
    assert run is not None
    server = amend(before, fence=before.fence + 1)
    if not workflow(run).closing:
        return _end(before, server, workflow(run).fails_to, reason, reason)
    closing = _enter(server.with_run(closing=reason), 0, now)
    return _changed(before, closing, f"{reason}; the run is closed, power off follows")


def _fail(server: Server, reason: str, now: datetime) -> Decision:
    run = server.run
    assert run is not None
    if run.closing:
        reason = f"{run.closing}; and then: {reason}"
    return _end(server, server, workflow(run).fails_to, reason, f"failed: {reason}")


def _end(before: Server, server: Server, state: ProvisionState, reason: str, note: str) -> Decision:
    run = server.run
    assert run is not None
    deployed, found_on = server.deployed, server.found_on
    if not reason and run.method is not None:
        deployed, found_on = run.number, False
    elif run.verb is Verb.RELEASE and not reason:
        deployed, found_on = 0, False
    elif run.go is not None:
        deployed = 0
    ended = amend(
        server, state=state, run=None, paused=None, last_error=reason, deployed=deployed, found_on=found_on
    )
    return _changed(before, ended, f"{note}; now {state}" if not reason else f"{note}")


def _changed(before: Server, after: Server, note: str) -> Decision:
    after = amend(after, generation=before.generation + 1)
    return Decision(after, owed(after), note)


def _noop(server: Server, note: str, reply: Reply = Reply.OK) -> Decision:
    return Decision(server, owed(server), note, Outcome.NOOP, reply)


def _refused(server: Server, note: str) -> Decision:
    """Refuse the machine: recorded, answered with 409."""
    return Decision(server, owed(server), note, Outcome.REFUSED, Reply.REFUSED)


def _refuse(server: Server, what: str) -> Decision:
    """Refuse an operator, naming what is allowed."""
    allowed = ", ".join(allowed_verbs(server.state)) or "nothing but waiting"
    return Decision(server, owed(server), f"{what} (allowed: {allowed})", Outcome.REFUSED, Reply.REFUSED)


def _later(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def _seconds(now: datetime, then: datetime) -> float:
    return (now - then).total_seconds()
