"""Diskless machines with real firmware: they run from LUNs of their own, keep what they write, and reach no other's.

S1-7: what a root on iSCSI needs is in the tiny system's initramfs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import paramiko
import pytest

from baremetal.lab.targets import TargetDaemon
from baremetal.lab.tiny.build import TinyMedia, build
from baremetal.lab.tiny.disklog import read_disk_log
from baremetal.lifecycle.model import BootMode
from tests.lab.diskless_rig import USER_DATA, Diskless, Volume, boot_script, let_in, make_seed, serve
from tests.lab.guests import BootHost, boot_host, wait_until
from tests.lab.tiny_rig import SERVER_ID, cache_folder, shipped_kickstart, tiny_rig

pytestmark = [pytest.mark.lab, pytest.mark.timeout(480)]

# Bounds, not expectations: a busy machine needs several times what an idle one does.
BOOT_S = 150.0
OFF_S = 40.0
INSTALL_S = 300.0
TOLD = "until [ -s /root/told ]; do sleep 1; done; cat /root/told"


@pytest.fixture(scope="module")
def media() -> TinyMedia:
    return build(cache_folder())


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[TargetDaemon]:
    if shutil.which("tgtd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("tgt is not installed")
    with TargetDaemon(tmp_path / "tgt") as targets:
        yield targets


@pytest.fixture
def host() -> Iterator[BootHost]:
    with boot_host() as host:
        yield host


@pytest.fixture
def key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


def public(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


def clone(media: TinyMedia, folder: Path, volume: Volume) -> Path:
    """A copy of the golden image, larger than what is in it."""
    image = folder / f"{volume.name}.img"
    shutil.copyfile(media.image, image)
    with image.open("r+b") as file:
        file.truncate(128 << 20)
    return image


def turn_off(diskless: Diskless) -> None:
    diskless.machine.soft_off()
    wait_until(lambda: not diskless.machine.is_on, OFF_S, f"power off:\n{diskless.console()[-1000:]}")


def test_two_machines_run_from_their_own_clones_and_from_no_other(
    tmp_path: Path, media: TinyMedia, targets: TargetDaemon, host: BootHost, key: paramiko.PKey
) -> None:
    volumes = (Volume("r1", 1), Volume("r2", 2))
    for volume in volumes:
        user_data = USER_DATA.format(name=volume.name, key=public(key), url=host.url)
        seed = make_seed(
            tmp_path,
            instance=f"{volume.name}-1",
            name=f"{volume.name}.example",
            user_data=user_data,
            fat=volume.number == 2,
        )
        serve(targets, volume, clone(media, tmp_path, volume), seed)
    host_keys = set()
    for volume, other, mode in zip(volumes, reversed(volumes), (BootMode.BIOS, BootMode.UEFI), strict=True):
        # Neither by its own name with the other's password, nor by the other's name with its own.
        attempts = (
            f"{let_in(volume.initiator, other)}\nsanhook {other.uri(targets)} || echo refused by name\n"
            f"{let_in(other.initiator, volume)}\nsanhook {other.uri(targets)} || echo refused by password\n"
        )
        host.script = boot_script(volume, targets, attempts)
        diskless = Diskless(tmp_path, volume, host, mode)
        try:
            diskless.power_on()
            console = diskless.said(f"tiny: up run={volume.name}/1", BOOT_S)
            # To who is not let in the target does not even exist.
            refusals = [line for line in console.splitlines() if "SAN device:" in line or "refused" in line]
            assert [line.split("(")[0].strip() for line in refusals] == [
                "Could not open SAN device: No such device",
                "refused by name",
                "Could not open SAN device: Operation not permitted",
                "refused by password",
            ]
            assert diskless.ask(key, "hostname; cat /root/ran").splitlines() == [
                f"{volume.name}.example",
                f"ran for {volume.name}.example",
            ]
            assert "/dev/sda2 on / type ext4" in diskless.ask(key, "mount")
            host_key = diskless.ask(
                key, f"echo {volume.name} >/root/mine; sync; cat /etc/ssh/ssh_host_*_key.pub"
            )
            host_keys.add(host_key)
            reported = parse_qs(urlsplit(host.requests[-1][1]).query)["key"]
            assert reported == [host_key.strip()]
            assert diskless.ask(key, TOLD) == "told\n"
            if mode is BootMode.BIOS:  # in order, and by pulling the plug
                turn_off(diskless)
            else:
                diskless.machine.power_off()
                wait_until(lambda: diskless.machine.pid is None, OFF_S, "power off")  # noqa: B023
            host.script = boot_script(volume, targets)
            diskless.power_on()
            diskless.said("tiny: up", BOOT_S)
            # What it wrote is there, and the same seed changes nothing.
            assert (
                diskless.ask(key, "cat /root/mine /etc/ssh/ssh_host_*_key.pub")
                == f"{volume.name}\n{host_key}"
            )
            assert diskless.ask(key, "grep -c . /root/ran") == "1\n"
        finally:
            diskless.machine.close()
    assert len(host_keys) == 2


@pytest.mark.long
def test_a_new_instance_is_another_system_and_its_script_runs_until_it_ended_well(
    tmp_path: Path, media: TinyMedia, targets: TargetDaemon, host: BootHost, key: paramiko.PKey
) -> None:
    volume = Volume("r1", 1)
    first = make_seed(
        tmp_path,
        instance="first",
        name="first",
        user_data=USER_DATA.format(name="first", key=public(key), url=host.url),
    )
    # Fails at its first run, when it has told of the system's keys already.
    user_data = (
        USER_DATA.format(name="second", key=public(key), url=host.url)
        + 'sync\n[ "$(grep -c second /root/ran)" -ge 2 ]\n'
    )
    second = make_seed(tmp_path, instance="second", name="second", user_data=user_data)
    seed = tmp_path / "seed.img"
    shutil.copyfile(first, seed)
    serve(targets, volume, clone(media, tmp_path, volume), seed)
    host.script = boot_script(volume, targets)
    diskless = Diskless(tmp_path, volume, host, BootMode.BIOS)
    try:
        diskless.power_on()
        diskless.said("tiny: up run=first/1", BOOT_S)
        facts = "hostname; cat /etc/ssh/ssh_host_*_key.pub /etc/machine-id"
        was = diskless.ask(
            key, f"echo 0123456789abcdef0123456789abcdef >/etc/machine-id; {facts}"
        ).splitlines()
        assert diskless.ask(key, f"{TOLD}; echo --; ls /var/lib/tiny; sync").split() == [
            "told", "--", "first-boot-done", "instance-begun", "instance-id"
        ]  # fmt: skip
        turn_off(diskless)

        seed.write_bytes(second.read_bytes())
        diskless.power_on()
        diskless.said("user-data of second ended with 1", BOOT_S)
        diskless.said("tiny: up run=second/1", BOOT_S)
        now = diskless.ask(key, facts).splitlines()
        assert now[0] == "second"
        assert not set(now) & set(was)
        # The other system's first boot has been told, this one's not.
        diskless.said("tiny: first boot told", BOOT_S)
        assert "instance-id" not in diskless.ask(key, "ls /var/lib/tiny").split()
        turn_off(diskless)

        diskless.power_on()
        diskless.said("tiny: up run=second/1", BOOT_S)
        assert "ended with" not in diskless.console()
        assert diskless.ask(key, facts).splitlines() == now
        assert diskless.ask(key, "cat /var/lib/tiny/instance-id /root/ran").splitlines() == [
            "second",
            "ran for first",
            "ran for second",
            "ran for second",
        ]
    finally:
        diskless.machine.close()


@pytest.mark.long
def test_kernel_arguments_name_the_target_where_no_firmware_does(
    tmp_path: Path, media: TinyMedia, targets: TargetDaemon
) -> None:
    volume = Volume("tiny", 1)
    serve(targets, volume, clone(media, tmp_path, volume), chap=False)
    with tiny_rig(tmp_path / "rig", media, shipped_kickstart(), disks_mib=()) as rig:
        target = f"iscsi_initiatorname={volume.initiator} iscsi_target={volume.target}"
        address = f"iscsi_address=10.0.2.2 iscsi_port={targets.port}"
        kernel, rest = rig.installer.split("\n", 1)
        words = [word for word in kernel.split() if not word.startswith("inst.ks=")]
        rig.answer_boot(f"{' '.join(words)} root=LABEL=tiny-root {target} {address}\n{rest}")
        rig.power_on()
        rig.wait_for_console("iSCSI: sda by eth0", BOOT_S)
        rig.wait_for_console("tiny: up run=?", BOOT_S)


@pytest.mark.parametrize("mode", [BootMode.BIOS, pytest.param(BootMode.UEFI, marks=pytest.mark.long)])
def test_installs_on_a_lun_and_runs_from_it(
    tmp_path: Path, media: TinyMedia, targets: TargetDaemon, key: paramiko.PKey, mode: BootMode
) -> None:
    volume = Volume("tiny", 1)
    lun = tmp_path / "lun.img"
    with lun.open("wb") as image:
        image.truncate(256 << 20)
    serve(targets, volume, lun)
    # Disks of a storage network are written by name only.
    kickstart = shipped_kickstart(public(key), disk="path=/dev/sda")
    with tiny_rig(tmp_path / "rig", media, kickstart, mode=mode, disks_mib=()) as rig:
        access = f"{let_in(volume.initiator, volume)}\nset keep-san 1\n"
        rig.answer_boot(
            f"{access}sanhook {volume.uri(targets)} || goto failed\n{rig.installer}:failed\nsleep 600\n"
        )
        rig.power_on()
        started = rig.wait_for("install-started", INSTALL_S)
        assert started.fields["disk"] == "sda"
        rig.answer_boot(f"{access}sanboot {volume.uri(targets)}\n")
        rig.wait_for("install-complete", INSTALL_S)
        assert rig.wait_for("first-boot", BOOT_S).fields["run"] == f"{SERVER_ID}/1"
        assert [line.split()[0] for line in read_disk_log(lun)] == ["partitioning", "complete"]
        assert rig.names().count("boot.ipxe") == 2
        rig.machine.soft_off()
        rig.wait_until_off(OFF_S)
