"""The tiny system's media, built from Debian packages without root on first use and kept.

Owns which packages the system is made of, and keeping what was made; which files of them stand where is `trees.py`. The
same initramfs is the installer (kernel argument `inst.ks=URL`) and the way to the installed system's root
(`root=LABEL=…`). Made for one architecture: another than this machine's too, of which nothing is run here. Knows
nothing of QEMU.

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
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.lab.tiny import image, trees
from baremetal.ramsystem import cpio, packages
from baremetal.ramsystem.architecture import Architecture
from baremetal.ramsystem.parts import Parts, only

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
_DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class TinyMedia:
    """What a profile serves: kernel and initramfs to netboot, and the disk image that the kickstart names."""

    folder: Path
    kernel: Path
    initrd: Path
    image: Path


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
    return TinyMedia(folder, folder / "vmlinuz", folder / "initrd.img", folder / "image.raw")


def _digest_scripts() -> str:
    digest = hashlib.sha256()
    rooms = (Path(__file__).parent, Path(packages.__file__).parent)
    files = [path for room in rooms for path in (*room.glob("*.py"), *(room / "system").iterdir())]
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _locate_packages(apt: packages.Apt, architecture: Architecture) -> tuple[packages.Package, ...]:
    kernel = f"linux-image-cloud-{architecture.debian}"
    kernels = [name for name in apt.depends_of(kernel)[kernel] if name.startswith("linux-image-")]
    if not kernels:
        raise LabError(f"apt knows no {kernel}", fix="run: apt-get update")
    loaders = {"shim-signed", f"grub-efi-{architecture.debian}-signed"}
    programs = {"dropbear-bin"}
    if architecture is Architecture.X86_64:
        loaders.add("syslinux-common")
        programs.add("open-iscsi")
    return apt.locate(sorted({kernels[0], _BUSYBOX, *programs, *apt.libraries_of(*programs), *loaders}))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_beside(
    folder: Path, architecture: Architecture, files: Sequence[Path], lister: Sequence[Path]
) -> None:
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        root = work / "unpacked"
        packages.unpack(files, root)
        packages.unpack(lister, work / "lister")
        parts = Parts.of(architecture, root, work / "lister" if lister else None)
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


def _assemble(parts: Parts, work: Path, finished: Path) -> None:
    media = _media(finished)
    shutil.copyfile(only(parts.root / "boot", "vmlinuz-*"), media.kernel)

    initramfs = work / "initramfs"
    trees.lay_out_initramfs(initramfs, parts)
    media.initrd.write_bytes(cpio.pack_folder(initramfs))
    root = work / "root"
    trees.lay_out_root(root, parts)

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
