"""What a full Debian guest is made of: packages, files, commands, as plain values.

Every guest has systemd, udev, the network by DHCP, sshd with a key of its own, and a serial console. Deliberately
unknown: how it is built, and what boots it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

ROOT_LABEL = "guest-root"
# As for the tiny system: what makes an emulated machine boot faster.
FASTER = "quiet mitigations=off random.trust_cpu=on cryptomgr.notests no_timer_check"
KERNEL_ARGS = f"root=LABEL={ROOT_LABEL} rw console=ttyS0 {FASTER}"
_BASE = (
    "linux-image-amd64", "initramfs-tools", "systemd-sysv", "udev", "kmod", "dbus", "iproute2", "openssh-server",
    "e2fsprogs",
)  # fmt: skip
# What a guest that lives for minutes has no use for, and what would keep an emulated one busy.
_IDLE = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "systemd-pstore.service", "systemd-networkd-wait-online.service",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file of the guest's root; owned by root."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRecipe:
    """A guest. `files` are there before any package is configured, `commands` are run in it by sh when all are.

    `modules` are those of the kernel that its initramfs carries (MODULES=list: one of all drivers takes an emulated
    machine half a minute to unpack). `bootable`: a disk image for BIOS and UEFI, else its root filesystem alone.
    """

    name: str
    packages: tuple[str, ...] = ()
    files: Mapping[str, GuestFile] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
    kernel_args: str = KERNEL_ARGS
    size_mib: int = 2560
    bootable: bool = False

    @property
    def all_packages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*_BASE, *self.packages)))

    @property
    def all_files(self) -> dict[str, GuestFile]:
        """The recipe's files and, unless it has its own, those that every guest has."""
        modules = "".join(f"{name}\n" for name in self.modules)
        return {
            "etc/hostname": GuestFile(f"{self.name}\n"),
            "etc/hosts": GuestFile(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n"),
            "etc/fstab": GuestFile(f"LABEL={ROOT_LABEL} / ext4 defaults,noatime 0 1\n"),
            "etc/systemd/network/10-guest.network": GuestFile(
                "[Match]\nName=en* eth*\n\n[Network]\nDHCP=ipv4\n"
            ),
            "etc/initramfs-tools/conf.d/guest": GuestFile("MODULES=list\nCOMPRESS=zstd\n"),
            "etc/initramfs-tools/modules": GuestFile(modules),
            **self.files,
        }

    @property
    def all_commands(self) -> tuple[str, ...]:
        return ("systemctl enable systemd-networkd", f"systemctl mask {' '.join(_IDLE)}", *self.commands)

    @property
    def digest(self) -> str:
        """Names the recipe: another when anything in it changes."""
        files = {path: (file.text, file.mode) for path, file in self.all_files.items()}
        said = [self.all_packages, files, self.all_commands, self.kernel_args, self.size_mib, self.bootable]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
