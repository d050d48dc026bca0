"""Says what a medium is: a pure function over its list of files and a few small texts.

Owns the matching. Deliberately unknown: how media are read, and profiles. The versions of distributions are read from
the media, never listed, so that tomorrow's minor version needs no new release of this program.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from baremetal.media.distros import ALSO, ARCHES, DISTRO, DISTROS, SHAPE, SHAPES, Distro, Layout, Shape

# The small files that are worth reading, in small letters.
_TEXTS = frozenset(
    [
        ".treeinfo",
        "treeinfo",
        ".discinfo",
        ".disk/info",
        ".disk/mini-info",
        "version.info",
        "media.1/media",
        "media.1/products",
        "content",
        "boot.cfg",
        ".alpine-release",
        "checksums",
        "md5sum.txt",
        "sha256sum.txt",
        "sha256sums",
    ]
)


class Confidence(StrEnum):
    """SURE: it says so itself. LIKELY: the layout fits one installer. GUESS: the nearest match. NONE: nothing fits."""

    SURE = "sure"
    LIKELY = "likely"
    GUESS = "guess"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Listing:
    """A medium as detection sees it: paths of its files, and the texts of those that `wanted` named."""

    paths: tuple[str, ...]
    texts: Mapping[str, str]

    def text(self, *names: str) -> str:
        """Return the first of these texts that is there; names are compared in small letters."""
        low = {path.lower(): text for path, text in self.texts.items()}
        return next((low[name] for name in names if name in low), "")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a medium is. `kernel` and `initrd` are empty where there is no pair; `netboots` is false for a CD's pair."""

    distro: str
    title: str
    family: str
    version: str
    arch: str
    kernel: str
    initrd: str
    confidence: Confidence
    evidence: tuple[str, ...]
    layout: str = ""
    netboots: bool = True
    note: str = ""

    @property
    def label(self) -> str:
        """Name it for people."""
        return " ".join(part for part in (self.title, self.version, self.arch) if part)


def wanted(paths: Iterable[str]) -> list[str]:
    """Return which files `detect` wants to read."""
    return [path for path in paths if path.lower() in _TEXTS]


def detect(listing: Listing, as_distro: str = "") -> Finding:
    """Say what a medium is; `as_distro`, a key of DISTRO, overrides what it says of itself."""
    if as_distro:
        return _forced(listing, DISTRO[as_distro])
    for reader in _READERS:
        found = reader(listing)
        if found is not None:
            return found
    return _nearest(listing)


def _forced(listing: Listing, distro: Distro) -> Finding:
    layouts = (distro.layout, *ALSO.get(distro.key, ()))
    for layout in layouts:
        pair = _pair(listing, SHAPE[layout])
        if pair:
            break
    else:
        layout, pair = distro.layout, ("", "")
    said = detect(listing)
    version = said.version or _version(" ".join(listing.texts.values()))
    return _finding(
        SHAPE[layout],
        distro.key,
        distro.title,
        version,
        said.arch or _arch_of(listing),
        pair if pair[0] else (said.kernel, said.initrd),
        Confidence.SURE,
        ("you said so",),
    )


# ---- one reader per layout, each None where the medium is none of its kind ------------------------------------------


def _anaconda(listing: Listing) -> Finding | None:
    info = listing.text(".treeinfo", "treeinfo")
    if info:
        return _treeinfo(listing, info)
    disc = listing.text(".discinfo").split("\n")
    if len(disc) < 3:
        return None
    pair = _pair(listing, SHAPE[Layout.ANACONDA])
    if not pair:
        return None
    named = _named(disc[1], Layout.ANACONDA) or _by_package(listing)
    version = _version(disc[1])
    arch = ARCHES.get(disc[2].strip(), "")
    if named is None:
        name = re.sub(r"[\d.]+", "", disc[1]).strip()
        return _unnamed(
            SHAPE[Layout.ANACONDA], name, version, arch, pair, f".discinfo: {disc[1].strip()[:80]}"
        )
    return _known(SHAPE[Layout.ANACONDA], named, version, arch, pair, f".discinfo: {disc[1].strip()[:80]}")


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
    named = _named(family)
    layout = named.layout if named else Layout.ANACONDA
    pair = (value(f"images-{arch}", "kernel"), value(f"images-{arch}", "initrd"))
    if not set(pair) <= set(listing.paths) or not all(pair):
        pair = _pair(listing, SHAPE[layout]) or ("", "")
    arch = ARCHES.get(arch, arch)
    if named is None:
        if not all(pair):
            return None
        return _unnamed(SHAPE[layout], family, version, arch, pair, evidence)
    return _known(SHAPE[layout], named, version, arch, pair, evidence)


def _by_package(listing: Listing) -> Distro | None:
    names = " ".join(path.rpartition("/")[2] for path in listing.paths if path.endswith(".rpm"))
    for distro in DISTROS:
        if distro.package and re.search(rf"(^| ){distro.package}", names):
            return distro
    return None


def _disk_info(listing: Listing) -> Finding | None:
    """Read .disk/info, as on Debian's and Ubuntu's discs: `Debian GNU/Linux 12.5.0 "Bookworm" - Official amd64 …`."""
    info = listing.text(".disk/info", ".disk/mini-info").strip().split("\n")[0][:200]
    if not info:
        return None
    for layout in (Layout.CASPER, Layout.DEBIAN_NETBOOT, Layout.DEBIAN_CD):
        pair = _pair(listing, SHAPE[layout])
        if pair:
            break
    else:
        return None
    # What stands behind the dash is a date.
    version = _version(info.partition(" - ")[0]) or next(
        (word for word in ("testing", "unstable", "sid") if word in info), ""
    )
    arch = _arch(info) or _arch_of(listing)
    evidence = f".disk/info: {info[:100]}"
    name = re.split(r"\s+(?=\d)|\s+\"|\s+-\s", info)[0]
    named = _named(name)
    if named is None:
        return _unnamed(SHAPE[layout], name.removesuffix("GNU/Linux"), version, arch, pair, evidence)
    return _known(SHAPE[layout], named, version, arch, pair, evidence)


def _netboot(listing: Listing) -> Finding | None:
    """Debian's and Ubuntu's unpacked netboot.tar.gz, which names itself by its folder and, sometimes, version.info."""
    shape = SHAPE[Layout.DEBIAN_NETBOOT]
    pair = _pair(listing, shape)
    if not pair or "-installer/" not in pair[0]:
        return None
    distro = DISTRO["ubuntu" if "ubuntu-installer/" in pair[0] else "debian"]
    version = _version(listing.text("version.info"))
    return _known(
        shape, distro, version, _arch(pair[0].replace("/", " ")), pair, f"the folder {pair[0]} is there"
    )


def _suse(listing: Listing) -> Finding | None:
    shape = SHAPE[Layout.SUSE]
    pair = _pair(listing, shape)
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
    version = pack[1] if pack else _version(words)
    arch = _arch(pair[0].replace("/", " "))
    named = _named(said, Layout.SUSE)
    if named is None:
        return _unnamed(shape, said.split(" ")[0], version, arch, pair, f"it says {said}")
    return _known(shape, named, version, arch, pair, f"it says {said}")


def _esxi(listing: Listing) -> Finding | None:
    config = listing.text("boot.cfg")
    if not re.search(r"^title=.*esxi", config, re.IGNORECASE | re.MULTILINE):
        return None
    build = re.search(r"^build=(\S+)", config, re.MULTILINE)
    version = build[1].partition("-")[0] if build else ""
    arch = "arm64" if _find(listing, "efi/boot/bootaa64.efi") else "x86_64"
    shape = SHAPE[Layout.ESXI]
    pair = _pair(listing, shape) or ("", "")
    evidence = f"boot.cfg: build={build[1][:60]}" if build else "boot.cfg names ESXi"
    return _known(shape, DISTRO["esxi"], version, arch, pair, evidence)


def _windows(listing: Listing) -> Finding | None:
    shape = SHAPE[Layout.WINDOWS]
    pair = _pair(listing, shape)
    if not pair:
        return None
    arch = "arm64" if _find(listing, "efi/boot/bootaa64.efi") else "x86_64"
    if arch == "x86_64" and not _find(listing, "efi/boot/bootx64.efi"):
        arch = ""
    return _known(shape, DISTRO["windows"], "", arch, pair, "sources/boot.wim is there")


def _alpine(listing: Listing) -> Finding | None:
    text = listing.text(".alpine-release")
    if not text:
        return None
    shape = SHAPE[Layout.ALPINE]
    arch = _arch(text) or _arch_of(listing)
    evidence = f".alpine-release: {text.strip()[:80]}"
    return _known(shape, DISTRO["alpine"], _version(text), arch, _pair(listing, shape) or ("", ""), evidence)


_READERS: tuple[Callable[[Listing], Finding | None], ...] = (
    _anaconda,
    _disk_info,
    _netboot,
    _suse,
    _esxi,
    _windows,
    _alpine,
)


# ---- where nothing says what it is ----------------------------------------------------------------------------------


def _nearest(listing: Listing) -> Finding:
    """Find the layout that most of the files speak for, and any kernel with an initrd beside it."""
    scores: list[tuple[int, Shape, list[str]]] = []
    for shape in SHAPES:
        seen = [mark for mark in shape.marks if _find(listing, mark)]
        pair = _pair(listing, shape)
        scores.append((len(seen) + 2 * bool(pair), shape, seen + ([pair[0]] if pair else [])))
    score, shape, seen = max(scores, key=lambda entry: entry[0])
    arch = _arch_of(listing)
    anything = _any_pair(listing) or ("", "")
    if not score:
        return Finding("", "", "", "", arch, *anything, Confidence.NONE, ())
    distro = next(
        distro
        for distro in DISTROS
        if distro.layout is shape.layout or shape.layout in ALSO.get(distro.key, ())
    )
    pair = _pair(listing, shape) or anything
    evidence = tuple(f"{mark} is there" for mark in seen)
    return _finding(shape, distro.key, distro.title, "", arch, pair, Confidence.GUESS, evidence)


def _any_pair(listing: Listing) -> tuple[str, str] | None:
    """Find a kernel and an initrd by their usual names, in one folder."""
    kernels = [path for path in listing.paths if re.match(r"(.*/)?(vmlinuz|linux|bzImage)[^/]*\Z", path)]
    for kernel in sorted(kernels, key=lambda path: (path.count("/"), path)):
        folder = kernel.rpartition("/")[0]
        for path in listing.paths:
            above, _, name = path.rpartition("/")
            if above == folder and re.match(r"init(rd|ramfs)", name):
                return kernel, path
    return None


# ---- small parts ----------------------------------------------------------------------------------------------------


def _known(
    shape: Shape, distro: Distro, version: str, arch: str, pair: tuple[str, str], evidence: str
) -> Finding:
    return _finding(shape, distro.key, distro.title, version, arch, pair, Confidence.SURE, (evidence,))


def _unnamed(
    shape: Shape, name: str, version: str, arch: str, pair: tuple[str, str], evidence: str
) -> Finding:
    """A relative of what we know, by its layout: it installs alike, under its own name."""
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or str(shape.family)
    found = _finding(
        shape, key, name.strip()[:60] or key, version, arch, pair, Confidence.LIKELY, (evidence,)
    )
    more = f"laid out as {shape.family} media are"
    return replace(found, evidence=(*found.evidence, more))


def _finding(
    shape: Shape,
    key: str,
    title: str,
    version: str,
    arch: str,
    pair: tuple[str, str],
    confidence: Confidence,
    evidence: tuple[str, ...],
) -> Finding:
    return Finding(
        distro=key,
        title=title,
        family=shape.family,
        version=version,
        arch=arch,
        kernel=pair[0],
        initrd=pair[1],
        confidence=confidence,
        evidence=evidence,
        layout=str(shape.layout),
        netboots=shape.netboots,
        note=shape.note,
    )


def _named(text: str, layout: Layout | None = None) -> Distro | None:
    for distro in DISTROS:
        if layout in (None, distro.layout) and re.search(distro.says, text, re.IGNORECASE):
            return distro
    return None


def _pair(listing: Listing, shape: Shape) -> tuple[str, str] | None:
    """Find the first kernel of a layout that has its initrd in the same folder."""
    for kernel, initrd in shape.pairs:
        for found in _find(listing, kernel):
            folder = found.rpartition("/")[0]
            for beside in _find(listing, initrd):
                if shape.layout is Layout.WINDOWS or beside.rpartition("/")[0] == folder:
                    return found, beside
    return None


def _find(listing: Listing, pattern: str) -> list[str]:
    """Return the paths that fit, in small letters; a star stands for anything within one folder's name."""
    matches = _pattern(pattern).match
    return sorted(path for path in listing.paths if matches(path))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(re.escape(part) for part in text.split("*")) + r"\Z", re.IGNORECASE)


def _version(text: str) -> str:
    found = re.search(r"(?<![\w.])\d+(?:\.\d+)*(?![\w])", text)
    return found[0] if found else ""


def _arch(text: str) -> str:
    for word in re.findall(r"[A-Za-z0-9_]+", text):
        if word.lower() in ARCHES and word != "386":
            return ARCHES[word.lower()]
    return ""


def _arch_of(listing: Listing) -> str:
    """Tell the architecture by the names of files that carry it."""
    for path in listing.paths:
        low = path.lower()
        if low.endswith("efi/boot/bootx64.efi") or low.startswith(
            ("install.amd/", "boot/x86_64/", "apks/x86_64/")
        ):
            return "x86_64"
        if low.endswith("efi/boot/bootaa64.efi") or low.startswith(
            ("install.a64/", "boot/aarch64/", "apks/aarch64/")
        ):
            return "arm64"
    return ""
