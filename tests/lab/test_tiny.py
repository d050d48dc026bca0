"""The tiny system on virtual machines with real firmware: it installs, proves what it is, and fails as it is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest

from baremetal.lab.tiny.build import TinyMedia, build
from baremetal.lab.tiny.disklog import count_installs, read_disk_log
from baremetal.lifecycle.model import BootMode
from tests.lab.tiny_rig import SERVER_ID, Rig, cache_folder, own_kickstart, shipped_kickstart, tiny_rig

pytestmark = [pytest.mark.lab, pytest.mark.timeout(480)]

# Bounds, not expectations: a busy machine needs several times what an idle one does.
INSTALLER_S = 150.0
INSTALL_S = 150.0
BOOT_S = 150.0


@pytest.fixture(scope="module")
def media() -> TinyMedia:
    return build(cache_folder())


def new_key() -> tuple[paramiko.PKey, str]:
    key = paramiko.ECDSAKey.generate()
    return key, f"{key.get_name()} {key.get_base64()}"


def disk_is_blank(rig: Rig) -> bool:
    with rig.disks[0].path.open("rb") as disk:
        return not any(any(chunk) for chunk in iter(lambda: disk.read(1 << 20), b""))


def host_key_of(rig: Rig) -> str:
    complete = rig.wait_for("install-complete", INSTALL_S)
    keys: list[str] = json.loads(complete.fields["ssh_host_keys"])
    assert len(keys) == 1
    return keys[0]


@pytest.mark.parametrize("mode", [BootMode.BIOS, BootMode.UEFI])
def test_installs_by_the_shipped_kickstart_and_proves_it(
    tmp_path: Path, media: TinyMedia, mode: BootMode
) -> None:
    key, public = new_key()
    operator, operator_public = new_key()
    kickstart = shipped_kickstart(public, ssh_authorized_keys=[operator_public], hostname="tiny-1.example")
    with tiny_rig(tmp_path, media, kickstart, mode=mode) as rig:
        rig.power_on()
        started = rig.wait_for("install-started", INSTALLER_S)
        assert started.fields["disk"] == "vda"
        disk = json.loads(started.fields["disks"])[0]
        assert (disk["name"], disk["serial"], disk["size"]) == ("vda", "TINY0000", 256 << 20)
        host_key = host_key_of(rig)
        first_boot = rig.wait_for("first-boot", BOOT_S)
        run = f"{SERVER_ID}/1"
        assert first_boot.fields["run"] == run
        # A forced command: whatever is asked, the answer is which run this is.
        assert rig.login(key, host_key, "true").strip() == run
        facts = rig.login(operator, host_key, "hostname; stat -c %a.%u /root/.ssh/authorized_keys").split()
        assert facts == ["tiny-1.example", "600.0"]
        log = read_disk_log(rig.disks[0].path)
        assert [line.split()[0] for line in log] == ["partitioning", "complete"]
        assert f"run={run}" in log[1]
        assert f"boot_id={started.fields['boot_id']}" in log[0]
        rig.machine.soft_off()
        rig.wait_until_off(30)
        assert rig.names().count("first-boot") == 1


def test_a_refused_installer_powers_off_and_writes_nothing(tmp_path: Path, media: TinyMedia) -> None:
    with tiny_rig(tmp_path, media, shipped_kickstart()) as rig:
        rig.answers["install-started"] = [(409, "refused")]
        rig.power_on()
        rig.wait_for("install-started", INSTALLER_S)
        rig.wait_until_off(20)
        assert "image.raw" not in rig.names()
        assert disk_is_blank(rig)


def test_waits_for_go_and_reports_an_image_that_is_not_there(tmp_path: Path, media: TinyMedia) -> None:
    with tiny_rig(tmp_path, media, shipped_kickstart(), kernel_args="tiny.fail=bad-image") as rig:
        rig.answers["install-started"] = [(503, "wait"), (200, "go")]
        rig.power_on()
        failed = rig.wait_for("install-failed", INSTALLER_S + INSTALL_S)
        assert rig.names().count("install-started") == 2
        assert "cannot fetch" in failed.fields["log"]
        assert b"cannot fetch" in rig.wait_for("anaconda.log", 1).body
        rig.wait_for_console("the installer has stopped", 20)
        # The one lasting trace: it began, and never ended.
        assert [line.split()[0] for line in read_disk_log(rig.disks[0].path)] == ["partitioning"]
        assert rig.machine.is_on


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("reboot", "no disk is named"),
        pytest.param("frobnicate --all", "unknown command: frobnicate", marks=pytest.mark.long),
        pytest.param("part / --grow", "unknown command: part", marks=pytest.mark.long),
        pytest.param("clearpart --all --initlabel", "no disk is named", marks=pytest.mark.long),
        pytest.param("clearpart --drives=vdz", "the disk vdz is not on this machine", marks=pytest.mark.long),
        pytest.param("%include /tmp/nothing", "cannot %include /tmp/nothing", marks=pytest.mark.long),
    ],
)
def test_a_kickstart_that_cannot_be_honoured_writes_nothing(
    tmp_path: Path, media: TinyMedia, line: str, complaint: str
) -> None:
    def kickstart(base: str) -> str:
        report = f"curl -fsS --data-urlencode message@/tmp/error {base}/callback/token/install-failed"
        return f"liveimg --url={base}/media/tiny/image.raw\n{line}\n%onerror\n{report}\n%end\n"

    with tiny_rig(tmp_path, media, kickstart) as rig:
        rig.power_on()
        failed = rig.wait_for("install-failed", INSTALLER_S)
        assert complaint in failed.fields["message"]
        rig.wait_for_console("the installer has stopped", 20)
        assert disk_is_blank(rig)


@pytest.mark.long
def test_honours_what_the_shipped_kickstart_does_not_use(tmp_path: Path, media: TinyMedia) -> None:
    key, public = new_key()
    operator, operator_public = new_key()
    kickstart = own_kickstart(
        public,
        sshkey=f'sshkey --username=root "{operator_public} operator"',
        checksum=f"--checksum={hashlib.sha256(media.image.read_bytes()).hexdigest()}",
    )
    with tiny_rig(tmp_path, media, kickstart) as rig:
        rig.power_on()
        host_key = host_key_of(rig)
        rig.wait_for("first-boot", BOOT_S)
        assert rig.login(key, host_key, "true") == "server-1/1\n"
        seen = rig.login(operator, host_key, "hostname; cat /etc/baremetal/outside; grep -c . /root/post.log")
        assert seen.splitlines()[:2] == ["node1.example", "from outside"]


@pytest.mark.long
def test_a_wrong_checksum_stops_the_install(tmp_path: Path, media: TinyMedia) -> None:
    with tiny_rig(tmp_path, media, own_kickstart(checksum=f"--checksum={'0' * 64}")) as rig:
        rig.power_on()
        failed = rig.wait_for("install-failed", INSTALLER_S + INSTALL_S)
        assert "has checksum" in failed.fields["message"]


@pytest.mark.long
def test_two_disks_are_one_too_many(tmp_path: Path, media: TinyMedia) -> None:
    with tiny_rig(tmp_path, media, shipped_kickstart(disk="auto"), disks_mib=(256, 256)) as rig:
        rig.power_on()
        assert "several disks" in rig.wait_for("install-failed", INSTALLER_S).fields["message"]
        rig.wait_until_off(20)
        assert disk_is_blank(rig)


@pytest.mark.long
def test_the_disk_is_chosen_by_its_serial(tmp_path: Path, media: TinyMedia) -> None:
    with tiny_rig(tmp_path, media, shipped_kickstart(disk="serial=TINY0001"), disks_mib=(256, 256)) as rig:
        rig.power_on()
        rig.wait_for("install-complete", INSTALLER_S + INSTALL_S)
        assert disk_is_blank(rig)
        assert count_installs(rig.disks[1].path) == 1


@pytest.mark.long
def test_installed_twice_is_seen_on_the_disk(tmp_path: Path, media: TinyMedia) -> None:
    with tiny_rig(tmp_path, media, shipped_kickstart()) as rig:
        for expected in (1, 2):
            rig.calls.clear()
            rig.power_on()
            rig.wait_for("install-complete", INSTALLER_S + INSTALL_S)
            rig.wait_until(
                lambda: "complete" in read_disk_log(rig.disks[0].path)[-1].split()[0], 20, "the last line"
            )
            assert count_installs(rig.disks[0].path) == expected
            rig.machine.power_off()
            rig.wait_until_off(20)


@pytest.mark.long
class TestToldToFail:
    """Each row of the table in build.py that the tests above do not show."""

    def run(self, folder: Path, media: TinyMedia, fail: str, then: Callable[[Rig], None]) -> None:
        with tiny_rig(folder, media, own_kickstart(), kernel_args=f"tiny.fail={fail}") as rig:
            rig.power_on()
            then(rig)

    def test_no_disk(self, tmp_path: Path, media: TinyMedia) -> None:
        with tiny_rig(tmp_path, media, shipped_kickstart(), kernel_args="tiny.fail=no-disk") as rig:
            rig.power_on()
            failed = rig.wait_for("install-failed", INSTALLER_S).fields
            assert failed["stage"] == "disk"
            assert "BM402" in failed["message"]
            rig.wait_until_off(20)

    def test_pre(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            rig.wait_for("install-failed", INSTALLER_S)
            assert disk_is_blank(rig)
            rig.wait_for_console("the installer has stopped", 20)

        self.run(tmp_path, media, "pre", then)

    def test_hang(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            rig.wait_for_console("told to hang", INSTALLER_S)
            assert rig.names()[-1] == "install-started"
            assert disk_is_blank(rig)
            assert rig.machine.is_on

        self.run(tmp_path, media, "hang", then)

    def test_panic(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            rig.wait_for_console("Kernel panic", INSTALLER_S)
            assert rig.names()[-1] == "install-started"
            assert rig.machine.is_on

        self.run(tmp_path, media, "panic", then)

    def test_reboot(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            rig.wait_until(lambda: rig.names().count("boot.ipxe") == 2, INSTALLER_S, "second boot script")
            assert rig.names().count("install-started") == 1
            assert disk_is_blank(rig)

        self.run(tmp_path, media, "reboot", then)

    def test_slow(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            started = rig.wait_for("install-started", INSTALLER_S)
            assert rig.wait_for("image.raw", INSTALL_S).at_s - started.at_s >= 6

        self.run(tmp_path, media, "slow=6", then)

    def test_traceback(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            assert rig.wait_for("install-failed", INSTALLER_S).fields["stage"] == "traceback"
            assert disk_is_blank(rig)

        self.run(tmp_path, media, "traceback", then)

    def test_double_calls(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            rig.wait_until(lambda: rig.names().count("first-boot") == 2, 2 * INSTALLER_S, "first-boot")
            assert rig.names().count("install-started") == 2
            assert rig.names().count("install-complete") == 2
            assert count_installs(rig.disks[0].path) == 1

        self.run(tmp_path, media, "double-calls", then)

    def test_silent(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            rig.wait_for_console("first boot told", INSTALLER_S + BOOT_S)
            assert rig.names()[-2:] == ["install-started", "image.raw"]
            assert len(read_disk_log(rig.disks[0].path)) == 2

        self.run(tmp_path, media, "silent", then)

    def test_no_first_boot(self, tmp_path: Path, media: TinyMedia) -> None:
        def then(rig: Rig) -> None:
            rig.wait_for_console("tiny: up run=server-1/1", INSTALLER_S + BOOT_S)
            assert rig.names()[-1] == "install-complete"

        self.run(tmp_path, media, "no-first-boot", then)

    @pytest.mark.parametrize("fail", ["no-ssh", "wrong-host-key"])
    def test_no_proof(self, tmp_path: Path, media: TinyMedia, fail: str) -> None:
        key, public = new_key()
        with tiny_rig(tmp_path, media, own_kickstart(public), kernel_args=f"tiny.fail={fail}") as rig:
            rig.power_on()
            host_key = host_key_of(rig)
            rig.wait_for("first-boot", BOOT_S)
            refusal = (
                paramiko.BadHostKeyException
                if fail == "wrong-host-key"
                else (paramiko.SSHException, EOFError)
            )
            with pytest.raises(refusal):
                rig.login(key, host_key, "true", within_s=10)
