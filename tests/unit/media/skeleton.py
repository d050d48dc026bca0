"""Skeletons of installation media: the files that tell what they are, as real ones have them, and small stand-ins."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from pycdlib import PyCdlib

Tree = Mapping[str, bytes]

KERNEL = b"kernel" * 700
INITRD = b"initrd" * 900


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def treeinfo(family: str, version: str, arch: str = "x86_64") -> bytes:
    return f"""[checksums]
images/pxeboot/initrd.img = sha256:{sha256(INITRD)}
images/pxeboot/vmlinuz = sha256:{sha256(KERNEL)}
repodata/repomd.xml = sha256:{sha256(b"x")}

[general]
; WARNING.0 = This section provides compatibility with pre-productmd treeinfos.
arch = {arch}
family = {family}
name = {family} {version}
platforms = {arch},xen
repository = BaseOS
variant = BaseOS
version = {version}

[header]
type = productmd.treeinfo
version = 1.2

[images-{arch}]
efiboot.img = images/efiboot.img
initrd = images/pxeboot/initrd.img
kernel = images/pxeboot/vmlinuz

[release]
name = {family}
version = {version}
""".encode()


def red_hat(family: str, version: str, arch: str = "x86_64") -> Tree:
    return {
        ".discinfo": f"1700000000.000001\n{version}\n{arch}\n".encode(),
        ".treeinfo": treeinfo(family, version, arch),
        "images/pxeboot/vmlinuz": KERNEL,
        "images/pxeboot/initrd.img": INITRD,
        "images/install.img": b"stage2" * 10,
        "BaseOS/Packages/b/bash-5.1.8-9.el9.x86_64.rpm": b"rpm",
        "BaseOS/repodata/repomd.xml": b"<repomd/>",
        "EFI/BOOT/BOOTX64.EFI": b"MZ",
    }


def debian_cd(info: str, folder: str = "install.amd") -> Tree:
    pairs = (("vmlinuz", KERNEL), ("initrd.gz", INITRD))
    sums = "".join(f"{hashlib.md5(data).hexdigest()}  ./{folder}/{name}\n" for name, data in pairs)
    return {
        ".disk/info": info.encode(),
        ".disk/base_installable": b"",
        f"{folder}/vmlinuz": KERNEL,
        f"{folder}/initrd.gz": INITRD,
        f"{folder}/gtk/vmlinuz": b"other",
        f"{folder}/gtk/initrd.gz": b"other",
        "pool/main/b/bash/bash_5.2.15-2+b2_amd64.deb": b"deb",
        "md5sum.txt": sums.encode(),
    }


DEBIAN = 'Debian GNU/Linux 12.5.0 "Bookworm" - Official amd64 NETINST with firmware 20240210-11:27'
UBUNTU = 'Ubuntu-Server 24.04.1 LTS "Noble Numbat" - Release amd64 (20240827)'

NETBOOT: Tree = {
    "debian-installer/amd64/linux": KERNEL,
    "debian-installer/amd64/initrd.gz": INITRD,
    "debian-installer/amd64/pxelinux.0": b"x",
    "version.info": b"Debian version:  12 (bookworm)\nInstaller build: 20230607+deb12u5\n",
}
LIVE_SERVER: Tree = {
    ".disk/info": UBUNTU.encode(),
    "casper/vmlinuz": KERNEL,
    "casper/initrd": INITRD,
    "casper/hwe-vmlinuz": b"other",
    "casper/hwe-initrd": b"other",
    "casper/ubuntu-server-minimal.squashfs": b"sq",
    "casper/install-sources.yaml": b"- id: ubuntu-server\n",
}
LEAP: Tree = {
    "media.1/media": b"openSUSE - openSUSE-Leap-15.5-x86_64-Build491.1-Media\n1\n",
    "media.1/products": b"/ openSUSE-Leap 15.5-1\n",
    "boot/x86_64/loader/linux": KERNEL,
    "boot/x86_64/loader/initrd": INITRD,
    "CHECKSUMS": f"sha256 {sha256(KERNEL)}  boot/x86_64/loader/linux\n".encode(),
}
SLES12: Tree = {
    "content": (
        "CONTENTSTYLE     11\n"
        "DISTRO           cpe:/o:suse:sles:12:sp5,SUSE Linux Enterprise Server 12 SP5\n"
        f"HASH SHA256 {sha256(KERNEL)}  boot/x86_64/loader/linux\n"
    ).encode(),
    "media.1/media": b"SUSE\n20191112\n1\n",
    "boot/x86_64/loader/linux": KERNEL,
    "boot/x86_64/loader/initrd": INITRD,
}
ESXI: Tree = {
    "BOOT.CFG": (
        b"bootstate=0\ntitle=Loading ESXi installer\nkernel=/b.b00\n"
        b"modules=/jumpstrt.gz --- /useropts.gz\nbuild=7.0.3-0.55.20328353\n"
    ),
    "MBOOT.C32": KERNEL,
    "B.B00": b"b",
    "EFI/BOOT/BOOTX64.EFI": b"MZ",
}
WINDOWS: Tree = {
    "bootmgr": KERNEL,
    "boot/bcd": b"b",
    "boot/boot.sdi": b"s",
    "efi/boot/bootx64.efi": b"MZ",
    "sources/boot.wim": INITRD,
    "sources/install.wim": b"w",
}
RAM_SYSTEM: Tree = {
    "ram-system.info": b"RAM system, Linux 6.1.0-56-amd64 x86_64\n",
    "vmlinuz": KERNEL,
    "initrd.img": INITRD,
}
ALPINE: Tree = {
    ".alpine-release": b"alpine-standard 3.19.1 x86_64\n",
    "boot/vmlinuz-lts": KERNEL,
    "boot/initramfs-lts": INITRD,
    "apks/x86_64/APKINDEX.tar.gz": b"x",
}


def lay_out(tree: Tree, root: Path) -> Path:
    for path, data in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def make_iso(tree: Tree, path: Path, *, links: Mapping[str, str] | None = None) -> Path:
    """Write a Rock Ridge image without any program."""
    iso = PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09")
    made: dict[str, str] = {"": ""}

    def short(of: str, kind: str) -> str:
        above = of.rpartition("/")[0]
        if above not in made:
            made[above] = short(above, "D")
            iso.add_directory(made[above], rr_name=above.rpartition("/")[2])
        return f"{made[above]}/{kind}{len(made):06d}"

    for name, data in tree.items():
        made[name] = place = short(name, "F")
        iso.add_fp(io.BytesIO(data), len(data), f"{place}.;1", rr_name=name.rpartition("/")[2])
    for name, target in (links or {}).items():
        made[name] = place = short(name, "L")
        iso.add_symlink(f"{place}.;1", name.rpartition("/")[2], target)
    iso.write(str(path))
    iso.close()
    return path


def make_by(words: list[str], tree: Tree, path: Path, scratch: Path) -> Path:
    """Write an image with a program that publishers use."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed; ./dev setup installs it")
    lay_out(tree, scratch)
    subprocess.run([*words, "-o", str(path), str(scratch)], check=True, capture_output=True, timeout=50)
    return path


def patched(path: Path, old: bytes, new: bytes) -> Path:
    """Change bytes in an image, everywhere; the lengths must agree."""
    assert len(old) == len(new)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path
