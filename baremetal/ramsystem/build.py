"""The RAM system for real machines, made of Debian packages without root: a kernel, its drivers, busybox and an sshd.

Owns which packages and which of the kernel's drivers it is made of. What it does once it runs stands in `system/init`
and `system/ramdisk`; what it is told to do is a template of the profiles `inspect`, `rescue` and `wipe`.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baremetal.errors import LabError
from baremetal.ramsystem import cpio
from baremetal.ramsystem.architecture import Architecture
from baremetal.ramsystem.packages import Apt, Package, unpack
from baremetal.ramsystem.parts import (
    SCRIPTS,
    Parts,
    copy_with_libraries,
    find_busybox,
    install,
    lay_out_busybox,
    needs_of,
    only,
    read_module,
    write_accounts,
)

INFO: Final = "ram-system.info"
"""Lies beside kernel and initramfs, and says what they are: `media add` knows them by it."""
# What servers have disks, networks and BMCs behind, below kernel/ in a Debian kernel's modules. Nothing for USB disks
# and SD cards: a wipe takes every fixed disk that it sees, and many of those call themselves fixed.
_DRIVERS: Final = (
    "drivers/ata/",
    "drivers/char/ipmi/",
    "drivers/firmware/",
    "drivers/hv/",
    "drivers/md/",
    "drivers/message/",
    "drivers/net/ethernet/",
    "drivers/net/hyperv/",
    "drivers/net/mdio/",
    "drivers/net/phy/",
    "drivers/net/vmxnet3/",
    "drivers/nvdimm/",
    "drivers/nvme/host/",
    "drivers/pci/controller/",
    "drivers/scsi/",
    "drivers/usb/common/",
    "drivers/usb/core/",
    "drivers/usb/host/",
    "drivers/virtio/",
    "drivers/xen/",
    "fs/btrfs/",
    "fs/ext4/",
    "fs/fat/",
    "fs/nls/",
    "fs/xfs/",
)
# fmt: off
_SINGLE: Final = (
    "virtio_blk", "virtio_net", "xen-blkfront", "xen-netfront", "mtip32xx", "nfit",
    "cdc_ether", "cdc_ncm", "r8152", "ax88179_178a", "usbhid", "hid-generic", "evdev", "button", "efivarfs",
    "i2c-i801", "i2c-piix4",  # some BMCs are behind these
    # asked for by their algorithm and not by name; file systems and some NICs do not even load without
    "crc32c_generic", "crc32c-intel", "crct10dif_generic", "crct10dif-pclmul", "xxhash_generic", "blake2b_generic",
    "sha256_generic",
)
# fmt: on
_FOLDERS: Final = ("dev", "proc", "sys", "tmp", "run", "mnt", "etc/ssh", "etc/dropbear", "root/.ssh")
_TOOLS: Final = ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/bin/ipmitool")
# The zero at the end of one entry begins the next.
_FIRMWARE_OF = re.compile(rb"\0firmware=([\w./+-]+)(?=\0)")
_DEPMOD_S = 120


@dataclass(frozen=True, slots=True)
class RamSystem:
    """What was made. `lacks`: firmware that a driver names and no package brought."""

    folder: Path
    kernel: str
    drivers: int
    lacks: tuple[str, ...]


def build(folder: Path, cache: Path, architecture: Architecture, firmware: Sequence[str] = ()) -> RamSystem:
    """Make `vmlinuz`, `initrd.img` and their note in the empty `folder`; packages are kept in `cache`.

    `firmware`: further packages whose firmware the drivers may have, where they ask for it. Takes half a minute once
    the packages are there. Raises LabError where a package cannot be had.
    """
    apt, own = Apt.of(architecture, cache / f"apt-{architecture}"), Apt()
    wanted = (*apt.locate(sorted(_packages(apt, architecture))), *_locate_firmware(apt, firmware))
    root = folder / "unpacked"
    unpack(apt.fetch(wanted, cache / "packages"), root)
    lister = None
    if apt != own:  # what another architecture's busybox can be called is asked of one that runs here
        lister = folder / "lister"
        unpack(own.fetch(own.locate(["busybox-static"]), cache / "packages"), lister)
    parts = Parts.of(architecture, root, lister)
    kernel = only(root / "lib/modules", "*").name
    tree = folder / "tree"
    drivers, lacks = _lay_out(tree, parts, kernel, lister or root)
    shutil.copyfile(only(root / "boot", "vmlinuz-*"), folder / "vmlinuz")
    with gzip.GzipFile(folder / "initrd.img", "wb", compresslevel=6, mtime=0) as packed:
        packed.write(cpio.pack_folder(tree))
    (folder / INFO).write_text(f"RAM system, Linux {kernel} {architecture}\n")
    for scratch in (root, tree, lister):
        if scratch is not None:
            shutil.rmtree(scratch)
    return RamSystem(folder, kernel, drivers, lacks)


def _locate_firmware(apt: Apt, names: Sequence[str]) -> tuple[Package, ...]:
    try:
        return apt.locate(sorted(set(names))) if names else ()
    except LabError as error:
        raise LabError(
            f"apt cannot fetch {', '.join(names)}",
            seen=error.seen,
            fix="add the section non-free-firmware to this host's apt sources, and run apt-get update",
        ) from error


def firmware_named_by(module: bytes) -> list[str]:
    """Name the firmware that a driver may ask for, by its own word (.modinfo, `firmware`)."""
    return [name.decode() for name in _FIRMWARE_OF.findall(module)]


def _packages(apt: Apt, architecture: Architecture) -> set[str]:
    kernel = f"linux-image-{architecture.debian}"
    kernels = [name for name in apt.depends_of(kernel)[kernel] if name.startswith("linux-image-")]
    if not kernels:
        raise LabError(f"apt knows no {kernel}", fix="run: apt-get update")
    programs = {"dropbear-bin", "ipmitool"}
    return {kernels[0], "busybox-static", *programs, *apt.libraries_of(*programs)}


def _lay_out(tree: Path, parts: Parts, kernel: str, lister: Path) -> tuple[int, tuple[str, ...]]:
    lay_out_busybox(tree, parts)
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True)
    for name in ("root", "root/.ssh"):
        (tree / name).chmod(0o700)
    for tool in _TOOLS:
        copy_with_libraries(parts, tool, tree)
    scripts = {"ramdisk": "sbin/ramdisk", "dhcp-event": "sbin/dhcp-event", "curl": "bin/curl"}
    install(tree, {"init": "init", "ssh-keygen": "usr/bin/ssh-keygen", **scripts})
    shutil.copyfile(SCRIPTS / "network.sh", tree / "lib/network.sh")
    write_accounts(tree, "ramdisk", "RAM system of baremetal")
    modules = _copy_drivers(tree / "lib/modules" / kernel, parts, kernel)
    # busybox's, which writes what its own modprobe reads
    _run([str(find_busybox(lister)), "depmod", "-b", str(tree), kernel])
    return len(modules), _copy_firmware(tree / "lib/firmware", parts.root, modules)


def _copy_drivers(folder: Path, parts: Parts, kernel: str) -> list[bytes]:
    """Copy the drivers with all that they need, uncompressed, where modprobe looks for them."""
    base = parts.root / "lib/modules" / kernel
    places = {path.relative_to(base / "kernel").as_posix(): path for path in parts.modules.values()}
    waiting = [path.name.split(".")[0] for place, path in places.items() if place.startswith(_DRIVERS)]
    waiting += _SINGLE
    seen: set[str] = set()
    found: list[bytes] = []
    while waiting:
        name = waiting.pop()
        path = parts.modules.get(name) or parts.modules.get(name.replace("_", "-"))
        if path is None or path.name in seen:  # built into this kernel, or there already
            continue
        seen.add(path.name)
        data = read_module(path)
        found.append(data)
        waiting += needs_of(data)
        target = folder / path.relative_to(base)
        target = target.with_suffix("") if path.suffix == ".xz" else target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copyfile(base / name, folder / name)
    return found


def _copy_firmware(folder: Path, root: Path, modules: Sequence[bytes]) -> tuple[str, ...]:
    """Copy what the drivers name and the packages have; return what they have not."""
    lacks: list[str] = []
    for name in sorted({name for module in modules for name in firmware_named_by(module)}):
        places = (root / "lib/firmware" / name, root / "usr/lib/firmware" / name)
        source = next((path for path in places if path.exists()), None)
        if source is None:
            lacks.append(name)
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.resolve(), target)
    return tuple(lacks)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEPMOD_S, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command[1:3])} failed", seen=done.stderr.strip()[-400:])
