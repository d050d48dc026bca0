"""What a machine's call-backs and fetches mean for its run.

Owns go: who is given it, once, and who is refused. Deliberately unknown: how a run moves on (`moves.py`), who may call
back at all (the tokens are the boot app's affair).
"""

from __future__ import annotations

from datetime import datetime

from baremetal.lifecycle.amend import amend
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
from baremetal.lifecycle.windows import boot_window_open, window_run


def hear(server: Server, event: Heard, now: datetime) -> Decision:
    run = server.run
    if run is None or run.number != event.run or run.closing or run.method is None:
        return noop(server, f"{event.signal} of a run that is over", Reply.GONE)
    opened = window_run(server) is not None
    complete = Signal.INSTALL_COMPLETE in run.heard
    match event.signal:
        case Signal.INSTALL_STARTED:
            return _asked_go(server, run, event, now)
        case Signal.PROGRESS:
            if not opened or complete:
                return noop(server, "progress outside the install")
            sign = " ".join(part for part in (event.stage, event.message) if part) or "progress"
            return changed(server, server.with_run(last_sign=sign), sign)
        case Signal.INSTALL_COMPLETE:
            if run.go is None:
                return refuse_machine(server, "install-complete without go")
            if complete:
                return noop(server, "install-complete, again")
            heard = server.with_run(heard=run.heard | {event.signal}, last_sign="install-complete")
            return resume(server, heard, "the installer reports that it is complete", now)
        case Signal.INSTALL_FAILED:
            if not opened:
                return refuse_machine(server, "install-failed before the machine was told to boot")
            if complete:
                return noop(server, "install-failed after install-complete")
            code = "BM402" if event.stage == "disk" else "BM404"
            # the shipped templates say the code too, for whoever stands at the machine's screen
            message = event.message.removeprefix(f"{code} ")
            what = ": ".join(part for part in (event.stage, message) if part) or "no reason given"
            return fail(server, f"{code} the installer failed: {what}", now)
        case Signal.FIRST_BOOT:
            if run.go is None:
                return refuse_machine(server, "first-boot without go")
            if Signal.FIRST_BOOT in run.heard:
                return noop(server, "first-boot, again")
            heard = server.with_run(heard=run.heard | {event.signal}, last_sign="first boot")
            return resume(server, heard, "the installed system calls home", now)


def _asked_go(server: Server, run: Run, event: Heard, now: datetime) -> Decision:
    if run.deadline is not None and now >= run.deadline:
        return refuse_machine(server, "go asked for after the deadline")
    if run.go is not None:
        if Signal.INSTALL_COMPLETE in run.heard:
            return refuse_machine(server, "go asked for after install-complete")
        if event.boot_id == run.go.boot_id:
            return _repeated_go(server, run, run.go, event)
        if run.reboots:
            return refuse_machine(server, "go asked for by another boot; it was given already")
        failed = fail(server, "BM405 rebooted during install: go was asked for by another boot", now)
        return amend(failed, reply=Reply.REFUSED)
    if server.maintenance:
        return noop(server, "in maintenance: go must wait", Reply.WAIT)
    if window_run(server) is None:
        return refuse_machine(server, "go asked for while the boot window is closed")
    if not event.boot_id:
        return refuse_machine(server, "go asked for without a boot id")
    given = server.with_run(
        go=Go(event.boot_id, event.disk, event.address, now),
        heard=run.heard | {Signal.INSTALL_STARTED},
        last_sign=f"go for disk {event.disk}" if event.disk else "go",
    )
    what = f"may write to {event.disk}" if event.disk else "may begin; it names its disk before it writes"
    decision = resume(server, given, f"go: run {run.number} {what}", now)
    return amend(decision, reply=Reply.GO)


def _repeated_go(server: Server, run: Run, go: Go, event: Heard) -> Decision:
    """The same boot asks again: it missed the reply, or it knows its disk only now (the Debian installer's partman)."""
    if not event.disk or event.disk == go.disk:
        return noop(server, "go, repeated for the same boot", Reply.GO)
    if go.disk:
        return refuse_machine(server, f"go was given for {go.disk}; {event.disk} is another disk")
    if server.maintenance:
        return noop(server, "in maintenance: the disk must wait", Reply.WAIT)
    named = server.with_run(go=amend(go, disk=event.disk), last_sign=f"go for disk {event.disk}")
    note = f"go: run {run.number} may write to {event.disk}"
    return amend(changed(server, named, note), reply=Reply.GO)


def notice_fetch(server: Server, event: Fetched, now: datetime) -> Decision:
    run = server.run
    if event.what is not Fetch.SCRIPT or run is None:
        return noop(server, f"{event.what} fetched", Reply.LOCAL)
    in_time = run.deadline is None or now < run.deadline
    if boot_window_open(server) and in_time:
        flow = workflow(run)
        served = server.with_run(serves=run.serves + 1, last_sign="boot script")
        note = f"boot script served to {event.address or 'the machine'}"
        if run.step < (started := flow.index("started")):
            return amend(changed(server, enter(served, started, now), note), reply=Reply.SERVE)
        return amend(changed(server, served, f"{note}, again"), reply=Reply.SERVE)
    installing = run.go is not None and Signal.INSTALL_COMPLETE not in run.heard and not run.closing
    if installing and not run.reboots and not server.maintenance:
        failed = fail(server, "BM405 rebooted during install: a boot script was asked for after go", now)
        return amend(failed, reply=Reply.LOCAL)
    return noop(server, "boot script asked for outside the window", Reply.LOCAL)
