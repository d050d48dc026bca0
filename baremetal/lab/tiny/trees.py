"""The tiny system's three trees: the installer's initramfs, what a RAM system has more, and the installed root.

Owns which files of the packages and which of our scripts (`system/`) stand where. Deliberately unknown: where the
packages come from, and what becomes of a tree.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.lab.architecture import Architecture

SCRIPTS = Path(__file__).parent / "system"
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng")
_ROOT_MODULES = ("evdev", "button")
_LIBRARY_NAME = re.compile(rb"(ld-linux-[\w.-]+|lib[\w+.-]+?\.so[.\d]*)\0")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the packages brought: all of them unpacked in `root`, the kernel's modules, what busybox can be called.

    `foreign`: none of it runs on this machine.
    """

    architecture: Architecture
    foreign: bool
    root: Path
    modules: dict[str, Path]
    applets: tuple[str, ...]


def lay_out_initramfs(folder: Path, parts: Parts) -> None:
    """Make the tree that boots from the network and installs, and from the disk to the installed root."""
    _lay_out_busybox(folder, parts)
    for name in ("dev", "proc", "sys", "mnt/sysroot", "tmp", "run", "etc"):
        (folder / name).mkdir(parents=True)
    order = _copy_modules(_BOOT_MODULES, parts, folder / "lib/modules")
    (folder / "lib/modules/order").write_text("".join(f"{name}\n" for name in order))
    _install(
        folder,
        {"init": "init", "installer": "sbin/installer", "dhcp-event": "sbin/dhcp-event", "curl": "bin/curl"},
    )
    shutil.copyfile(SCRIPTS / "network.sh", folder / "lib/network.sh")
    shutil.copyfile(SCRIPTS / "kickstart.awk", folder / "lib/kickstart.awk")


def lay_out_ramdisk(folder: Path, parts: Parts) -> None:
    """Make what a RAM system has beside the initramfs: an sshd, and its way of being told what to do."""
    for name in ("etc/ssh", "etc/dropbear", "root/.ssh", "sbin", "usr/bin", "usr/sbin"):
        (folder / name).mkdir(parents=True)
    for name in ("root", "root/.ssh"):
        (folder / name).chmod(0o700)
    for tool in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        _copy_with_libraries(parts, tool, folder)
    _install(folder, {"ramdisk": "sbin/ramdisk", "ssh-keygen": "usr/bin/ssh-keygen"})
    _write_accounts(folder, "ramdisk")


def lay_out_root(folder: Path, parts: Parts) -> None:
    """Make the installed system's root."""
    _lay_out_busybox(folder, parts)
    for name in (
        "dev",
        "proc",
        "sys",
        "mnt",
        "tmp",
        "run",
        "boot",
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
    _copy_modules(_ROOT_MODULES, parts, folder / "lib/modules")
    for tool in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        _copy_with_libraries(parts, tool, folder)
    _install(
        folder,
        {
            "inittab": "etc/inittab",
            "rc": "etc/tiny/rc",
            "sshd": "etc/tiny/sshd",
            "first-boot": "etc/tiny/first-boot",
            "power-button": "etc/tiny/power-button",
            "power-off": "etc/acpi/PWRF/00000080",
            "dhcp-event": "sbin/dhcp-event",
            "curl": "bin/curl",
            "ssh-keygen": "usr/bin/ssh-keygen",
        },
    )
    _write_accounts(folder, "tiny")


def _write_accounts(folder: Path, hostname: str) -> None:
    for name, text in {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/shells": "/bin/sh\n",
        "etc/hostname": f"{hostname}\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/os-release": 'ID=tiny\nNAME="tiny lab system"\n',
    }.items():
        (folder / name).write_text(text)
    shadow = folder / "etc/shadow"
    shadow.write_text("root:*:20000:0:99999:7:::\n")
    shadow.chmod(0o600)


def _find_busybox(root: Path) -> Path:
    return _first(root, ("usr/bin/busybox", "bin/busybox"))


def list_applets(root: Path) -> tuple[str, ...]:
    """Name the places that busybox wants to be linked from."""
    command = [str(_find_busybox(root)), "--list-full"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return tuple(done.stdout.split())


def _lay_out_busybox(folder: Path, parts: Parts) -> None:
    for name in ("bin", "sbin", "usr/bin", "usr/sbin"):
        (folder / name).mkdir(parents=True)
    shutil.copyfile(_find_busybox(parts.root), folder / "bin/busybox")
    (folder / "bin/busybox").chmod(0o755)
    for name in parts.applets:
        link = folder / name
        if not link.parent.is_dir() or link.exists():
            continue
        link.symlink_to("/bin/busybox")
    (folder / "bin/sh").unlink(missing_ok=True)
    (folder / "bin/sh").symlink_to("/bin/busybox")


def _copy_modules(names: Iterable[str], parts: Parts, folder: Path) -> list[str]:
    """Copy modules with all they depend on, uncompressed; return the file names in loading order.

    What this kernel has built in is left out.
    """
    folder.mkdir(parents=True)
    order: list[str] = []
    built_in = {Path(line).stem for line in _read_built_in(parts.root)}

    def add(name: str) -> None:
        if f"{name}.ko" in order:
            return
        path = parts.modules.get(name) or parts.modules.get(name.replace("_", "-"))
        if path is None and name in built_in:
            return
        if path is None:
            raise LabError(f"the kernel package has no module {name}")
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        depends = re.search(rb"\0depends=([\w,-]*)\0", data)
        for needed in depends[1].decode().split(",") if depends else ():
            if needed:
                add(needed)
        (folder / f"{name}.ko").write_bytes(data)
        order.append(f"{name}.ko")

    for name in names:
        add(name)
    return order


def _copy_with_libraries(parts: Parts, tool: str, folder: Path) -> None:
    target = folder / tool
    shutil.copyfile(parts.root / tool, target)
    target.chmod(0o755)
    libraries = f"lib/{parts.architecture.gnu}-linux-gnu"
    # where every program of the architecture looks for its dynamic loader
    loaders = "lib64" if parts.architecture is Architecture.X86_64 else "lib"
    available = {
        path.name: path
        for path in sorted(parts.root.rglob("*.so*"))
        if path.parent.name in (Path(libraries).name, "lib64", "lib")
    }
    waiting = [target]
    while waiting:
        # A name in the dynamic string table that one of the packages provides is a library needed.
        for match in _LIBRARY_NAME.finditer(waiting.pop().read_bytes()):
            name = match[1].decode()
            source = available.get(name)
            if source is None:
                continue
            copy = folder / (loaders if name.startswith("ld-linux") else libraries) / name
            if copy.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.resolve() if source.is_symlink() else source, copy)
            copy.chmod(0o755)
            waiting.append(copy)
    if parts.foreign:
        return  # its loader runs in the guest only, which then shows what is lacking
    loader = next((folder / loaders).glob("ld-linux*"))
    check = [str(loader), "--library-path", str(folder / libraries), "--list", str(target)]
    listing = subprocess.run(check, capture_output=True, text=True, timeout=20, check=False)
    if listing.returncode != 0 or "not found" in listing.stdout:
        raise LabError(f"{tool} lacks a library", seen=(listing.stderr or listing.stdout).strip())


def _install(folder: Path, scripts: dict[str, str]) -> None:
    for script, place in scripts.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(SCRIPTS / script, target)
        target.chmod(0o755)


def _read_built_in(root: Path) -> list[str]:
    return only(root / "lib/modules", "*/modules.builtin").read_text().splitlines()


def only(folder: Path, pattern: str) -> Path:
    """Find the one file of its kind in a package. Raises LabError for none or several."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise LabError(f"expected one {pattern} in the kernel package, found {len(found)}")
    return found[0]


def _first(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        if os.path.lexists(folder / name):
            return folder / name
    raise LabError(f"the busybox package has none of {', '.join(names)}")
