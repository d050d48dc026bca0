"""The disk image that the tiny installer writes: a partition that BIOS and UEFI boot from, and the root filesystem.

Made without root and without loop devices: mtools and syslinux write into the FAT partition at its offset, mke2fs fills
the root from a folder, debugfs gives its files to root. Knows disks and boot loaders; what is in the root filesystem is
the caller's. The image is small and stays uncompressed: an emulated machine fetches it ten times faster than it could
unpack it.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError

_SECTOR = 512
_MIB = 1024 * 1024
_BOOT_START = _MIB
_BOOT_SPARE = 2 * _MIB
_ROOT_SPARE = 6 * _MIB  # the filesystem's own tables and journal, and room for what post scripts write
_MBR_CODE_BYTES = 440
_TYPE_ESP = 0xEF  # firmware of both kinds takes it: BIOS looks at the active flag only
_TYPE_LINUX = 0x83

ROOT_LABEL = "tiny-root"

# The Debian package that brings each tool this module runs on the building machine.
HOST_TOOLS = {
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "syslinux": "syslinux",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What goes into the boot partition; `mbr_code` is syslinux's, `shim` and `grub` are the signed ones.

    `efi` is how the names of the architecture's UEFI programs end; without `mbr_code` it has no BIOS.
    """

    kernel: Path
    initrd: Path
    efi: str
    shim: Path
    grub: Path
    mbr_code: Path | None
    cmdline: str

    def files(self) -> tuple[Path, ...]:
        """Return what takes room in the boot partition."""
        return (self.kernel, self.initrd, self.shim, self.grub)


def check_tools() -> None:
    """Raise LabError, naming the packages, when this machine lacks a tool that `write_image` runs."""
    missing = sorted({package for tool, package in HOST_TOOLS.items() if _find(tool) is None})
    if missing:
        raise LabError(
            f"the tiny system cannot be built without {', '.join(missing)}",
            fix=f"run: apt-get install --no-install-recommends {' '.join(missing)}",
        )


def write_image(target: Path, boot: BootFiles, root: Path, work: Path) -> None:
    """Write the raw disk image to `target`, sized by its content; `root` is the folder of the root filesystem."""
    root_bytes = _whole_mib(sum(path.lstat().st_size for path in root.rglob("*")) + _ROOT_SPARE)
    filesystem = work / "root.ext4"
    _make_root_filesystem(filesystem, root, root_bytes, work)
    join_image(target, boot, filesystem, work)


def join_image(target: Path, boot: BootFiles, filesystem: Path, work: Path) -> None:
    """Write the raw disk image of a boot partition and this root filesystem to `target`. Holes stay holes."""
    boot_bytes = _whole_mib(sum(path.stat().st_size for path in boot.files()) + _BOOT_SPARE)
    root_bytes = _whole_mib(filesystem.stat().st_size)
    root_start = _BOOT_START + boot_bytes
    table = _partition(_BOOT_START, boot_bytes, _TYPE_ESP, active=True)
    table += _partition(root_start, root_bytes, _TYPE_LINUX, active=False)
    mbr_code = boot.mbr_code.read_bytes() if boot.mbr_code else b""
    code = mbr_code[:_MBR_CODE_BYTES].ljust(_MBR_CODE_BYTES, b"\0")
    with target.open("wb") as image:
        image.write(code + b"tiny\0\0" + table.ljust(64, b"\0") + b"\x55\xaa")
        image.truncate(
            root_start
        )  # and no further yet: mkfs.vfat chooses the kind of FAT by the whole file's size
    _fill_boot_partition(target, boot, boot_bytes, work)
    with target.open("r+b") as image, filesystem.open("rb") as content:
        image.truncate(root_start + root_bytes)
        image.seek(root_start)
        while chunk := content.read(_MIB):
            if chunk.count(0) == len(chunk):
                image.seek(len(chunk), os.SEEK_CUR)
            else:
                image.write(chunk)


def _whole_mib(size: int) -> int:
    return -(-size // _MIB) * _MIB


def _partition(start: int, size: int, kind: int, *, active: bool) -> bytes:
    beyond_chs = b"\xfe\xff\xff"
    flag = 0x80 if active else 0
    return struct.pack("<B3sB3sII", flag, beyond_chs, kind, beyond_chs, start // _SECTOR, size // _SECTOR)


def _fill_boot_partition(image: Path, boot: BootFiles, size: int, work: Path) -> None:
    blocks = size // 1024
    offset = str(_BOOT_START // _SECTOR)
    _run(
        [
            "mkfs.vfat",
            "-n",
            "TINYBOOT",
            "-i",
            "74696e79",
            "--offset",
            offset,
            "-h",
            offset,
            str(image),
            str(blocks),
        ]
    )
    syslinux_config = work / "syslinux.cfg"
    syslinux_config.write_text(
        f"DEFAULT tiny\nPROMPT 0\nTIMEOUT 0\nLABEL tiny\nKERNEL /vmlinuz\nINITRD /initrd\nAPPEND {boot.cmdline}\n"
    )
    grub_config = work / "grub.cfg"
    grub_config.write_text(
        f"set timeout=0\nmenuentry tiny {{\n  linux /vmlinuz {boot.cmdline}\n  initrd /initrd\n}}\n"
    )
    if boot.mbr_code:
        _run(["syslinux", "--install", "--offset", str(_BOOT_START), str(image)])
    drive = f"{image}@@{_BOOT_START}"
    _run(["mmd", "-i", drive, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"])
    for source, name in (
        (boot.kernel, "vmlinuz"),
        (boot.initrd, "initrd"),
        (syslinux_config, "syslinux.cfg"),
        (boot.shim, f"EFI/BOOT/BOOT{boot.efi.upper()}.EFI"),
        (boot.grub, f"EFI/BOOT/grub{boot.efi}.efi"),
        (grub_config, "EFI/debian/grub.cfg"),
    ):
        _run(["mcopy", "-i", drive, str(source), f"::/{name}"])


def _make_root_filesystem(target: Path, root: Path, size: int, work: Path) -> None:
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-N", "1024", "-m", "0", "-J", "size=1"]
    command += ["-L", ROOT_LABEL, "-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"]
    _run([*command, "-d", str(root), str(target), f"{size // 1024}k"])
    # mke2fs keeps the builder's user and group; sshd refuses keys that do not belong to root.
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*"))]
    script = work / "owners"
    script.write_text("".join(f'sif "/{name}" uid 0\nsif "/{name}" gid 0\n' for name in names))
    _run(["debugfs", "-w", "-f", str(script), str(target)])


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _run(command: list[str]) -> None:
    tool = _find(command[0]) or command[0]
    environment = os.environ | {"LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(
        [tool, *command[1:]], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        seen = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise LabError(f"{command[0]} failed while building the tiny system's disk image", seen=seen)
