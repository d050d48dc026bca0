"""P4 for servers that boot from a storage host: killed at each step of storage, the end is that of the undisturbed run.

A real service, a real tgtd, real files. No target and no volume is left over, and nothing of others is touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baremetal.sim.chassis import OWN_ORDER
from tests.integration.crash import PASSING, STORAGE_POINTS, Life, live, passed, wait_for
from tests.integration.nas import BASE, STRANGER, Nas, VolumeDisk
from tests.integration.rig import Rig, ServiceProcess

pytestmark = pytest.mark.timeout(900)

CLONE = Life("deploy", "available", "active", {"profile": "clone"}, deployed=2)
ONTO = Life(
    "deploy",
    "available",
    "active",
    {"profile": "test", "boot_target": "iscsi", "vars": {"volume_size": "8M"}},
    deployed=2,
)
REBUILD = Life("rebuild", "active", "active", {"profile": "clone"}, deployed=3)
RELEASE = Life("release", "active", "available")
OTHERS = {"bm-other-ffffff-3", "golden-tiny"}
TARGET = f"{BASE}:r1.main"
MAKING = [point for point in STORAGE_POINTS if point.startswith(("volume.create", "acl.set", "target.save"))]
TAKING = [point for point in STORAGE_POINTS if point not in MAKING]
# In the order in which one life passes them. A target that was made whole is not made again, so that after a death
# past `acl.set` nothing is left to be saved: the points that are missing here stand in lives of their own.
DEATHS = (
    "volume.create:before",
    "volume.create:after",
    "acl.set:before",
    "target.save:after",
    "ssh.verify:after",
)
TIDYING = ("acl.set:after", "volume.remove:before", "volume.remove:after")
ENDS = ("acl.remove:before", "acl.remove:after", "volume.remove:before", "volume.remove:after")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as running:
        yield running


@pytest.fixture(scope="module")
def nas(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nas]:
    with Nas(tmp_path_factory.mktemp("nas"), rig.allowed) as running:
        rig.more = running.settings
        rig.server.machine.fabric = running
        yield running


@pytest.fixture(scope="module")
def enrolled(rig: Rig, nas: Nas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the machine enrolled, available, and a golden image imported."""
    folder = tmp_path_factory.mktemp("enrolled")
    rig.lay_out(folder)
    golden = nas.lay_out(folder)
    nas.stand_in(folder)
    with ServiceProcess(rig, folder) as service:
        service.wait("/healthz")
        service.ask("POST", "/v1/volumes", {"name": "tiny", "path": str(golden)})
        service.ask("POST", "/v1/servers", rig.enrolment())
        wait_for(service, "available")
    assert set(nas.kept()) == OTHERS
    return folder


@pytest.fixture
def folder(rig: Rig, nas: Nas, enrolled: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "service"
    shutil.copytree(enrolled, copy)
    rig.settle(copy)
    nas.stand_in(copy)
    rig.reset_machine()
    return copy


def check_deployed(rig: Rig, nas: Nas, server: dict[str, Any], run: int = 2, *, cloned: bool = True) -> None:
    assert (server["provision_state"], server["last_error"]) == ("active", ""), server
    assert server["deployed_run"] == run, "a request that was lost was repeated, no other"
    name = f"{server['id']}/{run}"
    assert rig.server.machine.running == name
    assert rig.server.machine.disk.log == [], "its own disk"
    kept = nas.kept()
    (mine,) = set(kept) - OTHERS
    tag = kept[mine].tag
    assert tag is not None
    assert (tag.server, tag.run) == (server["id"], run)
    written = [(write.what, write.run) for write in VolumeDisk.on(nas.volumes / mine / "disk.img").log]
    assert written == [(what, name) for what in (("settled",) if cloned else ("partitioning", "installed"))]
    targets = nas.targets()
    assert set(targets) == {STRANGER, TARGET}
    files = ["disk.img", "seed.img"][: 1 + cloned]
    assert [lun.path for lun in targets[TARGET].luns] == [str(nas.volumes / mine / file) for file in files]
    assert targets[TARGET].initiators == (f"{BASE}:r1",)
    chap = targets[TARGET].chap
    assert chap is not None
    assert nas.accounts() == [chap.user], "an account of an earlier try was left"
    nas.check_others()


def check_released(rig: Rig, nas: Nas, server: dict[str, Any]) -> None:
    assert (server["provision_state"], server["last_error"]) == ("available", ""), server
    assert (server["power_state"], server["run"], server["deployed_run"]) == ("off", None, None)
    assert not rig.server.chassis.is_on
    assert rig.server.machine.firmware() == OWN_ORDER, "what it boots when somebody presses its power button"
    assert set(nas.kept()) == OTHERS
    assert set(nas.targets()) == {STRANGER}
    assert nas.accounts() == []
    nas.check_others()


def test_undisturbed_lives_pass_every_point(rig: Rig, nas: Nas, folder: Path) -> None:
    check_deployed(rig, nas, live(rig, folder, ONTO, armed=PASSING), cloned=False)
    check_deployed(rig, nas, live(rig, folder, REBUILD, armed=PASSING), 3)
    check_released(rig, nas, live(rig, folder, RELEASE, armed=PASSING))
    assert set(STORAGE_POINTS) <= passed(folder)


def test_one_diskless_life_through_many_deaths(rig: Rig, nas: Nas, folder: Path) -> None:
    for point in DEATHS:
        live(rig, folder, CLONE, point)
    check_deployed(rig, nas, live(rig, folder, CLONE))
    for point in TIDYING:
        live(rig, folder, REBUILD, point)
    check_deployed(rig, nas, live(rig, folder, REBUILD), 3)
    for point in ENDS:
        live(rig, folder, RELEASE, point)
    check_released(rig, nas, live(rig, folder, RELEASE))


@pytest.mark.long
@pytest.mark.parametrize("point", MAKING)
@pytest.mark.parametrize("life", [CLONE, ONTO], ids=["clone", "installer"])
def test_a_deploy_killed_at(rig: Rig, nas: Nas, folder: Path, point: str, life: Life) -> None:
    live(rig, folder, life, point)
    check_deployed(rig, nas, live(rig, folder, life), cloned=life is CLONE)


@pytest.mark.long
@pytest.mark.parametrize("point", TAKING)
def test_a_release_killed_at(rig: Rig, nas: Nas, folder: Path, point: str) -> None:
    live(rig, folder, CLONE)
    live(rig, folder, RELEASE, point)
    check_released(rig, nas, live(rig, folder, RELEASE))
