"""A pruned set of the Debian installer's own components (udebs), for mirrors that lack some and for emulated guests.

Owns the suite `lab` that it writes beside a mirror: about forty components instead of seventy-five, and those that the
mirror does not carry rebuilt from ordinary packages of the same version. The suite is not signed, so the installer
needs `debian-installer/allow_unauthenticated`; what it installs is signed as always. Knows nothing of profiles.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from baremetal.errors import LabError

SUITE = "lab"
_WANTED = """
    apt-mirror-setup apt-setup-udeb base-installer bootstrap-base clock-setup debootstrap-udeb di-utils-mapdevfs
    disk-detect dosfstools-udeb e2fsprogs-udeb finish-install grub-installer libdevmapper1.02.1-udeb
    libparted-fs-resize0-udeb libparted2-udeb nobootloader os-prober-udeb partman-auto partman-base
    partman-basicfilesystems partman-basicmethods partman-efi partman-ext3 partman-partitioning partman-target
    partman-utils pkgsel tzsetup-udeb user-setup-udeb rdate-udeb libmount1-udeb
"""
_MODULES = """
    ext4 jbd2 mbcache crc16 crc32c_generic crc32c-intel libcrc32c virtio_blk virtio_scsi virtio virtio_ring virtio_pci
    virtio_pci_legacy_dev virtio_pci_modern_dev scsi_mod scsi_common sd_mod libata libahci ahci ata_piix ata_generic
    nvme nvme-core nvme-auth loop efivarfs vfat fat nls_cp437 nls_ascii nls_iso8859-1 nls_utf8
"""
_LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
_FETCH_S = 120.0


def build_suite(mirror: str, suite: str, initrd: Path, overlay: Path, work: Path) -> tuple[str, ...]:
    """Write the suite for the installer in `initrd` into `overlay`, and name the wanted components that cannot be had.

    `mirror` serves `suite`; what it served is kept in `work`. Raises LabError.
    """
    return _Builder(mirror, suite, initrd, overlay, work).build()


class _Builder:
    def __init__(self, mirror: str, suite: str, initrd: Path, overlay: Path, work: Path) -> None:
        self._mirror = mirror.rstrip("/")
        self._work = work.absolute()
        self._dists = overlay / "debian/dists" / SUITE
        self._pool = overlay / "debian/pool" / SUITE
        for folder in (self._dists, self._pool):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._work.mkdir(parents=True, exist_ok=True)
        self._root = self._unpack_initrd(initrd)
        index = f"dists/{suite}/main/%s/Packages.gz"
        self._udebs = self._read_index(index % "debian-installer/binary-amd64")
        self._debs = self._read_index(index % "binary-amd64")
        self._stanzas: list[str] = []

    def build(self) -> tuple[str, ...]:
        status = (self._root / "var/lib/dpkg/status").read_text()
        present = set(re.findall(r"^Package: (\S+)$", status, re.MULTILINE))
        missing = [name for name in _WANTED.split() if name not in present and not self._provide(name)]
        self._rebuild_modules()
        self._write_index()
        return tuple(missing)

    def _provide(self, name: str) -> bool:
        stanza = self._udebs.get(name)
        if stanza:
            try:
                self._add(stanza, self._fetch(_field(stanza, "Filename"), self._pool))
            except urllib.error.HTTPError as error:
                error.close()
            else:
                return True
        match name:
            case "e2fsprogs-udeb":
                self._rebuild_e2fsprogs()
            case "libmount1-udeb":
                tree = self._fresh("libmount1-udeb")
                self._copy_libraries("libmount1", tree)
                self._pack(name, self._version("libmount1"), tree)
            case _:
                return False
        return True

    def _rebuild_e2fsprogs(self) -> None:
        tree = self._fresh("e2fsprogs-udeb")
        files = self._unpack("e2fsprogs")
        sbin = tree / "sbin"
        sbin.mkdir()
        for tool in ("mke2fs", "e2fsck", "tune2fs", "resize2fs"):
            found = next(
                (path for path in (files / "sbin" / tool, files / "usr/sbin" / tool) if path.is_file()), None
            )
            if found:
                shutil.copy(found, sbin)
        for number in "234":
            (sbin / f"mkfs.ext{number}").symlink_to("mke2fs")
            (sbin / f"fsck.ext{number}").symlink_to("e2fsck")
        (tree / "etc").mkdir()
        shutil.copy(files / "etc/mke2fs.conf", tree / "etc")
        for library in ("libext2fs2t64", "libext2fs2", "libcom-err2"):
            if library in self._debs:
                self._copy_libraries(library, tree)
        self._pack("e2fsprogs-udeb", self._version("e2fsprogs"), tree)

    def _rebuild_modules(self) -> None:
        """Pack the kernel modules that the installer's initrd lacks, from the very kernel package it was made of."""
        (kernel,) = (path.name for path in (self._root / "lib/modules").iterdir())
        package = f"linux-image-{kernel}"
        if package not in self._debs:
            raise LabError(
                f"the mirror has no {package}",
                fix="the installer is older than the mirror: remove it from the cache, so that it is fetched again",
            )
        here = {_module(path) for path in (self._root / "lib/modules").rglob("*.ko*")}
        wanted = set(_MODULES.split()) - here
        tree = self._fresh("modules")
        unpacked = self._unpack(package)
        for path in unpacked.rglob("*.ko*"):
            if _module(path) in wanted:
                target = tree / "lib" / path.relative_to(unpacked).as_posix().partition("lib/")[2]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        provides = "ext4-modules, scsi-modules, ata-modules, sata-modules, loop-modules"
        more = f"Kernel-Version: {kernel}\nProvides: {provides}\n"
        self._pack(f"ext4-modules-{kernel}-di", self._version(package), tree, more)

    def _copy_libraries(self, package: str, tree: Path) -> None:
        target = tree / "lib/x86_64-linux-gnu"
        target.mkdir(parents=True, exist_ok=True)
        for path in (self._unpack(package) / _LIBRARIES).glob("*.so.*"):
            shutil.copy(path, target, follow_symlinks=False)

    def _pack(self, name: str, version: str, tree: Path, more: str = "") -> None:
        if (
            self._root / "lib"
        ).is_symlink():  # a merged /usr: a folder /lib in a component would replace the link
            for folder in ("lib", "sbin", "bin"):
                if (tree / folder).is_dir():
                    (tree / "usr").mkdir(exist_ok=True)
                    shutil.move(tree / folder, tree / "usr" / folder)
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: lab <lab@localhost>\n"
            f"Section: debian-installer\nPriority: standard\n{more}Description: rebuilt for the lab\n"
        )
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(control)
        file = self._pool / f"{name}_{version.rpartition(':')[2]}_amd64.udeb"
        _run("dpkg-deb", "-Zxz", "--root-owner-group", "--nocheck", "--build", str(tree), str(file))
        self._add(control, file)

    def _add(self, control: str, file: Path) -> None:
        content = file.read_bytes()
        kept = [
            line
            for line in control.strip().splitlines()
            if not re.match(r"(Filename|Size|MD5sum|SHA1|SHA256):", line)
        ]
        kept += [f"Filename: pool/{SUITE}/{file.name}", f"Size: {len(content)}"]
        kept += [f"SHA256: {hashlib.sha256(content).hexdigest()}"]
        self._stanzas.append("\n".join(kept) + "\n")

    def _write_index(self) -> None:
        folder = self._dists / "main/debian-installer/binary-amd64"
        folder.mkdir(parents=True)
        plain = "\n".join(self._stanzas).encode()
        digests = []
        for name, content in (("Packages", plain), ("Packages.gz", gzip.compress(plain, 6))):
            (folder / name).write_bytes(content)
            place = f"main/debian-installer/binary-amd64/{name}"
            digests.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {place}\n")
        head = f"Origin: {SUITE}\nSuite: {SUITE}\nCodename: {SUITE}\nArchitectures: amd64\nComponents: main\nSHA256:\n"
        (self._dists / "Release").write_text(head + "".join(digests))

    def _unpack_initrd(self, initrd: Path) -> Path:
        root = self._work / "initrd"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        with gzip.open(initrd) as packed, contextlib.ExitStack() as stack:
            cpio = stack.enter_context(
                subprocess.Popen(
                    ["cpio", "--extract", "--make-directories", "--quiet", "--no-absolute-filenames"],
                    cwd=root,
                    stdin=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # an ordinary user may not make its device nodes, and needs none
                )
            )
            assert cpio.stdin
            with contextlib.suppress(BrokenPipeError):
                shutil.copyfileobj(packed, cpio.stdin)
        if not (root / "var/lib/dpkg/status").is_file():
            raise LabError(f"{initrd} is not the initrd of a Debian installer")
        return root

    def _read_index(self, path: str) -> dict[str, str]:
        try:
            text = gzip.decompress(self._get(path)).decode()
        except (OSError, urllib.error.URLError) as error:
            raise LabError(f"the mirror's index {path} cannot be read", seen=str(error)) from error
        return {_field(stanza, "Package"): stanza for stanza in _stanzas(text)}

    def _unpack(self, package: str) -> Path:
        folder = self._work / f"unpacked-{package}"
        if not folder.is_dir():
            stanza = self._debs.get(package)
            if stanza is None:
                raise LabError(f"the mirror has no package {package}")
            archive = self._fetch(_field(stanza, "Filename"), self._work)
            _run("dpkg-deb", "--extract", str(archive), str(folder))
        return folder

    def _version(self, package: str) -> str:
        return _field(self._debs[package], "Version")

    def _fetch(self, path: str, folder: Path) -> Path:
        target = folder / Path(path).name
        target.write_bytes(self._get(path))
        return target

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self._mirror}/{path}", timeout=_FETCH_S) as answer:
            content: bytes = answer.read()
        return content

    def _fresh(self, name: str) -> Path:
        tree = self._work / f"tree-{name}"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        return tree


def _stanzas(text: str) -> Iterator[str]:
    return (stanza for stanza in text.split("\n\n") if stanza.strip())


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    if found is None:
        raise LabError(f"a package of the mirror has no {name}", seen=stanza[:80])
    return found[1]


def _module(path: Path) -> str:
    return path.name.partition(".ko")[0]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    if done.returncode != 0:
        raise LabError(f"{command[0]} failed", seen=done.stderr.strip()[-200:])
