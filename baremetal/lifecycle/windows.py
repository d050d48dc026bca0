"""What a server's state permits a netbooting machine to have: predicates over the core's values (I1, I3, I4)."""

from __future__ import annotations

from baremetal.lifecycle.model import Run, Server, Signal


def boot_window_open(server: Server) -> bool:
    """Whether an installer's boot script may be served now.

    Opens when power-on is intended with verified boot flags; closes on go, failure, abort, deadline, in maintenance,
    and after `max_serves` scripts of one netboot attempt.
    """
    run = server.run
    return (
        run is not None
        and window_run(server) is run
        and run.go is None
        and not server.maintenance
        and run.serves < run.limits.max_serves
    )


def answer_window_open(server: Server) -> bool:
    """Whether the run's answer files may be served: the boot window's life, but until `install-complete`."""
    run = window_run(server)
    return run is not None and Signal.INSTALL_COMPLETE not in run.heard


def tokens_live(server: Server, number: int) -> bool:
    """Whether tokens made for run `number` still open anything: they die with the run, and when it is being closed."""
    run = server.run
    return run is not None and run.number == number and not run.closing


def window_run(server: Server) -> Run | None:
    """Return the open run that intends its machine to netboot, or None."""
    run = server.run
    if run is None or run.closing or run.method is None or not run.power_on_intended:
        return None
    return run
