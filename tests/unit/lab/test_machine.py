"""The command line of a virtual server, without starting one."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from baremetal.errors import LabError
from baremetal.lab.firmware import Firmware, find_firmware
from baremetal.lab.machine import MachineSpec, VirtualDisk, boot_indexes, command_line
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.ramsystem.architecture import Architecture
from baremetal.sim.chassis import OWN_ORDER, BootOrder

BIOS = Firmware(Path("/bin/qemu"), Path("/rom"))
UEFI = Firmware(Path("/bin/qemu"), Path("/rom"), Path("/code"), Path("/variables"))
ARM64 = Firmware(Path("/bin/qemu"), None, Path("/code"), Path("/variables"))


def spec(directory: Path, **changes: object) -> MachineSpec:
    values: dict[str, object] = {
        "name": "r1",
        "directory": directory,
        "mac": "52:54:00:00:00:01",
        "uuid": UUID(int=1),
        "serial": "S1",
        "disks": (VirtualDisk(directory / "a", 8, "DA"), VirtualDisk(directory / "b", 8, "DB")),
        "boot_url": "http://10.0.2.2:8080/boot.ipxe",
    }
    return MachineSpec(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "own", "places"),
    [
        (OWN_ORDER, "disk pxe", "disk0 disk1 nic0"),
        (OWN_ORDER, "pxe disk", "nic0 disk0 disk1"),
        (BootOrder(BootDevice.PXE), "disk pxe", "nic0 disk0 disk1"),
        (BootOrder(BootDevice.PXE), "disk", "nic0 disk0 disk1"),
        (BootOrder(BootDevice.DISK, persistent=True), "pxe disk", "disk0 disk1 nic0"),
        (BootOrder(BootDevice.CDROM), "disk pxe", "disk0 disk1 nic0"),
        (BootOrder(BootDevice.BIOS), "pxe disk", "nic0 disk0 disk1"),
    ],
)
def test_an_override_goes_first_and_the_rest_keeps_its_order(
    tmp_path: Path, order: BootOrder, own: str, places: str
) -> None:
    made = spec(tmp_path, own_order=tuple(BootDevice(device) for device in own.split()))
    assert boot_indexes(made, order) == {name: place for place, name in enumerate(places.split())}


def test_command_line_carries_identity_order_and_monitor(tmp_path: Path) -> None:
    line = " ".join(command_line(spec(tmp_path, ssh_port=2222), BIOS, BootOrder(BootDevice.PXE), 7, 8))
    assert "-uuid 00000000-0000-0000-0000-000000000001" in line
    assert "mac=52:54:00:00:00:01" in line
    assert "serial=S1" in line
    assert "drive=drive1,serial=DB,bootindex=2" in line
    assert "romfile=/rom,bootindex=0" in line
    assert "hostfwd=tcp:127.0.0.1:2222-:22" in line
    assert "socket,id=qmp,fd=7" in line
    assert "socket,id=lan0,fd=8" in line
    assert "-m 256" in line
    assert "pflash" not in line


def test_uefi_has_its_own_variables_and_more_memory(tmp_path: Path) -> None:
    line = " ".join(command_line(spec(tmp_path, boot_mode=BootMode.UEFI), UEFI, OWN_ORDER, 7, 8))
    assert "readonly=on,file=/code" in line
    assert f"file={tmp_path}/uefi-variables.fd" in line
    assert "-m 512" in line


def test_commas_in_paths_do_not_end_an_option(tmp_path: Path) -> None:
    made = spec(tmp_path / "a,b", boot_url="http://h/x?a=1,2")
    line = " ".join(command_line(made, BIOS, OWN_ORDER, 7, 8))
    assert f"{tmp_path}/a,,b/serial.log" in line
    assert "bootfile=http://h/x?a=1,,2" in line


def test_missing_qemu_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="qemu-system-x86"):
        find_firmware(BootMode.BIOS, {"PATH": str(tmp_path)})


def test_a_machine_on_a_tap_has_no_user_network(tmp_path: Path) -> None:
    words = command_line(spec(tmp_path, tap="bm0t1", network_rom=False), BIOS, OWN_ORDER, 3, 4)
    networks = [words[at + 1] for at, word in enumerate(words) if word == "-netdev"]
    assert networks == ["tap,id=port1,ifname=bm0t1,script=no,downscript=no"]
    (nic,) = [word for word in words if word.startswith("virtio-net-pci,")]
    assert "romfile=" in nic.split(",")


def test_uefi_http_boot_is_what_is_left_without_pxe(tmp_path: Path) -> None:
    line = " ".join(command_line(spec(tmp_path, http_boot=True), UEFI, OWN_ORDER, 3, 4))
    assert "-fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n" in line
    assert "-fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n" in line


def test_secure_boot_keeps_its_variables_from_the_guest(tmp_path: Path) -> None:
    line = " ".join(command_line(spec(tmp_path, secure_boot=True), UEFI, OWN_ORDER, 3, 4))
    assert "-machine q35,usb=off,smm=on" in line
    assert "-global driver=cfi.pflash01,property=secure,value=on" in line
    with pytest.raises(LabError, match="part of UEFI"):
        find_firmware(BootMode.BIOS, secure_boot=True)


def test_arm64_is_another_board_whose_firmware_netboots_by_itself(tmp_path: Path) -> None:
    made = spec(tmp_path, boot_mode=BootMode.UEFI, architecture=Architecture.ARM64)
    words = command_line(made, ARM64, BootOrder(BootDevice.PXE), 3, 4)
    line = " ".join(words)
    assert "-machine virt -cpu cortex-a57" in line
    assert "readonly=on,file=/code" in line
    (nic,) = [word for word in words if word.startswith("virtio-net-pci,")]
    assert nic.endswith(",romfile=,bootindex=0")


def test_arm64_names_its_own_packages_and_what_it_has_not(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="qemu-system-aarch64") as caught:
        find_firmware(BootMode.UEFI, {"PATH": str(tmp_path)}, architecture=Architecture.ARM64)
    assert "qemu-system-arm" in str(caught.value.fix)
    with pytest.raises(LabError, match="boots by UEFI"):
        find_firmware(BootMode.BIOS, architecture=Architecture.ARM64)
    with pytest.raises(LabError, match="without Secure Boot"):
        find_firmware(BootMode.UEFI, architecture=Architecture.ARM64, secure_boot=True)
