"""The main job on real firmware: the real service, real IPMI, QEMU's firmware and iPXE, a real kernel, a real database.

Two servers, one BIOS and one UEFI, live through all these tests; each test brings the ones it uses to where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from baremetal.errors import Refused
from baremetal.lab.server import VirtualServer
from baremetal.lifecycle.model import BootMode
from tests.lab.rig import DEPLOY_S, SOON_S, STEP_S, Lab, call, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

Setting = tuple[Lab, VirtualServer, VirtualServer]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    with running_lab(tmp_path_factory.mktemp("lab"), servers=2, boot_mode="mixed") as (lab, (bios, uefi)):
        assert (bios.boot_mode, uefi.boot_mode) == (BootMode.BIOS, BootMode.UEFI)
        yield lab, bios, uefi


# What a timeline tells of a deploy, in this order. Requests are written a moment after they came, so they have places
# of their own below.
MILESTONES = (
    "power off:",
    "boot device pxe, once: done",
    "power on: done",
    "boot script served",
    "go: run",
    "partitioning writing vda",
    "post",
    "reports that it is complete",
    "boot device disk, persistent: done",
    "the installed system calls home",
    "answered with this run's id",
)
REQUESTS = ("kernel tiny/vmlinuz fetched", "initrd tiny/initrd.img fetched", "ks.cfg fetched")


def assert_in_order(words: Sequence[str], notes: Sequence[str]) -> None:
    rest = iter(notes)
    for word in words:
        assert any(word in note for note in rest), (word, notes)


def assert_told_whole(lab: Lab, server: VirtualServer, run: int) -> None:
    """The run's timeline has every milestone, and its record what became known on the way."""
    told, notes = lab.tell(server, run), lab.notes(server, run)
    assert (told["outcome"], told["error"], told["disk"]) == ("active", None, "vda")
    assert [disk["serial"] for disk in told["disks"]] == [server.disk.serial[:20]]
    assert_in_order(MILESTONES, notes)
    for word in REQUESTS:
        assert any(word in note for note in notes), (word, notes)
    assert 0 < told["took_s"] < DEPLOY_S


def assert_boots_disk_for_good(lab: Lab, server: VirtualServer) -> None:
    flags = lab.ipmitool(server, "chassis", "bootparam", "get", "5")
    assert "Boot Flag Valid" in flags
    assert "Options apply to all future boots" in flags
    assert "Force Boot from default Hard-Drive" in flags
    assert ("BIOS EFI boot" in flags) == (server.boot_mode is BootMode.UEFI)


def make_active(lab: Lab, server: VirtualServer) -> None:
    if lab.show(server)["provision_state"] != "active":
        lab.make_available(server)
        lab.deploy(server)
        assert lab.wait_for_end(server)["provision_state"] == "active"


def test_bios_and_uefi_deploy_at_once_and_prove_it(setting: Setting) -> None:
    """S2-1, S2-6, S2-7: IPMI power and bootdev, an unattended install, hand-over; two servers in one go; P2 by disk."""
    lab, bios, uefi = setting
    lab.make_available(bios, uefi)
    before = {server.name: lab.installs(server) for server in (bios, uefi)}
    runs = {server.name: lab.deploy(server) for server in (bios, uefi)}
    for server in (bios, uefi):
        shown = lab.wait_for_end(server)
        run = runs[server.name]
        assert (shown["provision_state"], shown["power_state"]) == ("active", "on"), shown["last_error"]
        assert (shown["profile"], shown["deployed_run"]) == ("tiny", run)
        assert_told_whole(lab, server, run)
        assert_boots_disk_for_good(lab, server)
        assert lab.disk_log(server, run) == ["partitioning", "complete"]
        assert lab.installs(server) == before[server.name] + 1


def test_rebuild_is_a_new_run_and_release_gives_the_server_back(setting: Setting) -> None:
    """S2-6: install again, then power off on release. The old run's token opens nothing any more (I24)."""
    lab, bios, _ = setting
    make_active(lab, bios)
    old = lab.show(bios)["deployed_run"]
    installs = lab.installs(bios)
    with pytest.raises(Refused, match="--rebuild") as refused:
        lab.deploy(bios)
    assert "rebuild" in refused.value.allowed
    run = lab.ask(bios, "rebuild", profile="tiny")
    assert run > old
    lab.wait_for_step(bios, "script", "started")
    callback = lab.callback(bios)
    assert lab.wait_for_end(bios)["deployed_run"] == run
    assert lab.disk_log(bios, run) == ["partitioning", "complete"]
    assert lab.installs(bios) == installs + 1
    lab.ask(bios, "release")
    shown = lab.wait_for_end(bios)
    assert (shown["provision_state"], shown["deployed_run"]) == ("available", None)
    assert "is off" in lab.ipmitool(bios, "power", "status")
    assert "Boot Flag Invalid" in lab.ipmitool(bios, "chassis", "bootparam", "get", "5")
    assert call(f"{callback}/install-started", boot_id="late", disk="vda") == (404, "not found")
    assert call(f"{callback}/install-failed", boot_id="late", stage="post") == (404, "not found")
    assert lab.show(bios)["provision_state"] == "available"


def test_killed_while_the_installer_writes_the_same_run_finishes(setting: Setting) -> None:
    """P4: `kill -9` in the middle of the image's transfer; started again, the run ends as if nothing had been."""
    lab, bios, _ = setting
    lab.make_available(bios)
    run = lab.deploy(bios)
    lab.wait(lambda: lab.disk_log(bios, run) == ["partitioning"], STEP_S, "first write to the disk")
    lab.kill()
    lab.start()
    assert lab.show(bios)["run"]["number"] == run
    lab.wait(lambda: "fetching the image broke off" in lab.console(bios), STEP_S, "sign of the break")
    shown = lab.wait_for_end(bios)
    assert (shown["provision_state"], shown["deployed_run"]) == ("active", run), shown["last_error"]
    assert lab.disk_log(bios, run) == ["partitioning", "complete"]
    assert_in_order(MILESTONES[:5] + MILESTONES[7:], lab.notes(bios, run))


def test_killed_before_go_the_same_run_finishes(setting: Setting) -> None:
    """P4: `kill -9` after the boot script was served; loader and installer keep asking until we are back (I2)."""
    lab, bios, _ = setting
    lab.make_available(bios)
    boots = lab.boots(bios)
    run = lab.deploy(bios)
    lab.wait_for_step(bios, "started")
    lab.kill()
    lab.start()
    shown = lab.wait_for_end(bios)
    assert (shown["provision_state"], shown["deployed_run"]) == ("active", run), shown["last_error"]
    assert lab.disk_log(bios, run) == ["partitioning", "complete"]
    assert_told_whole(lab, bios, run)
    assert lab.boots(bios) == boots + 2, "one netboot, one boot of the disk"


def test_aborted_in_the_middle_and_deployed_again(setting: Setting) -> None:
    """One commit closes the run: power off, tokens dead; the next deploy goes through."""
    lab, bios, _ = setting
    lab.make_available(bios)
    run = lab.deploy(bios, fail="slow=600")
    lab.wait_for_step(bios, "script", "started")
    callback = lab.callback(bios)
    lab.wait_for_step(bios, "complete")
    assert call(f"{callback}/progress", boot_id="b", stage="still here") == (200, "ok")
    lab.ask(bios, "abort")
    assert call(f"{callback}/install-complete", boot_id="b") == (404, "not found")
    assert call(f"{callback}/install-started", boot_id="b", disk="vda") == (404, "not found")
    shown = lab.wait_for(bios, lambda shown: shown["run"] is None, SOON_S, "end of the run")
    assert (shown["provision_state"], shown["power_state"]) == ("deploy failed", "off")
    assert "aborted by" in shown["last_error"]
    assert "is off" in lab.ipmitool(bios, "power", "status")
    assert lab.disk_log(bios, run) == []
    again = lab.deploy(bios)
    shown = lab.wait_for_end(bios, DEPLOY_S)
    assert (shown["provision_state"], shown["deployed_run"]) == ("active", again), shown["last_error"]
    assert lab.disk_log(bios, again) == ["partitioning", "complete"]
