"""The boot answer: what a netbooting machine is told, decided from state on every request (I1, I2, I3, I7).

Owns the choice and its reason in words. The same function serves iPXE, every other loader and `baremetal explain`,
so they cannot disagree. Anything unclear is local boot, never an installer. Deliberately unknown: the form of the
answer (scripts.py, render.py), who asks, the database.
"""

from __future__ import annotations

from dataclasses import dataclass

from baremetal.lifecycle.model import BootTarget, ProvisionState, Server
from baremetal.lifecycle.windows import boot_window_open, boots_volume, errand, is_complete, window_run


@dataclass(frozen=True, slots=True)
class Install:
    """Start what this run's machine is to boot: an installer, or the RAM system of a wipe, an inspection, a rescue."""

    run: int
    reason: str


@dataclass(frozen=True, slots=True)
class TargetBoot:
    """Boot the deployed system from where it lives."""

    target: BootTarget
    reason: str


@dataclass(frozen=True, slots=True)
class LocalBoot:
    """Not our business now: leave the machine to its own disk."""

    reason: str


BootAnswer = Install | TargetBoot | LocalBoot


def choose_answer(server: Server | None) -> BootAnswer:
    """Decide what a machine that asks for its boot script is told; None is a machine that nobody enrolled."""
    if server is None:
        return LocalBoot("unknown machine: none of the enrolled servers has this MAC")
    run = server.run
    if boots_volume(server):
        word = "active" if run is None else f"run {run.number} ({run.verb})"
        return TargetBoot(BootTarget.ISCSI, f"{word}: boots its own volume")
    if boot_window_open(server):
        assert run is not None
        return Install(run.number, f"run {run.number} ({run.verb}) waits for this machine to netboot")
    if run is not None:
        return LocalBoot(f"run {run.number} ({run.verb}): {_closed(server)}")
    if server.state is ProvisionState.ACTIVE:
        return TargetBoot(BootTarget.DISK, "active: boots its disk")
    return LocalBoot(f"nothing to install: the server is in state {server.state}")


def _closed(server: Server) -> str:
    """Say why the boot window of an open run is closed."""
    run = server.run
    assert run is not None
    if run.closing:
        return "it is being closed"
    if errand(run) is None:
        return "it installs nothing"
    if window_run(server) is None:
        return "power-on is not intended yet"
    if run.go is not None:
        return "go was given, no second boot script is served"
    if is_complete(run):
        return "the machine has said that it is done"
    if server.maintenance:
        return "the server is in maintenance, nothing is installed"
    return f"the boot script was served {run.serves} times already ({run.limits.max_serves} at most)"
