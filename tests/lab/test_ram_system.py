"""The RAM system for real machines, on what QEMU has of server hardware: none of it is the lab's own virtio."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from baremetal.cli.demo import cache_folder
from baremetal.errors import LabError
from baremetal.ramsystem.architecture import Architecture
from baremetal.ramsystem.build import INFO, RamSystem, build
from tests.lab.guests import boot_host, text_of, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

MAC, OTHER = "52:54:00:0c:00:01", "52:54:00:0c:00:02"
SCRIPT = rb"""
for disk in /sys/block/*; do echo "DISK $(cat $disk/device/model) $(cat $disk/size)"; done
for nic in /sys/class/net/*; do
    [ -e "$nic/device" ] || continue
    echo "NIC $(basename "$(readlink "$nic/device/driver")") $(cat "$nic/address") $(cat "$nic/operstate")"
done
ssh-keygen -A && echo "KEY $(cut -d' ' -f1 /etc/ssh/ssh_host_ed25519_key.pub)"
dropbear -V 2>&1 | sed 's/^/SSHD /'
ipmitool mc info 2>&1 | grep '^IPMI Version'
blkdiscard --help 2>&1 | head -n 1 | sed 's/^/TOOL /'
for system in ext4 xfs btrfs vfat; do
    modprobe $system && echo "SYSTEM $(grep -c "[[:space:]]$system$" /proc/filesystems)"
done
modprobe bnx2x && echo "LOADED bnx2x"
echo ALL SEEN
poweroff -f
"""
# Behind each of the controllers that servers have: AHCI, NVMe, a MegaRAID, an LSI SAS HBA. The USB disk is not seen.
DISKS = (
    ("ide-hd,drive={0}", ()),
    ("nvme,serial=N1,drive={0}", ()),
    ("scsi-hd,bus=raid.0,drive={0}", ("megasas,id=raid",)),
    ("scsi-hd,bus=hba.0,drive={0},wwn=0x5000c50015ea71ac", ("mptsas1068,id=hba",)),
    ("usb-storage,bus=usb.0,drive={0}", ("qemu-xhci,id=usb",)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RamSystem:
    try:
        return build(tmp_path_factory.mktemp("ram-system"), cache_folder(), Architecture.X86_64)
    except LabError as error:
        pytest.skip(str(error))


def test_it_is_a_kernel_an_initramfs_and_what_they_are(made: RamSystem) -> None:
    assert sorted(path.name for path in made.folder.iterdir()) == ["initrd.img", INFO, "vmlinuz"]
    assert made.kernel in (made.folder / INFO).read_text()
    assert made.drivers > 400


def test_it_finds_the_disks_and_nics_of_servers_and_does_what_it_is_told(
    made: RamSystem, tmp_path: Path
) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("QEMU is not installed")
    console = tmp_path / "console.log"
    with boot_host() as host:
        host.script = SCRIPT
        words = f"console=ttyS0 quiet BOOTIF=01-{MAC.replace(':', '-')} bm.script={host.url}"
        command = [
            "nice",
            qemu,
            "-accel",
            "tcg",
            "-m",
            "512",
            "-machine",
            "q35",
            "-nodefaults",
            "-display",
            "none",
        ]
        command += ["-no-reboot", "-serial", f"file:{console}", "-kernel", str(made.folder / "vmlinuz")]
        command += ["-initrd", str(made.folder / "initrd.img"), "-append", words]
        for number, (device, controllers) in enumerate(DISKS):
            image = tmp_path / f"disk{number}.img"
            image.touch()
            os.truncate(image, (32 + number) << 20)
            command += ["-drive", f"if=none,id=d{number},format=raw,file={image}"]
            for controller in controllers:
                command += ["-device", controller]
            command += ["-device", device.format(f"d{number}")]
        command += ["-device", "ipmi-bmc-sim,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0"]
        command += ["-netdev", "user,id=n0", "-device", f"e1000e,netdev=n0,mac={MAC},romfile="]
        command += ["-netdev", "user,id=n1", "-device", f"e1000,netdev=n1,mac={OTHER},romfile="]
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: guest.poll() is not None, 240, "the guest did not switch itself off")
        finally:
            guest.kill()
            guest.wait(10)
    said = text_of(console).decode(errors="replace").replace("\r", "")
    assert "ALL SEEN" in said, said[-3000:]
    sizes = sorted(int(size) for size in re.findall(r"^DISK .* (\d+)$", said, re.MULTILINE))
    assert sizes == [(32 + number) * 2048 for number in range(len(DISKS) - 1)], said[-3000:]
    assert f"NIC e1000e {MAC} up\n" in said
    assert f"NIC e1000 {OTHER} down\n" in said, "the NIC that netbooted is the only one that is used"
    assert "KEY ssh-ed25519\n" in said
    assert "SSHD Dropbear v" in said
    assert re.search(r"^IPMI Version +: 2\.0", said, re.MULTILINE), said[-2000:]
    assert "TOOL " in said
    assert said.count("SYSTEM 1\n") == 4, said[-2000:]
    assert "LOADED bnx2x\n" in said, "which needs a checksum that it asks for by its name"
