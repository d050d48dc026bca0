"""What real installers and machines get wrong, on real firmware: each ends soon, with its code and its reason.

Two BIOS servers share the work: most faults need little of a processor, so two are tried at once. Budgets are short
where a fault is only seen by waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baremetal.client import server_path
from baremetal.lab.server import VirtualServer
from baremetal.lab.tiny.disklog import count_installs
from tests.lab.rig import DEPLOY_S, SOON_S, STEP_S, Lab, TinyProfile, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

Setting = tuple[Lab, VirtualServer, VirtualServer]

# A machine that says nothing after go is given up soon; how soon an emulated one says its next word is not bounded so.
IMPATIENT = TinyProfile("impatient", {"install_s": 3})
# Long enough for an install, short enough to wait out.
LOST_WORDS = TinyProfile("lost-words", {"install_s": 60})
# Time for one login that fails, at least: what ends the wait then says why it failed.
NO_LOGIN = TinyProfile("no-login", {"proof_s": 8})
NO_CALL = TinyProfile("no-call", {"first_boot_s": 30})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    profiles = (IMPATIENT, LOST_WORDS, NO_LOGIN, NO_CALL)
    with running_lab(tmp_path_factory.mktemp("lab"), servers=2, boot_mode="bios", profiles=profiles) as (
        lab,
        (one, two),
    ):
        yield lab, one, two


@pytest.fixture
def ready(setting: Setting) -> Setting:
    lab, one, two = setting
    lab.make_available(one, two)
    return setting


def fail(lab: Lab, server: VirtualServer) -> dict[str, Any]:
    """Wait for the end of a run that must fail; whatever the fault, the next verb is open (I15)."""
    shown = lab.wait_for_end(server)
    assert shown["provision_state"] == "deploy failed", shown
    assert shown["deployed_run"] is None
    assert {"deploy", "release"} <= set(shown["allowed"])
    return shown


def logs(lab: Lab, server: VirtualServer) -> dict[str, str]:
    listed = lab.api.get(server_path(server.name, "logs"))["logs"]
    return {each["name"]: each["text"] for each in listed if each["run"] == lab.tell(server)["run"]}


def test_no_disk_or_none_that_fits_is_refused_before_any_write(ready: Setting) -> None:
    """BM402: the selector decides in the installer's pre stage, names what it saw, and the machine goes off (I18)."""
    lab, one, two = ready
    runs = [lab.deploy(one, fail="no-disk"), lab.deploy(two, disk="serial=SOMEBODY-ELSES")]
    bare, other = fail(lab, one), fail(lab, two)
    assert bare["last_error"].count("BM402") == 1
    assert "this machine has: no disk" in bare["last_error"]
    assert "BM402" in other["last_error"]
    assert "no disk fits the selector serial=SOMEBODY-ELSES" in other["last_error"]
    assert two.disk.serial[:20] in other["last_error"], "what the machine has is named"
    for server, run in zip((one, two), runs, strict=True):
        assert lab.tell(server, run)["disk"] is None, "nothing was allowed"
        assert lab.disk_log(server, run) == []
        lab.wait_for_power(server, "off", SOON_S)


def test_installer_that_fails_says_where_and_leaves_its_log(ready: Setting) -> None:
    """BM404 with the stage the installer was in; its own log is kept (pain 11). Beside it one that reboots: BM405."""
    lab, one, two = ready
    run = lab.deploy(one, fail="bad-image")
    other = lab.deploy(two, fail="reboot")
    failed = fail(lab, one)["last_error"]
    assert "BM404" in failed
    assert "partitioning" in failed
    kept = logs(lab, one)
    assert "cannot fetch" in kept["anaconda.log"]
    assert "install-failed.log" in kept
    assert lab.disk_log(one, run) == ["partitioning"]
    # what is seen is written down a little later
    lab.wait(lambda: "log anaconda.log uploaded" in " ".join(lab.notes(one)), 10, "log on the timeline")
    # Rule: after go there is no second boot script.
    rebooted = fail(lab, two)["last_error"]
    assert "BM405 rebooted during install" in rebooted
    assert lab.disk_log(two, other) == []


def test_installer_that_hangs_or_panics_is_given_up_with_its_last_word(ready: Setting) -> None:
    """BM401 names the last sign of life; power stays as found, for who comes to look."""
    lab, one, two = ready
    lab.deploy(one, "impatient", fail="hang")
    lab.deploy(two, "impatient", fail="panic")
    for server in (one, two):
        error = fail(lab, server)["last_error"]
        assert "BM401 no install-complete within 3 s" in error
        assert "last sign of life: " in error
        assert "vda" in error.partition("last sign of life: ")[2], "go or partitioning, and which disk"
        assert "is on" in lab.ipmitool(server, "power", "status")


def test_system_that_cannot_be_proven_is_not_active(ready: Setting) -> None:
    """BM403: it was installed and it called, and nobody can log in: not active (I14)."""
    lab, one, _ = ready
    run = lab.deploy(one, "no-login", fail="no-ssh")
    shown = fail(lab, one)
    assert "BM403" in shown["last_error"]
    assert one.ssh_address.partition(":")[2] in shown["last_error"]
    assert lab.disk_log(one, run) == ["partitioning", "complete"]
    assert any("the installed system calls home" in note for note in lab.notes(one))


@pytest.mark.long
def test_another_systems_host_key_is_no_proof(ready: Setting) -> None:
    """BM406: the key that the installer reported is pinned; what shows another is not let in, however often asked."""
    lab, one, _ = ready
    lab.deploy(one, "no-login", fail="wrong-host-key")
    assert "BM406" in fail(lab, one)["last_error"]


@pytest.mark.long
def test_words_that_are_lost_or_said_twice(ready: Setting) -> None:
    """Silent: BM401 although the system runs. Double calls: everything is heard twice and done once."""
    lab, one, two = ready
    lab.deploy(one, "lost-words", fail="silent")
    twice = lab.deploy(two, fail="double-calls")
    shown = lab.wait_for_end(two)
    assert (shown["provision_state"], shown["deployed_run"]) == ("active", twice), shown["last_error"]
    assert lab.disk_log(two, twice) == ["partitioning", "complete"]
    error = fail(lab, one)["last_error"]
    assert "BM401 no install-complete within 60 s" in error
    assert "last sign of life: " in error


@pytest.mark.long
def test_installed_system_that_never_calls(ready: Setting) -> None:
    """BM401 naming first-boot; the disk was installed once."""
    lab, one, _ = ready
    run = lab.deploy(one, "no-call", fail="no-first-boot")
    assert "BM401 no first-boot within 30 s" in fail(lab, one)["last_error"]
    assert lab.disk_log(one, run) == ["partitioning", "complete"]


@pytest.mark.long
@pytest.mark.parametrize("how", ["pre", "traceback"])
def test_installer_that_breaks_before_it_writes(ready: Setting, how: str) -> None:
    """BM404 from the installer's own error sections; nothing is written."""
    lab, one, _ = ready
    run = lab.deploy(one, fail=how, release="8")
    assert "BM404" in fail(lab, one)["last_error"]
    assert lab.disk_log(one, run) == []


@pytest.mark.long
def test_of_two_disks_the_one_that_is_named(tmp_path: Path) -> None:
    """BM402 where the selector fits both; by its serial number the second is installed, the first left alone (P3)."""
    with running_lab(tmp_path, servers=1, boot_mode="bios", more_disks_mib=(256,)) as (lab, (server,)):
        first, second = server.disks
        run = lab.deploy(server, disk="size>=100M")
        error = fail(lab, server)["last_error"]
        assert "BM402" in error
        assert "several disks (vda vdb) fit" in error
        assert lab.tell(server, run)["disk"] is None
        again = lab.deploy(server, disk=f"serial={second.serial[:20]}")
        # SeaBIOS boots from the first disk only, so this is as far as it goes.
        lab.wait_for_step(server, "first boot", within_s=DEPLOY_S)
        assert lab.tell(server, again)["disk"] == "vdb"
        assert count_installs(second.path) == 1
        with first.path.open("rb") as disk:
            assert not any(any(chunk) for chunk in iter(lambda: disk.read(1 << 20), b""))


@pytest.mark.long
def test_slow_installer_is_waited_for(ready: Setting) -> None:
    """Slow is no fault: the budget is the profile's, and progress is not asked for."""
    lab, one, _ = ready
    lab.deploy(one, fail="slow=20")
    assert lab.wait_for_end(one, STEP_S * 3)["provision_state"] == "active"
