"""Virtual servers with real firmware: what they fetch, what they boot, and how they lose power."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from baremetal.errors import LabError
from baremetal.lab.firmware import find_firmware
from baremetal.lab.machine import MachineSpec, QemuMachine, VirtualDisk
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.sim.chassis import OWN_ORDER, BootOrder
from tests.lab.guests import DISK_GREETING, BootHost, boot_host, boot_sector, text_of, wait_until

pytestmark = pytest.mark.lab

ONCE_PXE = BootOrder(BootDevice.PXE)
MAC = "52:54:00:0b:00:01"
SYSTEM_UUID = UUID("0b5e7c2e-5a39-4a55-9d0c-3d8f6f1f0a01")
MakeMachine = Callable[..., QemuMachine]


@pytest.fixture
def host() -> Iterator[BootHost]:
    with boot_host() as host:
        yield host


@pytest.fixture
def make(tmp_path: Path, host: BootHost) -> Iterator[MakeMachine]:
    made: list[QemuMachine] = []

    def make(
        mode: BootMode = BootMode.BIOS, next_boot: Callable[[], BootOrder] = lambda: OWN_ORDER, **more: object
    ) -> QemuMachine:
        if shutil.which("qemu-system-x86_64") is None:
            pytest.skip("QEMU is not installed")
        disk = tmp_path / "disk0.img"
        disk.write_bytes(boot_sector())
        os.truncate(disk, 8 << 20)
        spec = MachineSpec(
            name="r1",
            directory=tmp_path,
            mac=MAC,
            uuid=SYSTEM_UUID,
            serial="LAB0001",
            disks=(VirtualDisk(disk, 8, "LABDISK1"),),
            boot_url=host.url,
            boot_mode=mode,
            **more,  # type: ignore[arg-type]
        )
        machine = QemuMachine(spec, find_firmware(mode), next_boot=next_boot)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.close()


def greetings(machine: QemuMachine) -> int:
    return text_of(machine.spec.serial_log).count(DISK_GREETING)


@pytest.mark.parametrize("mode", list(BootMode))
def test_firmware_tells_the_boot_host_who_it_is(make: MakeMachine, host: BootHost, mode: BootMode) -> None:
    host.script = (
        b"#!ipxe\nchain http://${next-server}:%b/?mac=${net0/mac}&uuid=${uuid}&serial=${serial}&platform=${platform}\n"
        % host.url.split(":")[2].split("/")[0].encode()
    )
    machine = make(mode)
    machine.power_on(ONCE_PXE)
    wait_until(lambda: len(host.requests) > 1, 45, "a second request")
    assert "iPXE" in host.requests[0][2]
    assert host.requests[0][1] == "/boot.ipxe"
    asked = host.requests[1][1]
    assert f"mac={MAC}" in asked.replace("%3A", ":")
    assert f"uuid={SYSTEM_UUID}" in asked
    assert "serial=LAB0001" in asked
    assert f"platform={'efi' if mode is BootMode.UEFI else 'pcbios'}" in asked


def test_own_order_boots_the_disk_and_never_asks_the_network(make: MakeMachine, host: BootHost) -> None:
    machine = make()
    machine.power_on(OWN_ORDER)
    wait_until(lambda: greetings(machine), 40, "the system on the disk")
    assert not host.requests


def test_network_first_firmware_reaches_its_disk_when_told_to_exit(make: MakeMachine, host: BootHost) -> None:
    machine = make(own_order=(BootDevice.PXE, BootDevice.DISK))
    machine.power_on(OWN_ORDER)
    wait_until(lambda: greetings(machine), 45, "the system on the disk")
    assert len(host.requests) == 1


def test_override_for_one_boot_does_not_survive_the_guests_own_reboot(
    make: MakeMachine, host: BootHost
) -> None:
    host.script = b"#!ipxe\nreboot\n"
    machine = make()
    machine.power_on(ONCE_PXE)
    wait_until(lambda: greetings(machine), 45, "the system on the disk")
    assert len(host.requests) == 1
    assert machine.boots == 2
    assert machine.is_on


def test_uefi_override_for_one_boot_does_not_survive_the_guests_own_reboot(
    make: MakeMachine, host: BootHost
) -> None:
    host.script = b"#!ipxe\nreboot\n"
    machine = make(BootMode.UEFI)
    machine.power_on(ONCE_PXE)
    log = machine.spec.serial_log
    wait_until(lambda: len(host.requests) == 2, 55, "the network, after the disk was found not bootable")
    assert b"Not Found" not in text_of(log).split(b"iPXE")[0], "the first boot tried the disk"
    assert b"Not Found" in text_of(log), "the second boot did not try the disk"


def test_each_reboot_asks_for_its_order(make: MakeMachine, host: BootHost) -> None:
    orders = iter([ONCE_PXE, OWN_ORDER])
    host.script = b"#!ipxe\nreboot\n"
    machine = make(next_boot=lambda: next(orders))
    machine.power_on(ONCE_PXE)
    wait_until(lambda: greetings(machine), 40, "the system on the disk")
    assert len(host.requests) == 2
    assert machine.boots == 3


def test_reset_takes_the_override(make: MakeMachine, host: BootHost) -> None:
    machine = make()
    machine.power_on(OWN_ORDER)
    wait_until(lambda: greetings(machine), 40, "the system on the disk")
    machine.reset(ONCE_PXE)
    wait_until(lambda: host.requests, 40, "the network")
    assert machine.boots == 2
    assert machine.is_on


def test_soft_off_is_the_guests_decision(make: MakeMachine, host: BootHost) -> None:
    host.script = b"#!ipxe\nsleep 60\n"
    machine = make()
    machine.power_on(ONCE_PXE)
    wait_until(lambda: host.requests, 40, "the network")
    machine.soft_off()  # a boot loader does not look at the button
    with pytest.raises(AssertionError):
        wait_until(lambda: not machine.is_on, 1, "off")
    machine.reset(OWN_ORDER)
    wait_until(lambda: greetings(machine), 40, "the system on the disk")
    machine.soft_off()
    wait_until(lambda: not machine.is_on, 30, "off")
    wait_until(lambda: machine.pid is None, 40, "QEMU gone")
    assert machine.last_error == ""
    machine.power_on(OWN_ORDER)
    wait_until(lambda: greetings(machine) == 2, 40, "the system on the disk, again")


def test_power_off_is_immediate_and_repeatable(make: MakeMachine) -> None:
    machine = make()
    seen = []
    machine.power_off()
    machine.power_on(OWN_ORDER)
    seen.append(machine.is_on)
    pid = wait_until(lambda: machine.pid, 30, "QEMU")
    machine.power_off()
    machine.power_off()
    seen.append(machine.is_on)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 40, "QEMU gone")
    machine.power_on(OWN_ORDER)
    machine.power_off()
    machine.power_on(OWN_ORDER)
    seen.append(machine.is_on)
    assert seen == [True, False, True]
    wait_until(lambda: greetings(machine), 40, "the system on the disk")


def test_qemu_that_dies_is_a_machine_that_lost_power(make: MakeMachine) -> None:
    machine = make()
    machine.power_on(OWN_ORDER)
    pid = wait_until(lambda: machine.pid, 30, "QEMU")
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not machine.is_on, 40, "off")
    assert "QEMU" in machine.last_error


def test_what_qemu_refuses_is_told(make: MakeMachine) -> None:
    machine = make(more_arguments=("-device", "no-such-device"))
    machine.power_on(OWN_ORDER)
    wait_until(lambda: not machine.is_on, 30, "off")
    assert "no-such-device" in machine.last_error


def test_close_leaves_no_process_thread_or_descriptor(make: MakeMachine) -> None:
    before = len(os.listdir("/proc/self/fd"))
    machine = make()
    machine.power_on(OWN_ORDER)
    pid = wait_until(lambda: machine.pid, 30, "QEMU")
    machine.close()
    machine.close()
    assert not Path(f"/proc/{pid}").exists()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not machine.spec.pid_file.exists()


def test_overlong_disk_serial_is_refused(tmp_path: Path) -> None:
    disk = VirtualDisk(tmp_path / "disk", 1, "x" * 21)
    spec = MachineSpec(
        name="r1",
        directory=tmp_path,
        mac=MAC,
        uuid=SYSTEM_UUID,
        serial="1",
        disks=(disk,),
        boot_url="http://x/",
    )
    with pytest.raises(LabError, match="20 bytes"):
        QemuMachine(spec, find_firmware(BootMode.BIOS))
