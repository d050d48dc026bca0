"""What media are, told from skeletons of the real ones; versions are read, never listed."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest

from baremetal.media.detect import detect
from baremetal.media.distros import ALSO, DISTROS, SHAPE, SHAPES
from baremetal.media.finding import Confidence, Finding, Listing, wanted
from tests.unit.media import skeleton
from tests.unit.media.skeleton import Tree


def listing(tree: Tree) -> Listing:
    return Listing(tuple(tree), {path: tree[path].decode() for path in wanted(tree)})


def found(tree: Tree, as_distro: str = "") -> Finding:
    return detect(listing(tree), as_distro)


PXE = ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img")


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (skeleton.red_hat("CentOS", "7"), ("centos", "kickstart", "7", "x86_64", *PXE)),
        (skeleton.red_hat("CentOS Stream", "9"), ("centos", "kickstart", "9", "x86_64", *PXE)),
        (skeleton.red_hat("Rocky Linux", "9.4"), ("rocky", "kickstart", "9.4", "x86_64", *PXE)),
        (skeleton.red_hat("AlmaLinux", "8.10", "aarch64"), ("almalinux", "kickstart", "8.10", "arm64", *PXE)),
        (skeleton.red_hat("Red Hat Enterprise Linux", "10.0"), ("rhel", "kickstart", "10.0", "x86_64", *PXE)),
        (skeleton.red_hat("Fedora", "41"), ("fedora", "kickstart", "41", "x86_64", *PXE)),
        (skeleton.red_hat("Oracle Linux Server", "9.3"), ("oracle", "kickstart", "9.3", "x86_64", *PXE)),
        (
            skeleton.debian_cd(skeleton.DEBIAN),
            ("debian", "preseed", "12.5.0", "x86_64", "install.amd/vmlinuz", "install.amd/initrd.gz"),
        ),
        (
            skeleton.debian_cd(
                'Debian GNU/Linux testing "Trixie" - Official Snapshot arm64 NETINST 20250101', "install.a64"
            ),
            ("debian", "preseed", "testing", "arm64", "install.a64/vmlinuz", "install.a64/initrd.gz"),
        ),
        (
            skeleton.NETBOOT,
            (
                "debian",
                "preseed",
                "12",
                "x86_64",
                "debian-installer/amd64/linux",
                "debian-installer/amd64/initrd.gz",
            ),
        ),
        (
            skeleton.LIVE_SERVER,
            ("ubuntu", "autoinstall", "24.04.1", "x86_64", "casper/vmlinuz", "casper/initrd"),
        ),
        (
            skeleton.LEAP,
            (
                "opensuse",
                "autoyast",
                "15.5",
                "x86_64",
                "boot/x86_64/loader/linux",
                "boot/x86_64/loader/initrd",
            ),
        ),
        (
            skeleton.SLES12,
            ("sles", "autoyast", "12 SP5", "x86_64", "boot/x86_64/loader/linux", "boot/x86_64/loader/initrd"),
        ),
        (skeleton.ESXI, ("esxi", "esxi", "7.0.3", "x86_64", "MBOOT.C32", "BOOT.CFG")),
        (skeleton.WINDOWS, ("windows", "windows", "", "x86_64", "bootmgr", "sources/boot.wim")),
        (skeleton.RAM_SYSTEM, ("ram-system", "ramdisk", "6.1.0", "x86_64", "vmlinuz", "initrd.img")),
        (skeleton.ALPINE, ("alpine", "alpine", "3.19.1", "x86_64", "boot/vmlinuz-lts", "boot/initramfs-lts")),
    ],
)
def test_each_distribution_is_known_by_what_it_says(tree: Tree, expected: tuple[str, ...]) -> None:
    """Pain 13: by .treeinfo, .discinfo, .disk/info, casper or boot.cfg."""
    finding = found(tree)
    said = (finding.distro, finding.family, finding.version, finding.arch, finding.kernel, finding.initrd)
    assert said == expected
    assert finding.confidence is Confidence.SURE
    assert finding.evidence


@pytest.mark.parametrize(
    ("build", "version"),
    [
        ("6.7.0-3.73.14320388", "6.7.0"),
        ("8.0.2-0.0.22380479", "8.0.2"),
        ("9.1.0-0.1.1", "9.1.0"),
    ],
)
def test_any_esxi_tells_its_build(build: str, version: str) -> None:
    text = re.sub(rb"build=\S+", b"build=" + build.encode(), skeleton.ESXI["BOOT.CFG"])
    assert found({**skeleton.ESXI, "BOOT.CFG": text}).version == version


@pytest.mark.parametrize(
    ("tree", "distro", "version"),
    [
        (skeleton.red_hat("Rocky Linux", "9.97"), "rocky", "9.97"),
        (skeleton.red_hat("CentOS", "7.99"), "centos", "7.99"),
        (skeleton.red_hat("Fedora", "99"), "fedora", "99"),
        (skeleton.debian_cd(skeleton.DEBIAN.replace("12.5.0", "29.1.7")), "debian", "29.1.7"),
        (
            {**skeleton.LIVE_SERVER, ".disk/info": skeleton.UBUNTU.replace("24.04.1", "38.10").encode()},
            "ubuntu",
            "38.10",
        ),
        ({**skeleton.LEAP, "media.1/products": b"/ openSUSE-Leap 16.9-1\n"}, "opensuse", "16.9"),
        ({**skeleton.ALPINE, ".alpine-release": b"alpine-standard 4.44.4 x86_64"}, "alpine", "4.44.4"),
    ],
)
def test_versions_that_do_not_exist_yet_are_no_obstacle(tree: Tree, distro: str, version: str) -> None:
    """The table of distributions has no versions, so no import ends in "no signature matched"."""
    finding = found(tree)
    assert (finding.distro, finding.version, finding.confidence) == (distro, version, Confidence.SURE)


def test_a_relative_is_taken_by_its_layout_and_keeps_its_name() -> None:
    finding = found(skeleton.red_hat("EuroLinux", "9.4"))
    assert (finding.distro, finding.family, finding.version) == ("eurolinux", "kickstart", "9.4")
    assert (finding.kernel, finding.confidence) == (PXE[0], Confidence.LIKELY)
    kali = found(skeleton.debian_cd('Kali GNU/Linux 2024.1 "Kali-rolling" - Official amd64 BD Binary-1'))
    assert (kali.distro, kali.family, kali.version, kali.confidence) == (
        "kali",
        "preseed",
        "2024.1",
        Confidence.LIKELY,
    )


def test_without_treeinfo_the_release_package_tells_the_name() -> None:
    tree = {
        ".discinfo": b"1603729052.01\n7.9\nx86_64\nALL\n",
        "images/pxeboot/vmlinuz": b"k",
        "images/pxeboot/initrd.img": b"i",
        "Packages/centos-release-7-9.2009.0.el7.centos.x86_64.rpm": b"r",
    }
    finding = found(tree)
    assert (finding.distro, finding.version, finding.confidence) == ("centos", "7.9", Confidence.SURE)


def test_what_a_medium_says_of_itself_may_be_printed() -> None:
    hostile = 'Evil \x1b[2J\x07Linux 1.0 "\x9b" - Release amd64'
    for finding in (
        found({**skeleton.LIVE_SERVER, ".disk/info": hostile.encode()}),
        found(skeleton.red_hat("\x1b[31mEvil", "9\x1b.4")),
        found({**skeleton.LEAP, "media.1/products": b"/ \x1b[0mEvil 1"}),
    ):
        words = (finding.title, finding.version, finding.arch, finding.label, *finding.evidence)
        assert all(word.isprintable() for word in words), words
        assert finding.confidence is Confidence.LIKELY


def test_a_cds_pair_is_known_not_to_netboot() -> None:
    finding = found(skeleton.debian_cd(skeleton.DEBIAN))
    assert not finding.netboots
    assert "netboot.tar.gz" in finding.note
    assert found(skeleton.NETBOOT).netboots
    mini = found({".disk/mini-info": skeleton.DEBIAN.encode(), "linux": b"k", "initrd.gz": b"i"})
    assert (mini.kernel, mini.netboots) == ("linux", True)


def test_kernel_and_initrd_come_from_one_folder() -> None:
    finding = found(
        {".disk/info": skeleton.UBUNTU.encode(), "casper/hwe-vmlinuz": b"k", "casper/hwe-initrd": b"i"}
    )
    assert (finding.kernel, finding.initrd) == ("casper/hwe-vmlinuz", "casper/hwe-initrd")
    torn = found({".alpine-release": b"3.1", "boot/vmlinuz-lts": b"k", "other/initramfs-lts": b"i"})
    assert (torn.kernel, torn.initrd) == ("", "")


def test_a_treeinfo_that_names_absent_files_is_not_believed() -> None:
    tree = dict(skeleton.red_hat("Rocky Linux", "9.4"))
    for name in ("vmlinuz", "initrd.img"):
        tree[f"isolinux/{name}"] = tree.pop(f"images/pxeboot/{name}")
    assert found(tree).kernel == "isolinux/vmlinuz"


@pytest.mark.parametrize(
    "broken", ["[general\nfamily", "\0\0", "family = x", "[general]\nfamily = X\n[general]\nx"]
)
def test_a_broken_treeinfo_is_no_answer_and_no_crash(broken: str) -> None:
    assert found({".treeinfo": broken.encode(), "a": b""}).confidence in (Confidence.GUESS, Confidence.NONE)


def test_what_says_nothing_gets_the_nearest_match() -> None:
    """Pain 13."""
    finding = found({"casper/vmlinuz": b"k", "casper/initrd.lz": b"i", "casper/filesystem.squashfs": b"s"})
    assert (finding.distro, finding.confidence) == ("ubuntu", Confidence.GUESS)
    assert "casper/*.squashfs is there" in finding.evidence
    nearest = found(
        {"LiveOS/squashfs.img": b"s", "images/pxeboot/vmlinuz": b"k", "images/pxeboot/initrd.img": b"i"}
    )
    assert (nearest.family, nearest.confidence) == ("kickstart", Confidence.GUESS)


def test_what_fits_nothing_says_so_and_still_names_a_pair() -> None:
    assert found({"readme.txt": b""}).confidence is Confidence.NONE
    finding = found({"arch/boot/vmlinuz-linux": b"k", "arch/boot/initramfs-linux.img": b"i"})
    assert finding.confidence is Confidence.NONE
    assert (finding.kernel, finding.initrd) == ("arch/boot/vmlinuz-linux", "arch/boot/initramfs-linux.img")


def test_the_operators_word_overrides() -> None:
    """Pain 13."""
    tree = {
        "casper/vmlinuz": b"k",
        "casper/initrd.lz": b"i",
        ".disk/info": b'Mint 21.3 "Virginia" - Release amd64',
    }
    finding = found(tree, "ubuntu")
    assert (finding.distro, finding.version, finding.confidence) == ("ubuntu", "21.3", Confidence.SURE)
    assert finding.kernel == "casper/vmlinuz"
    bare = found({"linux": b"k", "initrd.gz": b"i"}, "debian")
    assert (bare.kernel, bare.initrd, bare.family) == ("linux", "initrd.gz", "preseed")
    odd = found({"arch/boot/vmlinuz-linux": b"k", "arch/boot/initramfs-linux.img": b"i"}, "fedora")
    assert odd.kernel == "arch/boot/vmlinuz-linux"


def test_the_table_is_whole() -> None:
    assert len({distro.key for distro in DISTROS}) == len(DISTROS)
    assert {shape.layout for shape in SHAPES} == set(SHAPE)
    reached = {distro.layout for distro in DISTROS} | {layout for more in ALSO.values() for layout in more}
    assert reached == set(SHAPE)
    for distro in DISTROS:
        assert re.search(distro.says, distro.title, re.IGNORECASE), distro
    for shape in SHAPES:
        assert all(pattern == pattern.lower() for pair in shape.pairs for pattern in pair)
        assert not any(fnmatch("readme.txt", mark) for mark in shape.marks)
