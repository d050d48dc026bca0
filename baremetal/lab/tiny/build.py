"""The tiny system's media, built from Debian packages without root on first use and kept.

Owns what the system consists of: which packages, which files of them, which of our scripts (`system/`). The same
initramfs is the installer (kernel argument `inst.ks=URL`) and the way to the installed system's root (`root=LABEL=…`).
With sshd added it is the RAM system of inspections, rescues and wipes (`bm.script=URL`).
Knows nothing of QEMU.

The installer can be told to fail the way real ones do, by the kernel argument `tiny.fail=MODE`:

| mode | what happens |
|---|---|
| `no-disk` | the machine has no disk: the %pre script sees none |
| `pre` | a %pre script fails after the kickstart's own (after go, before any write): %onerror, stops |
| `hang` | after the %pre scripts (after go) nothing more happens |
| `panic` | the kernel panics there, and stays so |
| `reboot` | the machine reboots by itself there |
| `slow=SECONDS` | waits there, then goes on and ends well |
| `traceback` | the installer itself crashes there: %traceback, stops |
| `bad-image` | the image cannot be fetched after partitioning began: %onerror, stops |
| `silent` | installs and runs, but what it says from the %post scripts on is lost, though it believes to be heard |
| `double-calls` | says everything twice, from the first call to the last |
| `no-ssh` | the installed system runs no sshd |
| `no-first-boot` | the installed system never tells of its first boot |
| `wrong-host-key` | the installed system's sshd has another host key than the one reported |
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.lab.tiny import cpio, image, packages

FAIL_MODES = (
    "no-disk", "pre", "hang", "panic", "reboot", "slow=SECONDS", "traceback", "bad-image", "silent", "double-calls",
    "no-ssh", "no-first-boot", "wrong-host-key",
)  # fmt: skip

# What makes an emulated machine boot faster, for the netbooted installer too. The self-tests of the kernel's
# cryptography alone are 45 % of the instructions until there is an address. no_timer_check: on a busy host an emulated
# timer is late once in a while, and the kernel panics ("IO-APIC + timer doesn't work").
KERNEL_ARGS = "console=ttyS0 quiet mitigations=off random.trust_cpu=on cryptomgr.notests no_timer_check"

_KERNEL = "linux-image-cloud-amd64"
_PACKAGES = ("busybox-static", "dropbear-bin", "grub-efi-amd64-signed", "shim-signed", "syslinux-common")
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng")
_ROOT_MODULES = ("evdev", "button")
_DAY_S = 24 * 3600.0
_SCRIPTS = Path(__file__).parent / "system"
_LIBRARY_NAME = re.compile(rb"(ld-linux-[\w.-]+|lib[\w+.-]+?\.so[.\d]*)\0")


@dataclass(frozen=True, slots=True)
class TinyMedia:
    """What a profile serves: kernel and initramfs to netboot, and the disk image that the kickstart names.

    `ramdisk` is the initramfs with an sshd, for the RAM system.
    """

    folder: Path
    kernel: Path
    initrd: Path
    image: Path
    ramdisk: Path


def build(cache_dir: Path) -> TinyMedia:
    """Return the media, building them if these scripts and these package versions were not built before.

    Idempotent and safe beside another process doing the same; takes seconds once the packages are fetched. Apt is asked
    for newer packages once a day. Without its lists the newest earlier build of the same scripts is returned; if there
    is none, LabError says what to run.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    scripts = _digest_scripts()
    earlier = max(
        (path for path in cache_dir.glob(f"{scripts}-*") if path.is_dir()), key=_asked_at, default=None
    )
    if earlier is not None and 0 <= time.time() - _asked_at(earlier) < _DAY_S:
        return _media(earlier)
    try:
        wanted = _locate_packages()
    except LabError:
        if earlier is None:
            raise
        return _media(earlier)
    versions = hashlib.sha256("\n".join(f"{each.file} {each.digest}" for each in wanted).encode()).hexdigest()
    folder = cache_dir / f"{scripts}-{versions[:12]}"
    with _locked(cache_dir / "lock"):
        if not folder.is_dir():
            image.check_tools()
            files = packages.fetch(wanted, cache_dir / "packages")
            _build_beside(folder, files)
            _forget_older(folder, files)
        os.utime(folder)
    return _media(folder)


def _asked_at(folder: Path) -> float:
    """When apt last said that this build is of the packages it would fetch."""
    return folder.stat().st_mtime


def _media(folder: Path) -> TinyMedia:
    return TinyMedia(
        folder, folder / "vmlinuz", folder / "initrd.img", folder / "image.raw", folder / "ramdisk.img"
    )


def _digest_scripts() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *_SCRIPTS.iterdir()]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _locate_packages() -> tuple[packages.Package, ...]:
    # libtomcrypt's own number library is the one indirect dependency of sshd.
    depends = packages.depends_of(_KERNEL, "dropbear-bin", "libtomcrypt1")
    kernels = [name for name in depends[_KERNEL] if name.startswith("linux-image-")]
    if not kernels:
        raise LabError(f"apt knows no {_KERNEL}", fix="run: apt-get update")
    indirect = [name for name in depends["libtomcrypt1"] if name.startswith("lib")]
    return packages.locate(sorted({kernels[0], *depends["dropbear-bin"], *indirect, *_PACKAGES}))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_beside(folder: Path, files: Iterable[Path]) -> None:
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        unpacked = work / "unpacked"
        packages.unpack(tuple(files), unpacked)
        finished = work / "finished"
        finished.mkdir()
        _assemble(unpacked, work, finished)
        finished.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _forget_older(newest: Path, files: Iterable[Path]) -> None:
    """Remove what no run of today can still use: builds and packages older than a day. Who serves files links them."""
    keep = {newest, *files}
    for path in [*newest.parent.glob("*-*"), *(newest.parent / "packages").iterdir()]:
        if path in keep or time.time() - path.stat().st_mtime < _DAY_S:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _assemble(unpacked: Path, work: Path, finished: Path) -> None:
    media = _media(finished)
    modules = {path.name.split(".")[0]: path for path in (unpacked / "lib/modules").rglob("*.ko*")}
    shutil.copyfile(_only(unpacked / "boot", "vmlinuz-*"), media.kernel)

    initramfs = work / "initramfs"
    _lay_out_initramfs(initramfs, unpacked, modules)
    media.initrd.write_bytes(cpio.pack_folder(initramfs))
    # The kernel unpacks one archive after the other: installs need not load what only a RAM system wants.
    more = work / "ramdisk"
    _lay_out_ramdisk(more, unpacked)
    media.ramdisk.write_bytes(media.initrd.read_bytes() + cpio.pack_folder(more))
    root = work / "root"
    _lay_out_root(root, unpacked, modules)

    boot = image.BootFiles(
        kernel=media.kernel,
        initrd=media.initrd,
        shim=unpacked / "usr/lib/shim/shimx64.efi.signed",
        grub=unpacked / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        mbr_code=unpacked / "usr/lib/syslinux/mbr/mbr.bin",
        cmdline=f"root=LABEL={image.ROOT_LABEL} {KERNEL_ARGS}",
    )
    image.write_image(media.image, boot, root, work)


def _lay_out_initramfs(folder: Path, unpacked: Path, modules: dict[str, Path]) -> None:
    _lay_out_busybox(folder, unpacked)
    for name in ("dev", "proc", "sys", "mnt/sysroot", "tmp", "run", "etc"):
        (folder / name).mkdir(parents=True)
    order = _copy_modules(_BOOT_MODULES, modules, folder / "lib/modules")
    (folder / "lib/modules/order").write_text("".join(f"{name}\n" for name in order))
    _install(
        folder,
        {"init": "init", "installer": "sbin/installer", "dhcp-event": "sbin/dhcp-event", "curl": "bin/curl"},
    )
    shutil.copyfile(_SCRIPTS / "network.sh", folder / "lib/network.sh")
    shutil.copyfile(_SCRIPTS / "kickstart.awk", folder / "lib/kickstart.awk")


def _lay_out_ramdisk(folder: Path, unpacked: Path) -> None:
    for name in ("etc/ssh", "etc/dropbear", "root/.ssh", "sbin", "usr/bin", "usr/sbin"):
        (folder / name).mkdir(parents=True)
    for name in ("root", "root/.ssh"):
        (folder / name).chmod(0o700)
    for tool in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        _copy_with_libraries(unpacked, tool, folder)
    _install(folder, {"ramdisk": "sbin/ramdisk", "ssh-keygen": "usr/bin/ssh-keygen"})
    _write_accounts(folder, "ramdisk")


def _lay_out_root(folder: Path, unpacked: Path, modules: dict[str, Path]) -> None:
    _lay_out_busybox(folder, unpacked)
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
    _copy_modules(_ROOT_MODULES, modules, folder / "lib/modules")
    for tool in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        _copy_with_libraries(unpacked, tool, folder)
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


def _lay_out_busybox(folder: Path, unpacked: Path) -> None:
    binary = _first(unpacked, ("usr/bin/busybox", "bin/busybox"))
    for name in ("bin", "sbin", "usr/bin", "usr/sbin"):
        (folder / name).mkdir(parents=True)
    shutil.copyfile(binary, folder / "bin/busybox")
    (folder / "bin/busybox").chmod(0o755)
    listing = subprocess.run(
        [binary, "--list-full"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    for name in listing.split():
        link = folder / name
        if not link.parent.is_dir() or link.exists():
            continue
        link.symlink_to("/bin/busybox")
    (folder / "bin/sh").unlink(missing_ok=True)
    (folder / "bin/sh").symlink_to("/bin/busybox")


def _copy_modules(names: Iterable[str], modules: dict[str, Path], folder: Path) -> list[str]:
    """Copy modules with all they depend on, uncompressed; return the file names in loading order."""
    folder.mkdir(parents=True)
    order: list[str] = []

    def add(name: str) -> None:
        if f"{name}.ko" in order:
            return
        path = modules.get(name) or modules.get(name.replace("_", "-"))
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


def _copy_with_libraries(unpacked: Path, tool: str, folder: Path) -> None:
    target = folder / tool
    shutil.copyfile(unpacked / tool, target)
    target.chmod(0o755)
    available = {
        path.name: path
        for path in sorted(unpacked.rglob("*.so*"))
        if path.parent.name in ("x86_64-linux-gnu", "lib64", "lib")
    }
    waiting = [target]
    while waiting:
        # A name in the dynamic string table that one of the packages provides is a library needed.
        for match in _LIBRARY_NAME.finditer(waiting.pop().read_bytes()):
            name = match[1].decode()
            source = available.get(name)
            if source is None:
                continue
            place = "lib64" if name.startswith("ld-linux") else "lib/x86_64-linux-gnu"
            copy = folder / place / name
            if copy.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.resolve() if source.is_symlink() else source, copy)
            copy.chmod(0o755)
            waiting.append(copy)
    loader = next((folder / "lib64").iterdir())
    check = [str(loader), "--library-path", str(folder / "lib/x86_64-linux-gnu"), "--list", str(target)]
    listing = subprocess.run(check, capture_output=True, text=True, timeout=20, check=False)
    if listing.returncode != 0 or "not found" in listing.stdout:
        raise LabError(f"{tool} lacks a library", seen=(listing.stderr or listing.stdout).strip())


def _install(folder: Path, scripts: dict[str, str]) -> None:
    for script, place in scripts.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(_SCRIPTS / script, target)
        target.chmod(0o755)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise LabError(f"expected one {pattern} in the kernel package, found {len(found)}")
    return found[0]


def _first(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        if os.path.lexists(folder / name):
            return folder / name
    raise LabError(f"the busybox package has none of {', '.join(names)}")
