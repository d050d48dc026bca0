"""What a machine's call-backs and fetches mean for its run.

Owns go: who is given it, once, and who is refused. Which signals a run understands is data of its workflow's errand.
Deliberately unknown: how a run moves on (`moves.py`), who may call back at all (the tokens are the boot app's affair).
"""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from baremetal.lifecycle.decision import Decision, Reply
from baremetal.lifecycle.events import Fetched, Heard
from baremetal.lifecycle.model import Fetch, Go, Run, Server, Signal
from baremetal.lifecycle.moves import (
    changed,
    enter,
    fail,
    noop,
    refuse_machine,
    resume,
    workflow,
)
from baremetal.lifecycle.windows import (
    boot_window_open,
    boots_volume,
    errand,
    is_complete,
    is_writing,
    window_run,
)
from baremetal.lifecycle.workflows import Errand, Way


def hear(server: Server, event: Heard, now: datetime) -> Decision:
    run = server.run
    what = errand(run) if run is not None else None
    if run is None or what is None or run.number != event.run or run.closing:
        return noop(server, f"{event.signal} of a run that is over", Reply.GONE)
    match event.signal:
        case what.started:
            return _ask_go(server, run, what, event, now)
        case Signal.PROGRESS:
            if window_run(server) is None or is_complete(run):
                return noop(server, f"progress outside the {what.noun}")
            sign = " ".join(part for part in (event.stage, event.message) if part) or "progress"
            return changed(server, server.with_run(last_sign=sign), sign)
        case what.complete:
            return _complete(server, run, what, event, now)
        case what.failed:
            return _give_up(server, run, what, event, now)
        case Signal.FIRST_BOOT if what.boots_later:
            if run.go is None:
                return refuse_machine(server, "first-boot without go")
            if Signal.FIRST_BOOT in run.heard:
                return noop(server, "first-boot, again")
            heard = server.with_run(heard=run.heard | {event.signal}, last_sign="first boot")
            return resume(server, heard, "the installed system calls home", now)
    return refuse_machine(server, f"{event.signal} in a run that is to {workflow(run).name}")


def _complete(server: Server, run: Run, what: Errand, event: Heard, now: datetime) -> Decision:
    if is_complete(run):
        return noop(server, f"{event.signal}, again")
    if what.started is not None and run.go is None:
        return refuse_machine(server, f"{event.signal} without go")
    if window_run(server) is None:
        return refuse_machine(server, f"{event.signal} before the machine was told to boot")
    heard = server.with_run(heard=run.heard | {event.signal}, last_sign=str(event.signal))
    said = f": {event.message}" if event.message else ""
    words = {Signal.RESCUE_STARTED: "is up", Signal.FIRST_BOOT: "calls home"}
    word = words.get(event.signal, "reports that it is complete")
    return resume(server, heard, f"{what.doer} {word}{said}", now)


def _give_up(server: Server, run: Run, what: Errand, event: Heard, now: datetime) -> Decision:
    if window_run(server) is None:
        return refuse_machine(server, f"{event.signal} before the machine was told to boot")
    if is_complete(run):
        return noop(server, f"{event.signal} after {what.complete}")
    code = "BM402" if event.stage == "disk" else "BM404"
    # the shipped templates say the code too, for whoever stands at the machine's screen
    message = event.message.removeprefix(f"{code} ")
    why = ": ".join(part for part in (event.stage, message) if part) or "no reason given"
    return fail(server, f"{code} {what.doer} failed: {why}", now)


def _ask_go(server: Server, run: Run, what: Errand, event: Heard, now: datetime) -> Decision:
    if run.deadline is not None and now >= run.deadline:
        return refuse_machine(server, "go asked for after the deadline")
    if run.go is not None:
        if is_complete(run):
            return refuse_machine(server, f"go asked for after {what.complete}")
        if event.boot_id == run.go.boot_id:
            return _repeat_go(server, run, run.go, event)
        if run.reboots:
            return refuse_machine(server, "go asked for by another boot; it was given already")
        failed = fail(server, f"BM405 rebooted during {what.noun}: go was asked for by another boot", now)
        return replace(failed, reply=Reply.REFUSED)
    if server.maintenance:
        return noop(server, "in maintenance: go must wait", Reply.WAIT)
    if window_run(server) is None:
        return refuse_machine(server, "go asked for while the boot window is closed")
    if not event.boot_id:
        return refuse_machine(server, "go asked for without a boot id")
    if run.wipe and not event.disks:
        return refuse_machine(server, "go asked for without the disks that are to be wiped")
    disks = event.disks if run.wipe else ()
    named = ", ".join(disks) or event.disk
    given = server.with_run(
        go=Go(event.boot_id, event.disk, event.address, now, disks),
        heard=run.heard | {event.signal},
        last_sign=f"go for {'disks' if disks else 'disk'} {named}" if named else "go",
    )
    may = (
        f"may {'wipe' if disks else 'write to'} {named}"
        if named
        else "may begin; it names its disk before it writes"
    )
    decision = resume(server, given, f"go: run {run.number} {may}", now)
    return replace(decision, reply=Reply.GO)


def _repeat_go(server: Server, run: Run, go: Go, event: Heard) -> Decision:
    """The same boot asks again: it missed the reply, or it knows its disk only now (the Debian installer's partman)."""
    if run.wipe:
        if event.disks != go.disks:
            return refuse_machine(server, f"go was given for {', '.join(go.disks)}, and not for other disks")
        return noop(server, "go, repeated for the same boot", Reply.GO)
    if not event.disk or event.disk == go.disk:
        return noop(server, "go, repeated for the same boot", Reply.GO)
    if go.disk:
        return refuse_machine(server, f"go was given for {go.disk}; {event.disk} is another disk")
    if server.maintenance:
        return noop(server, "in maintenance: the disk must wait", Reply.WAIT)
    named = server.with_run(go=replace(go, disk=event.disk), last_sign=f"go for disk {event.disk}")
    note = f"go: run {run.number} may write to {event.disk}"
    return replace(changed(server, named, note), reply=Reply.GO)


def notice_fetch(server: Server, event: Fetched, now: datetime) -> Decision:
    run = server.run
    if event.what is not Fetch.SCRIPT or run is None:
        return noop(server, f"{event.what} fetched", Reply.LOCAL)
    in_time = run.deadline is None or now < run.deadline
    if boots_volume(server):
        return _boots_volume(server, run, event, now)
    if boot_window_open(server) and in_time:
        served = server.with_run(serves=run.serves + 1, last_sign="boot script")
        note = f"boot script served to {event.address or 'the machine'}"
        if not run.asks_go:
            return _served_once(server, served, note, now)
        if run.step <= (asked := workflow(run).index("script")):
            return replace(changed(server, enter(served, asked + 1, now), note), reply=Reply.SERVE)
        return replace(changed(server, served, f"{note}, again"), reply=Reply.SERVE)
    what = errand(run)
    if what is not None and is_writing(run) and not run.reboots and not server.maintenance:
        failed = fail(server, f"BM405 rebooted during {what.noun}: a boot script was asked for after go", now)
        return replace(failed, reply=Reply.LOCAL)
    return noop(server, "boot script asked for outside the window", Reply.LOCAL)


def _boots_volume(server: Server, run: Run, event: Fetched, now: datetime) -> Decision:
    """Send the machine to its volume, however often it asks; the first time is the evidence that it netboots."""
    note = f"sent to its volume: {event.address or 'the machine'}"
    flow = workflow(run)
    if flow.way is Way.CLONE and run.power_on_intended and run.step <= (asked := flow.index("script")):
        served = server.with_run(serves=run.serves + 1, last_sign="boot script")
        return replace(changed(server, enter(served, asked + 1, now), note), reply=Reply.SERVE)
    return noop(server, note, Reply.SERVE)


def _served_once(before: Server, served: Server, note: str, now: datetime) -> Decision:
    """Give go with the boot script to an installer that cannot ask for it: there is no second script (promises I3)."""
    run = served.run
    assert run is not None
    given = served.with_run(
        go=Go("", "", "", now),
        heard=run.heard | {Signal.INSTALL_STARTED},
        last_sign="boot script, which was the go",
    )
    decision = resume(before, given, f"{note}: go, for an installer that cannot ask for it", now)
    return replace(decision, reply=Reply.SERVE)
