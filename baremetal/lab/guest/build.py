"""Building a guest's disk from Debian packages: mmdebstrap, then a filesystem from a folder; no loop device, no mount.

Owns the build and keeping what was built, by the recipe's digest and the versions of its packages. Mirror, suite and
trust are this machine's own apt configuration. As root it is built as root; an ordinary user needs ranges in
/etc/subuid and /etc/subgid. Knows nothing of QEMU.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from baremetal.errors import LabError
from baremetal.lab.guest.recipe import ROOT_LABEL, GuestFile, GuestRecipe
from baremetal.lab.tiny import image
from baremetal.ramsystem import packages
from baremetal.ramsystem.architecture import Architecture

_DAY_S = 24 * 3600.0
_BUILD_S = 1800.0
_TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "tar": "tar"}
_LOADERS = ("grub-efi-amd64-signed", "shim-signed", "syslinux-common")
# Run as root, or as what an ordinary user's namespace takes for root: the tree has owners that only such a one may set.
_FILL = """set -e
mkdir "$1/tree"
trap 'rm -rf "$1/tree"' EXIT
tar -xpf "$1/root.tar" -C "$1/tree" --numeric-owner
cp -L "$1/tree/vmlinuz" "$1/finished/vmlinuz"
cp -L "$1/tree/initrd.img" "$1/finished/initrd.img"
mke2fs -q -F -t ext4 -L "$2" -E lazy_itable_init=0,lazy_journal_init=0 -d "$1/tree" "$1/root.ext4" "$3M"
"""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What was built: `disk` is the root filesystem, or a disk with a boot partition before it.

    `key` is the private key that root's login takes, `host_key` one line of sshd's public key.
    """

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.img"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def key(self) -> str:
        return (self.folder / "key").read_text()

    @property
    def host_key(self) -> str:
        return (self.folder / "host_key.pub").read_text().strip()


def available() -> tuple[bool, str]:
    """Say whether guests can be built here, and what is missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool, path=path) is None})
    return not missing, f"not installed: {', '.join(missing)}" if missing else ""


def build(recipe: GuestRecipe, cache: Path) -> GuestImage:
    """Return the guest, building it when neither this recipe nor these versions of its packages were built before.

    Takes minutes the first time. Apt is asked for newer packages once a day; without its lists the newest earlier
    build of the recipe is returned. Safe beside another process doing the same. Raises LabError.
    """
    cache.mkdir(parents=True, exist_ok=True)
    prefix = f"{recipe.name}-{recipe.digest}-"
    with _locked(cache / f"{recipe.name}.lock"):
        built = (path for path in cache.glob(f"{prefix}*") if path.is_dir())
        newest = max(built, key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None and 0 <= time.time() - newest.stat().st_mtime < _DAY_S:
            return GuestImage(newest)
        try:
            folder = cache / f"{prefix}{_versions(recipe)}"
        except LabError:
            if newest is None:
                raise
            return GuestImage(newest)
        if not folder.is_dir():
            _build_beside(folder, recipe)
        os.utime(folder)
        for older in cache.glob(f"{recipe.name}-*-*"):
            if older != folder and older.is_dir() and time.time() - older.stat().st_mtime > _DAY_S:
                shutil.rmtree(older, ignore_errors=True)
        return GuestImage(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _versions(recipe: GuestRecipe) -> str:
    """Digest what apt would fetch for the recipe into an empty system."""
    options = ["-o", "Dir::State::status=/dev/null", "-o", "APT::Architectures=amd64", "-qq", "--yes"]
    names = [*recipe.all_packages, *(_LOADERS if recipe.bootable else ())]
    listed = _run(["apt-get", *options, "--no-install-recommends", "--print-uris", "install", *names], 120)
    # the address of the mirror, which comes first, is left out
    lines = sorted(line.partition(" ")[2] for line in listed.splitlines() if line.startswith("'"))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _build_beside(folder: Path, recipe: GuestRecipe) -> None:
    there, reason = available()
    if not there:
        raise LabError(
            f"the guest {recipe.name} cannot be built", seen=reason, fix="run: apt-get install mmdebstrap"
        )
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        finished = work / "finished"
        finished.mkdir()
        login = _write_keys(finished)
        (work / "files.tar").write_bytes(_pack({**login, **recipe.all_files}))
        suite, sources = _sources()
        (work / "sources.list").write_text(sources)
        _bootstrap(recipe, suite, work)
        fill = ["sh", "-c", _FILL, "fill", str(work), ROOT_LABEL, str(recipe.size_mib)]
        _run(
            fill if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto", *fill], 600
        )
        if recipe.bootable:
            _write_disk(finished, recipe, work)
        else:
            (work / "root.ext4").rename(finished / "disk.img")
        finished.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _bootstrap(recipe: GuestRecipe, suite: str, work: Path) -> None:
    commands = "\n".join(("set -e", "export DEBIAN_FRONTEND=noninteractive", *recipe.all_commands))
    (work / "commands").write_text(commands + "\n")
    _run(
        [
            "mmdebstrap", "--quiet", "--mode=auto", "--variant=minbase", "--format=tar",
            f"--include={','.join(recipe.all_packages)}",
            '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Retries "3"',
            f"--essential-hook=tar-in {work}/files.tar /",
            f'--customize-hook=chroot "$1" sh < {work}/commands',
            suite, str(work / "root.tar"), str(work / "sources.list"),
        ],
        _BUILD_S,
    )  # fmt: skip


def _write_disk(finished: Path, recipe: GuestRecipe, work: Path) -> None:
    apt = packages.Apt()
    unpacked = work / "loaders"
    packages.unpack(apt.fetch(apt.locate(_LOADERS), work / "packages"), unpacked)
    efi = Architecture.X86_64.efi
    boot = image.BootFiles(
        kernel=finished / "vmlinuz",
        initrd=finished / "initrd.img",
        efi=efi,
        shim=unpacked / f"usr/lib/shim/shim{efi}.efi.signed",
        grub=unpacked / f"usr/lib/grub/x86_64-efi-signed/grub{efi}.efi.signed",
        mbr_code=unpacked / "usr/lib/syslinux/mbr/mbr.bin",
        cmdline=recipe.kernel_args,
    )
    image.check_tools()
    image.join_image(finished / "disk.img", boot, work / "root.ext4", work)


def _write_keys(folder: Path) -> dict[str, GuestFile]:
    """Make the guest's host key and the key that may log in; return their files."""
    login, host = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    for name, text, mode in (
        ("key", _private(login), 0o600),
        ("host_key.pub", _public(host), 0o644),
    ):
        (folder / name).touch(mode=mode)
        (folder / name).write_text(text)
    return {
        "root/.ssh/authorized_keys": GuestFile(_public(login), 0o600),
        "etc/ssh/ssh_host_ed25519_key": GuestFile(_private(host), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": GuestFile(_public(host)),
    }


def _private(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()


def _public(key: Ed25519PrivateKey) -> str:
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return f"{key.public_key().public_bytes(*form).decode()} guest\n"


def _pack(files: dict[str, GuestFile]) -> bytes:
    """Pack files, and the private folders that they stand in, as root's."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, file in sorted(files.items()):
            if path.startswith("root/.ssh/"):
                folder = tarfile.TarInfo("root/.ssh")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o700
                tar.addfile(folder)
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(file.text.encode()), file.mode
            tar.addfile(member, io.BytesIO(file.text.encode()))
    return packed.getvalue()


def _sources() -> tuple[str, str]:
    """Return this machine's Debian suite, and its Debian sources as one-line entries."""
    form = "$(ORIGIN)\t$(CODENAME)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)"
    listed = _run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], 30)
    entries = [line.split("\t")[1:] for line in listed.splitlines() if line.startswith("Debian\t")]
    lines = dict.fromkeys(
        f"deb {uri} {release} main\n" for _, uri, release, part in entries if part == "main"
    )
    suite = next((codename for codename, *_ in entries if "-" not in codename), None)
    if suite is None:
        raise LabError(
            "this machine's apt sources name no Debian mirror",
            fix="guests are built of Debian's packages: use a machine that runs Debian, after apt-get update",
        )
    return suite, "".join(lines)


def _run(command: list[str], deadline_s: float) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"LC_ALL": "C", "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not here", fix="use a Debian machine") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command[0]} took more than {deadline_s:.0f} s") from error
    if done.returncode != 0:
        seen = " / ".join(done.stderr.strip().splitlines()[-5:])
        raise LabError(f"{command[0]} failed while building a guest", seen=seen, fix="run: apt-get update")
    return done.stdout
