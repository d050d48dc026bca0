"""What media say of themselves: one reader per layout, each None where the medium is none of its kind.

Deliberately unknown: what becomes of a medium that no reader knows.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable

from baremetal.media.clues import arch_in, arch_of, find, find_pair, named_in, version_in
from baremetal.media.distros import ARCHES, DISTRO, DISTROS, SHAPE, Distro, Layout
from baremetal.media.finding import Finding, Listing, known, unnamed


def anaconda(listing: Listing) -> Finding | None:
    info = listing.text(".treeinfo", "treeinfo")
    if info:
        return _treeinfo(listing, info)
    disc = listing.text(".discinfo").split("\n")
    if len(disc) < 3:
        return None
    pair = find_pair(listing, SHAPE[Layout.ANACONDA])
    if not pair:
        return None
    named = named_in(disc[1], Layout.ANACONDA) or _by_package(listing)
    version = version_in(disc[1])
    arch = ARCHES.get(disc[2].strip(), "")
    if named is None:
        name = re.sub(r"[\d.]+", "", disc[1]).strip()
        return unnamed(
            SHAPE[Layout.ANACONDA], name, version, arch, pair, f".discinfo: {disc[1].strip()[:80]}"
        )
    return known(SHAPE[Layout.ANACONDA], named, version, arch, pair, f".discinfo: {disc[1].strip()[:80]}")


def _treeinfo(listing: Listing, text: str) -> Finding | None:
    """Read the form of productmd: [general], [release], [images-ARCH]."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except configparser.Error:
        return None

    def value(section: str, key: str) -> str:
        return (parser.get(section, key, fallback="") or "").strip()

    family = value("general", "family") or value("release", "name") or value("product", "name")
    version = value("general", "version") or value("release", "version") or value("product", "version")
    arch = value("general", "arch") or value("tree", "arch")
    evidence = f".treeinfo: {family} {version}".strip()[:100]
    named = named_in(family)
    layout = named.layout if named else Layout.ANACONDA
    pair = (value(f"images-{arch}", "kernel"), value(f"images-{arch}", "initrd"))
    if not set(pair) <= set(listing.paths) or not all(pair):
        pair = find_pair(listing, SHAPE[layout]) or ("", "")
    arch = ARCHES.get(arch, arch)
    if named is None:
        if not all(pair):
            return None
        return unnamed(SHAPE[layout], family, version, arch, pair, evidence)
    return known(SHAPE[layout], named, version, arch, pair, evidence)


def _by_package(listing: Listing) -> Distro | None:
    names = " ".join(path.rpartition("/")[2] for path in listing.paths if path.endswith(".rpm"))
    for distro in DISTROS:
        if distro.package and re.search(rf"(^| ){distro.package}", names):
            return distro
    return None


def disk_info(listing: Listing) -> Finding | None:
    """Read .disk/info, as on Debian's and Ubuntu's discs: `Debian GNU/Linux 12.5.0 "Bookworm" - Official amd64 …`."""
    info = listing.text(".disk/info", ".disk/mini-info").strip().split("\n")[0][:200]
    if not info:
        return None
    for layout in (Layout.CASPER, Layout.DEBIAN_NETBOOT, Layout.DEBIAN_CD):
        pair = find_pair(listing, SHAPE[layout])
        if pair:
            break
    else:
        return None
    # What stands behind the dash is a date.
    version = version_in(info.partition(" - ")[0]) or next(
        (word for word in ("testing", "unstable", "sid") if word in info), ""
    )
    arch = arch_in(info) or arch_of(listing)
    evidence = f".disk/info: {info[:100]}"
    name = re.split(r"\s+(?=\d)|\s+\"|\s+-\s", info)[0]
    named = named_in(name)
    if named is None:
        return unnamed(SHAPE[layout], name.removesuffix("GNU/Linux"), version, arch, pair, evidence)
    return known(SHAPE[layout], named, version, arch, pair, evidence)


def netboot(listing: Listing) -> Finding | None:
    """Debian's and Ubuntu's unpacked netboot.tar.gz, which names itself by its folder and, sometimes, version.info."""
    shape = SHAPE[Layout.DEBIAN_NETBOOT]
    pair = find_pair(listing, shape)
    if not pair or "-installer/" not in pair[0]:
        return None
    distro = DISTRO["ubuntu" if "ubuntu-installer/" in pair[0] else "debian"]
    version = version_in(listing.text("version.info"))
    return known(
        shape, distro, version, arch_in(pair[0].replace("/", " ")), pair, f"the folder {pair[0]} is there"
    )


def suse(listing: Listing) -> Finding | None:
    shape = SHAPE[Layout.SUSE]
    pair = find_pair(listing, shape)
    said = ""
    for line in listing.text("content").split("\n"):  # up to SLE 12
        if line.startswith(("DISTRO", "LABEL")):
            said = line
    said = said or listing.text("media.1/products", "media.1/media").strip()
    if not pair or not said:
        return None
    said = said.replace("\n", " ")[:120]
    words = re.sub(r"[-_]", " ", said)
    pack = re.search(r"\b(\d+ SP\d+)\b", words)
    version = pack[1] if pack else version_in(words)
    arch = arch_in(pair[0].replace("/", " "))
    named = named_in(said, Layout.SUSE)
    if named is None:
        return unnamed(shape, said.split(" ")[0], version, arch, pair, f"it says {said}")
    return known(shape, named, version, arch, pair, f"it says {said}")


def esxi(listing: Listing) -> Finding | None:
    config = listing.text("boot.cfg")
    if not re.search(r"^title=.*esxi", config, re.IGNORECASE | re.MULTILINE):
        return None
    build = re.search(r"^build=(\S+)", config, re.MULTILINE)
    version = build[1].partition("-")[0] if build else ""
    arch = "arm64" if find(listing, "efi/boot/bootaa64.efi") else "x86_64"
    shape = SHAPE[Layout.ESXI]
    pair = find_pair(listing, shape) or ("", "")
    evidence = f"boot.cfg: build={build[1][:60]}" if build else "boot.cfg names ESXi"
    return known(shape, DISTRO["esxi"], version, arch, pair, evidence)


def windows(listing: Listing) -> Finding | None:
    shape = SHAPE[Layout.WINDOWS]
    pair = find_pair(listing, shape)
    if not pair:
        return None
    arch = "arm64" if find(listing, "efi/boot/bootaa64.efi") else "x86_64"
    if arch == "x86_64" and not find(listing, "efi/boot/bootx64.efi"):
        arch = ""
    return known(shape, DISTRO["windows"], "", arch, pair, "sources/boot.wim is there")


def alpine(listing: Listing) -> Finding | None:
    text = listing.text(".alpine-release")
    if not text:
        return None
    shape = SHAPE[Layout.ALPINE]
    arch = arch_in(text) or arch_of(listing)
    evidence = f".alpine-release: {text.strip()[:80]}"
    return known(
        shape, DISTRO["alpine"], version_in(text), arch, find_pair(listing, shape) or ("", ""), evidence
    )


def ram_system(listing: Listing) -> Finding | None:
    """What `baremetal media ramdisk` made (`ramsystem/build.py`)."""
    text = listing.text("ram-system.info")
    if not text:
        return None
    shape = SHAPE[Layout.RAM_SYSTEM]
    pair = find_pair(listing, shape) or ("", "")
    version = version_in(text)
    return known(
        shape, DISTRO["ram-system"], version, arch_in(text), pair, f"ram-system.info: {text.strip()[:80]}"
    )


READERS: tuple[Callable[[Listing], Finding | None], ...] = (
    anaconda,
    disk_info,
    netboot,
    suse,
    esxi,
    windows,
    alpine,
    ram_system,
)
