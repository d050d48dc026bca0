"""The tiny system's two trees: the installer's initramfs, and the installed root.

Owns which files of the packages and which of our scripts (`system/`) stand where. Deliberately unknown: where the
packages come from, and what becomes of a tree.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from baremetal.ramsystem import cpio
from baremetal.ramsystem import parts as shared
from baremetal.ramsystem.architecture import Architecture
from baremetal.ramsystem.parts import (
    Parts,
    copy_modules,
    copy_with_libraries,
    install,
    lay_out_busybox,
    only,
    write_accounts,
)

SCRIPTS = Path(__file__).parent / "system"
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng")
_ROOT_MODULES = ("evdev", "button")
# Says whether the firmware left an iBFT; the rest of iSCSI is packed, and only then unpacked.
_IBFT_MODULE = "iscsi_ibft"
_ISCSI_MODULES = ("sd_mod", "iscsi_tcp")
# The seed of a clone is one of these; their modules are loaded only for the one it is.
_SEED_MODULES = {"iso9660": ("isofs", "nls_utf8"), "vfat": ("vfat", "nls_cp437", "nls_ascii", "nls_utf8")}


def lay_out_initramfs(folder: Path, parts: Parts) -> None:
    """Make the tree that boots from the network and installs, and from the disk to the installed root."""
    lay_out_busybox(folder, parts)
    for name in ("dev", "proc", "sys", "mnt/sysroot", "tmp", "run", "etc"):
        (folder / name).mkdir(parents=True)
    iscsi = parts.architecture is Architecture.X86_64  # elsewhere nothing in the lab leaves an iBFT
    names = (*_BOOT_MODULES, _IBFT_MODULE) if iscsi else _BOOT_MODULES
    order = copy_modules(names, parts, folder / "lib/modules")
    _write_order(folder / "lib/modules/order", order)
    if iscsi:
        tree = folder.with_name("iscsi")
        _lay_out_iscsi(tree, parts, order)
        with gzip.GzipFile(folder / "lib/iscsi.cpio.gz", "wb", compresslevel=9, mtime=0) as packed:
            packed.write(cpio.pack_folder(tree))
        shutil.copyfile(SCRIPTS / "iscsi.sh", folder / "lib/iscsi.sh")
    install(
        folder,
        {"init": "init", "installer": "sbin/installer", "dhcp-event": "sbin/dhcp-event", "curl": "bin/curl"},
        SCRIPTS,
    )
    shutil.copyfile(shared.SCRIPTS / "network.sh", folder / "lib/network.sh")
    shutil.copyfile(SCRIPTS / "kickstart.awk", folder / "lib/kickstart.awk")


def _lay_out_iscsi(folder: Path, parts: Parts, loaded: list[str]) -> None:
    """Make the tree that joins the initramfs where root, or the disk to install on, is a LUN."""
    tool = only(parts.root, "**/sbin/iscsistart").relative_to(parts.root)
    (folder / tool.parent).mkdir(parents=True)
    copy_with_libraries(parts, str(tool), folder)
    modules = folder / "lib/modules"
    _write_order(modules / "iscsi.order", copy_modules(_ISCSI_MODULES, parts, modules / "iscsi", loaded))
    for kind, names in _SEED_MODULES.items():
        _write_order(modules / f"{kind}.order", copy_modules(names, parts, modules / kind, loaded))


def _write_order(path: Path, names: list[str]) -> None:
    path.write_text("".join(f"{name}\n" for name in names))


def lay_out_root(folder: Path, parts: Parts) -> None:
    """Make the installed system's root."""
    lay_out_busybox(folder, parts)
    for name in (
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "boot",
        "mnt/seed",
        "etc/ssh",
        "etc/dropbear",
        "etc/baremetal",
        "var/log",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "root/.ssh").mkdir(parents=True)
    (folder / "var/lib/tiny").mkdir(parents=True)
    for name in ("root", "root/.ssh"):
        (folder / name).chmod(0o700)
    copy_modules(_ROOT_MODULES, parts, folder / "lib/modules")
    for tool in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        copy_with_libraries(parts, tool, folder)
    install(
        folder,
        {
            "inittab": "etc/inittab",
            "rc": "etc/tiny/rc",
            "seed": "etc/tiny/seed",
            "sshd": "etc/tiny/sshd",
            "first-boot": "etc/tiny/first-boot",
            "power-button": "etc/tiny/power-button",
            "power-off": "etc/acpi/PWRF/00000080",
            "dhcp-event": "sbin/dhcp-event",
            "curl": "bin/curl",
            "ssh-keygen": "usr/bin/ssh-keygen",
        },
        SCRIPTS,
    )
    write_accounts(folder, "tiny", "tiny lab system")
