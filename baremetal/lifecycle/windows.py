"""What a server's state permits a netbooting machine to have: predicates over the core's values (I1, I3, I4)."""

from __future__ import annotations

from baremetal.lifecycle.model import BootTarget, ProvisionState, Run, Server
from baremetal.lifecycle.moves import workflow
from baremetal.lifecycle.workflows import Errand


def boot_window_open(server: Server) -> bool:
    """Whether the boot script of a run's errand may be served now.

    Opens when power-on is intended with verified boot flags; closes on go, the errand's end, failure, abort, deadline,
    in maintenance, and after `max_serves` scripts of one netboot attempt.
    """
    run = window_run(server)
    what = errand(run) if run is not None else None
    return (
        run is not None
        and what is not None
        and not what.from_volume
        and run.go is None
        and not is_complete(run)
        and not server.maintenance
        and run.serves < run.limits.max_serves
    )


def boots_volume(server: Server) -> bool:
    """Whether a machine that netboots is sent to its own volume now (I7): in maintenance too, and however often.

    So is an active server whose target is iscsi, one whose run has come as far as a system on its volume, and one whose
    rebuild has failed before anything was done to the volume that it had.
    """
    run = server.run
    if run is None:
        has = server.state is ProvisionState.ACTIVE or (
            server.state is ProvisionState.DEPLOY_FAILED and server.deployed > 0
        )
        return has and server.target is BootTarget.ISCSI
    if run.closing or run.target is not BootTarget.ISCSI:
        return False
    what = errand(run)
    if what is None:
        return workflow(run).ends is ProvisionState.ACTIVE
    if not run.served and server.deployed and server.target is BootTarget.ISCSI:
        return what.from_volume or what.boots_later  # it still has the volume that it had
    return run.power_on_intended if what.from_volume else what.boots_later and is_complete(run)


def booted_run(server: Server) -> int:
    """Return the run whose volume a diskless server is sent to: the open one's once that is served."""
    run = server.run
    return run.number if run is not None and run.served else server.deployed


def answer_window_open(server: Server) -> bool:
    """Whether the run's answer files may be served: the boot window's life, but until the errand is complete."""
    run = window_run(server)
    what = errand(run) if run is not None else None
    return run is not None and what is not None and not what.from_volume and not is_complete(run)


def tokens_live(server: Server, number: int) -> bool:
    """Whether tokens made for run `number` still open anything: they die with the run, and when it is being closed."""
    run = server.run
    return run is not None and run.number == number and not run.closing


def window_run(server: Server) -> Run | None:
    """Return the open run that intends its machine to netboot, or None."""
    run = server.run
    if run is None or run.closing or errand(run) is None or not run.power_on_intended:
        return None
    return run


def errand(run: Run) -> Errand | None:
    """Return what a run's netbooted machine is to do, None where it is sent nowhere."""
    return workflow(run).errand


def is_complete(run: Run) -> bool:
    """Whether the machine has said that its errand is complete."""
    what = errand(run)
    return what is not None and what.complete in run.heard


def is_writing(run: Run) -> bool:
    """Whether the machine may be writing to its disks now: go was given, and it has not said that it is complete."""
    return run.go is not None and not run.closing and not is_complete(run)
