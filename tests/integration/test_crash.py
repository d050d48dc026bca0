"""P4: `kill -9` anywhere is harmless. A real service, killed at its named crash points, restarted: the same end.

The machine is off the service's process and judges by its disk's own log: partitioned once, installed once, and the
system that runs is this run's, shown by a real SSH login.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baremetal.sim.chassis import OWN_ORDER
from tests.integration.crash import PASSING, POINTS, Life, live, passed, wait_for
from tests.integration.rig import Rig, ServiceProcess

pytestmark = pytest.mark.timeout(900)

# In the order in which one deploy passes them. A write that took effect is not sent again, so that after a death
# between `send` and `verify` of power there is nothing left to verify: those stand in separate lives.
DEATHS = (
    "power_off.send:before",
    "boot_set.send:after",
    "power_on.send:after",
    "token.mint:after",
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


DEPLOY = Life("deploy", "available", "active", {"profile": "test"})
RELEASE = Life("release", "active", "available")


def check_deployed(rig: Rig, server: dict[str, Any]) -> None:
    assert (server["provision_state"], server["last_error"]) == ("active", ""), server
    assert server["deployed_run"] == 2, "after manage; a request that was lost was repeated, no other"
    check_disk(rig, server)
    assert rig.server.machine.running == f"{server['id']}/2"


def check_released(rig: Rig, server: dict[str, Any]) -> None:
    assert (server["provision_state"], server["last_error"]) == ("available", ""), server
    assert (server["power_state"], server["run"], server["deployed_run"]) == ("off", None, None)
    check_disk(rig, server)
    assert not rig.server.chassis.is_on
    assert rig.server.machine.firmware() == OWN_ORDER, "what it boots when somebody presses its power button"


def check_disk(rig: Rig, server: dict[str, Any]) -> None:
    """The disk's own log: what was deployed is written once, and nothing else ever."""
    run = f"{server['id']}/2"
    written = [(write.what, write.run) for write in rig.server.machine.disk.log]
    assert written == [("partitioning", run), ("installed", run)]


def test_an_undisturbed_life_passes_every_point(rig: Rig, folder: Path) -> None:
    check_deployed(rig, live(rig, folder, DEPLOY, armed=PASSING))
    check_released(rig, live(rig, folder, RELEASE, armed=PASSING))
    assert passed(folder) == set(POINTS), (
        "a place is named and not passed, or passed and thought not to be built"
    )


def test_one_life_through_many_deaths(rig: Rig, folder: Path) -> None:
    for point in DEATHS:
        live(rig, folder, DEPLOY, point)
    check_deployed(rig, live(rig, folder, DEPLOY))
    live(rig, folder, RELEASE, "release.off:after")
    check_released(rig, live(rig, folder, RELEASE))


@pytest.mark.long
@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("release.")])
def test_a_deploy_killed_at(rig: Rig, folder: Path, point: str) -> None:
    live(rig, folder, DEPLOY, point)
    check_deployed(rig, live(rig, folder, DEPLOY))


@pytest.mark.long
@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("release.")])
def test_a_release_killed_at(rig: Rig, folder: Path, point: str) -> None:
    live(rig, folder, DEPLOY)
    live(rig, folder, RELEASE, point)
    check_released(rig, live(rig, folder, RELEASE))
