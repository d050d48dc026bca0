"""P4: `kill -9` anywhere is harmless. A real service, killed at its named crash points, restarted: the same end.

The machine is off the service's process and judges by its disk's own log: partitioned once, installed once, and the
system that runs is this run's, shown by a real SSH login.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.rig import PATIENCE_S, Rig, ServiceProcess

pytestmark = pytest.mark.timeout(900)

# In the order in which one deploy passes them. A write that took effect is not sent again, so that after a death
# between `send` and `verify` of power there is nothing left to verify: those stand in separate lives.
PLACES = (
    "api.accept",
    "run.create",
    "power_off.send",
    "power_off.verify",
    "boot_set.send",
    "boot_set.verify",
    "power_on.send",
    "power_on.verify",
    "boot.serve",
    "answer.serve",
    "signal.started",
    "signal.complete",
    "boot_target.send",
    "boot_target.verify",
    "ssh.verify",
)
POINTS = [f"{place}:{side}" for place in PLACES for side in ("before", "after")]
DEATHS = (
    "power_off.send:before",
    "boot_set.send:after",
    "power_on.send:after",
    "boot.serve:after",
    "signal.started:after",
    "signal.complete:after",
    "boot_target.verify:before",
    "ssh.verify:after",
)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as running:
        yield running


@pytest.fixture(scope="module")
def enrolled(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the machine enrolled and available."""
    folder = tmp_path_factory.mktemp("enrolled")
    rig.lay_out(folder)
    with ServiceProcess(rig, folder) as service:
        service.wait("/healthz")
        service.ask("POST", "/v1/servers", rig.enrolment())
        wait_for(service, "available")
    return folder


@pytest.fixture
def folder(rig: Rig, enrolled: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "service"
    shutil.copytree(enrolled, copy)
    rig.settle(copy)
    rig.reset_machine()
    return copy


def wait_for(service: ServiceProcess, state: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while True:
        server: dict[str, Any] = service.wait("/v1/servers/r1")
        if server["provision_state"] == state:
            return server
        assert time.monotonic() < until, (server, service.log())
        time.sleep(0.05)


def live(rig: Rig, folder: Path, point: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
    """Run one service until the point kills it, or (without one) until the deploy has ended; returns the server."""
    server: dict[str, Any] = {}
    until = time.monotonic() + within_s
    with ServiceProcess(rig, folder, f"{point}=kill@1" if point else "") as service:
        while not service.was_killed:
            assert time.monotonic() < until, (point, server, service.log())
            server = service.ask("GET", "/v1/servers/r1") or server
            if server.get("provision_state") == "available":
                service.ask("POST", "/v1/servers/r1/deploy", {"profile": "test"})
            assert server.get("provision_state") != "deploy failed", (point, server["last_error"])
            if server.get("provision_state") == "active":
                assert not point, f"{point} was never passed"
                break
            time.sleep(0.05)
    return server


def check_the_end(rig: Rig, folder: Path, server: dict[str, Any]) -> None:
    assert (server["provision_state"], server["last_error"]) == ("active", ""), server
    run = f"{server['id']}/{server['deployed_run']}"
    machine = rig.server.machine
    assert [(write.what, write.run) for write in machine.disk.log] == [
        ("partitioning", run),
        ("installed", run),
    ]
    assert machine.running == run
    assert server["deployed_run"] == 2, "after manage; a request that was lost was repeated, no other"


def test_an_undisturbed_deploy(rig: Rig, folder: Path) -> None:
    check_the_end(rig, folder, live(rig, folder, ""))


def test_one_deploy_through_eight_deaths(rig: Rig, folder: Path) -> None:
    for point in DEATHS:
        live(rig, folder, point)
    check_the_end(rig, folder, live(rig, folder, ""))


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(rig: Rig, folder: Path, point: str) -> None:
    live(rig, folder, point)
    check_the_end(rig, folder, live(rig, folder, ""))
