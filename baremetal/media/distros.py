"""What is known of installation media: how they are laid out, and the names by which distributions call themselves.

Owns the table; a new distribution is a row, and a new version of a known one needs nothing. Deliberately unknown: how
the rows are matched.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Layout(StrEnum):
    """How a medium is laid out; each has its reader in `detect.py`."""

    ANACONDA = "anaconda"
    DEBIAN_CD = "debian-cd"
    DEBIAN_NETBOOT = "debian-netboot"
    CASPER = "casper"
    SUSE = "suse"
    ESXI = "esxi"
    WINDOWS = "windows"
    ALPINE = "alpine"
    RAM_SYSTEM = "ram-system"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a layout looks like. `pairs` are patterns of kernel and initrd, the better ones first, in one folder each.

    `marks` are patterns of files that other media do not have; they find the nearest match where nothing is certain.
    """

    layout: Layout
    family: str
    pairs: tuple[tuple[str, str], ...]
    marks: tuple[str, ...]
    netboots: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Distro:
    """One distribution. `says` is a regular expression over what a medium calls itself, `package` over RPM names."""

    key: str
    title: str
    layout: Layout
    says: str
    package: str = ""


SHAPES: Final[tuple[Shape, ...]] = (
    Shape(
        Layout.ANACONDA,
        "kickstart",
        (
            ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"),
            ("isolinux/vmlinuz", "isolinux/initrd.img"),
            ("ppc/ppc64/vmlinuz", "ppc/ppc64/initrd.img"),
        ),
        (
            ".treeinfo",
            "treeinfo",
            ".discinfo",
            "images/install.img",
            "liveos/squashfs.img",
            "*/repodata/repomd.xml",
        ),
    ),
    Shape(
        Layout.CASPER,
        "autoinstall",
        (
            ("casper/vmlinuz", "casper/initrd*"),
            ("casper/hwe-vmlinuz", "casper/hwe-initrd*"),
        ),
        ("casper/*.squashfs", "casper/filesystem.manifest", "casper/install-sources.yaml", "casper/vmlinuz"),
    ),
    Shape(
        Layout.DEBIAN_NETBOOT,
        "preseed",
        (
            ("debian-installer/*/linux", "debian-installer/*/initrd.gz"),
            ("ubuntu-installer/*/linux", "ubuntu-installer/*/initrd.gz"),
            ("install/netboot/*-installer/*/linux", "install/netboot/*-installer/*/initrd.gz"),
            ("linux", "initrd.gz"),
        ),
        ("version.info", ".disk/mini-info", "debian-installer/*/linux", "install/netboot/*/*/linux"),
    ),
    Shape(
        Layout.DEBIAN_CD,
        "preseed",
        (
            ("install.*/vmlinuz", "install.*/initrd.gz"),
            ("install/vmlinuz", "install/initrd.gz"),
        ),
        (".disk/base_installable", ".disk/udeb_include", "install.*/vmlinuz", "pool/main/*"),
        netboots=False,
        note=(
            "the installer on a Debian CD or DVD looks for a drive with that disc and cannot install over the network; "
            "unpack netboot.tar.gz of the same release (dists/…/installer-…/current/images/netboot/ on any mirror) "
            "and add that folder"
        ),
    ),
    Shape(
        Layout.SUSE,
        "autoyast",
        (
            ("boot/*/loader/linux", "boot/*/loader/initrd"),
            ("boot/*/linux", "boot/*/initrd"),
        ),
        ("media.1/media", "media.1/products", "content", "boot/*/root", "control.xml"),
    ),
    Shape(
        Layout.ESXI,
        "esxi",
        (("mboot.c32", "boot.cfg"),),
        ("boot.cfg", "mboot.c32", "*.v00", "b.b00", "k.b00"),
        note="ESXi boots by mboot.c32, or efi/boot/bootx64.efi, and boot.cfg instead of a kernel and an initrd",
    ),
    Shape(
        Layout.WINDOWS,
        "windows",
        (("bootmgr", "sources/boot.wim"),),
        (
            "sources/boot.wim",
            "sources/install.wim",
            "sources/install.esd",
            "bootmgr",
            "boot/bcd",
            "setup.exe",
        ),
        note="Windows boots by wimboot, which is not on it, with bootmgr, boot/bcd, boot/boot.sdi, sources/boot.wim",
    ),
    Shape(
        Layout.ALPINE,
        "alpine",
        (
            ("boot/vmlinuz-lts", "boot/initramfs-lts"),
            ("boot/vmlinuz-virt", "boot/initramfs-virt"),
            ("boot/vmlinuz-*", "boot/initramfs-*"),
        ),
        (".alpine-release", "apks/*/apkindex.tar.gz", "boot/modloop-*"),
    ),
    Shape(Layout.RAM_SYSTEM, "ramdisk", (("vmlinuz", "initrd.img"),), ("ram-system.info",)),
)

DISTROS: Final[tuple[Distro, ...]] = (
    Distro("centos", "CentOS", Layout.ANACONDA, r"centos", r"centos-(linux-|stream-)?release-\d"),
    Distro("rocky", "Rocky Linux", Layout.ANACONDA, r"rocky", r"rocky-release-\d"),
    Distro("almalinux", "AlmaLinux", Layout.ANACONDA, r"alma", r"almalinux-release-\d"),
    Distro("oracle", "Oracle Linux", Layout.ANACONDA, r"oracle", r"oraclelinux-release-\d"),
    Distro("fedora", "Fedora", Layout.ANACONDA, r"fedora", r"fedora-release-(common-)?\d"),
    Distro(
        "rhel", "Red Hat Enterprise Linux", Layout.ANACONDA, r"red hat|rhel", r"redhat-release-(server-)?\d"
    ),
    Distro("ubuntu", "Ubuntu", Layout.CASPER, r"ubuntu"),
    Distro("debian", "Debian", Layout.DEBIAN_NETBOOT, r"debian"),
    Distro("opensuse", "openSUSE", Layout.SUSE, r"opensuse"),
    Distro("sles", "SUSE Linux Enterprise Server", Layout.SUSE, r"suse|sles?\b"),
    Distro("esxi", "VMware ESXi", Layout.ESXI, r"esxi|vmware"),
    Distro("windows", "Windows", Layout.WINDOWS, r"windows"),
    Distro("alpine", "Alpine Linux", Layout.ALPINE, r"alpine"),
    Distro("ram-system", "RAM system", Layout.RAM_SYSTEM, r"ram system"),
)

SHAPE: Final = {shape.layout: shape for shape in SHAPES}
DISTRO: Final = {distro.key: distro for distro in DISTROS}
# Distributions whose media come in more layouts than the usual one.
ALSO: Final = {
    "debian": (Layout.DEBIAN_CD,),
    "ubuntu": (Layout.DEBIAN_NETBOOT, Layout.DEBIAN_CD),
}

# What others call an architecture, and how profiles call it.
ARCHES: Final = {
    "amd64": "x86_64",
    "x86_64": "x86_64",
    "x64": "x86_64",
    "arm64": "arm64",
    "aarch64": "arm64",
    "a64": "arm64",
    "i386": "i386",
    "i586": "i386",
    "i686": "i386",
    "x86": "i386",
    "386": "i386",
    "ppc64le": "ppc64le",
    "ppc64el": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
