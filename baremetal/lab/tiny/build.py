"""The tiny system's media, built from Debian packages without root on first use and kept.

Owns what the system consists of: which packages, which files of them, which of our scripts (`system/`). The same
initramfs is the installer (kernel argument `inst.ks=URL`) and the way to the installed system's root (`root=LABEL=…`).
With sshd added it is the RAM system of inspections, rescues and wipes (`bm.script=URL`).
Made for one architecture: another than this machine's too, of which nothing is run here. Knows nothing of QEMU.

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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.lab.architecture import Architecture
from baremetal.lab.tiny import cpio, image, packages

FAIL_MODES = (
    "no-disk", "pre", "hang", "panic", "reboot", "slow=SECONDS", "traceback", "bad-image", "silent", "double-calls",
    "no-ssh", "no-first-boot", "wrong-host-key",
)  # fmt: skip

# What makes an emulated machine boot faster, for the netbooted installer too. The self-tests of the kernel's
# cryptography alone are 45 % of the instructions until there is an address. no_timer_check: on a busy host an emulated
# timer is late once in a while, and the kernel panics ("IO-APIC + timer doesn't work").
_FASTER = "quiet mitigations=off random.trust_cpu=on cryptomgr.notests"
KERNEL_ARGS = f"console={Architecture.X86_64.console} {_FASTER} no_timer_check"
KERNEL_ARGS_ARM64 = f"console={Architecture.ARM64.console} {_FASTER}"

_BUSYBOX = "busybox-static"
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


def build(cache_dir: Path, architecture: Architecture = Architecture.X86_64) -> TinyMedia:
    """Return the media, building them if these scripts and these package versions were not built before.

    Idempotent and safe beside another process doing the same; takes seconds once the packages are fetched. Apt is asked
    for newer packages once a day. Without its lists the newest earlier build of the same scripts is returned; if there
    is none, LabError says what to run.
    """
    if architecture is not Architecture.X86_64:
        cache_dir /= str(architecture)
    cache_dir.mkdir(parents=True, exist_ok=True)
    scripts = _digest_scripts()
    earlier = max(
        (path for path in cache_dir.glob(f"{scripts}-*") if path.is_dir()), key=_asked_at, default=None
    )
    if earlier is not None and 0 <= time.time() - _asked_at(earlier) < _DAY_S:
        return _media(earlier)
    try:
        apt = packages.Apt.of(architecture, cache_dir / "apt")
        wanted = _locate_packages(apt, architecture)
    except LabError:
        if earlier is None:
            raise
        return _media(earlier)
    versions = hashlib.sha256("\n".join(f"{each.file} {each.digest}" for each in wanted).encode()).hexdigest()
    folder = cache_dir / f"{scripts}-{versions[:12]}"
    with _locked(cache_dir / "lock"):
        if not folder.is_dir():
            image.check_tools()
            files = apt.fetch(wanted, cache_dir / "packages")
            # The list of busybox's commands is asked of a build that runs on this machine.
            own = packages.Apt()
            foreign = apt != own
            lister = own.fetch(own.locate([_BUSYBOX]), cache_dir / "packages") if foreign else ()
            _build_beside(folder, architecture, files, lister)
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


def _locate_packages(apt: packages.Apt, architecture: Architecture) -> tuple[packages.Package, ...]:
    kernel = f"linux-image-cloud-{architecture.debian}"
    # libtomcrypt's own number library is the one indirect dependency of sshd.
    depends = apt.depends_of(kernel, "dropbear-bin", "libtomcrypt1")
    kernels = [name for name in depends[kernel] if name.startswith("linux-image-")]
    if not kernels:
        raise LabError(f"apt knows no {kernel}", fix="run: apt-get update")
    indirect = [name for name in depends["libtomcrypt1"] if name.startswith("lib")]
    loaders = {"shim-signed", f"grub-efi-{architecture.debian}-signed"}
    if architecture is Architecture.X86_64:
        loaders.add("syslinux-common")
    tools = {_BUSYBOX, "dropbear-bin", *depends["dropbear-bin"], *indirect}
    return apt.locate(sorted({kernels[0], *tools, *loaders}))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the packages brought: all of them unpacked in `root`, the kernel's modules, what busybox can be called.

    `foreign`: none of it runs on this machine.
    """

    architecture: Architecture
    foreign: bool
    root: Path
    modules: dict[str, Path]
    applets: tuple[str, ...]


def _build_beside(
    folder: Path, architecture: Architecture, files: Sequence[Path], lister: Sequence[Path]
) -> None:
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        root = work / "unpacked"
        packages.unpack(files, root)
        packages.unpack(lister, work / "lister")
        modules = {path.name.split(".")[0]: path for path in (root / "lib/modules").rglob("*.ko*")}
        applets = _list_applets(work / "lister" if lister else root)
        parts = _Parts(architecture, bool(lister), root, modules, applets)
        finished = work / "finished"
        finished.mkdir()
        _assemble(parts, work, finished)
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


def _assemble(parts: _Parts, work: Path, finished: Path) -> None:
    media = _media(finished)
    shutil.copyfile(_only(parts.root / "boot", "vmlinuz-*"), media.kernel)

    initramfs = work / "initramfs"
    _lay_out_initramfs(initramfs, parts)
    media.initrd.write_bytes(cpio.pack_folder(initramfs))
    # The kernel unpacks one archive after the other: installs need not load what only a RAM system wants.
    more = work / "ramdisk"
    _lay_out_ramdisk(more, parts)
    media.ramdisk.write_bytes(media.initrd.read_bytes() + cpio.pack_folder(more))
    root = work / "root"
    _lay_out_root(root, parts)

    efi, has_bios = parts.architecture.efi, parts.architecture is Architecture.X86_64
    boot = image.BootFiles(
        kernel=media.kernel,
        initrd=media.initrd,
        efi=efi,
        shim=parts.root / f"usr/lib/shim/shim{efi}.efi.signed",
        grub=parts.root / f"usr/lib/grub/{parts.architecture}-efi-signed/grub{efi}.efi.signed",
        mbr_code=parts.root / "usr/lib/syslinux/mbr/mbr.bin" if has_bios else None,
        cmdline=f"root=LABEL={image.ROOT_LABEL} {KERNEL_ARGS if has_bios else KERNEL_ARGS_ARM64}",
    )
    image.write_image(media.image, boot, root, work)


def _lay_out_initramfs(folder: Path, parts: _Parts) -> None:
    _lay_out_busybox(folder, parts)
    for name in ("dev", "proc", "sys", "mnt/sysroot", "tmp", "run", "etc"):
        (folder / name).mkdir(parents=True)
    order = _copy_modules(_BOOT_MODULES, parts, folder / "lib/modules")
    (folder / "lib/modules/order").write_text("".join(f"{name}\n" for name in order))
    _install(
        folder,
        {"init": "init", "installer": "sbin/installer", "dhcp-event": "sbin/dhcp-event", "curl": "bin/curl"},
    )
    shutil.copyfile(_SCRIPTS / "network.sh", folder / "lib/network.sh")
    shutil.copyfile(_SCRIPTS / "kickstart.awk", folder / "lib/kickstart.awk")


def _lay_out_ramdisk(folder: Path, parts: _Parts) -> None:
    for name in ("etc/ssh", "etc/dropbear", "root/.ssh", "sbin", "usr/bin", "usr/sbin"):
        (folder / name).mkdir(parents=True)
    for name in ("root", "root/.ssh"):
        (folder / name).chmod(0o700)
    for tool in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        _copy_with_libraries(parts, tool, folder)
    _install(folder, {"ramdisk": "sbin/ramdisk", "ssh-keygen": "usr/bin/ssh-keygen"})
    _write_accounts(folder, "ramdisk")


def _lay_out_root(folder: Path, parts: _Parts) -> None:
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


def _list_applets(root: Path) -> tuple[str, ...]:
    """Name the places that busybox wants to be linked from."""
    command = [str(_find_busybox(root)), "--list-full"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return tuple(done.stdout.split())


def _lay_out_busybox(folder: Path, parts: _Parts) -> None:
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


def _copy_modules(names: Iterable[str], parts: _Parts, folder: Path) -> list[str]:
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


def _copy_with_libraries(parts: _Parts, tool: str, folder: Path) -> None:
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
        shutil.copyfile(_SCRIPTS / script, target)
        target.chmod(0o755)


def _read_built_in(root: Path) -> list[str]:
    return _only(root / "lib/modules", "*/modules.builtin").read_text().splitlines()


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
