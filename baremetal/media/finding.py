"""What detection gets and gives: a listing of a medium, and what was found out of it.

Owns the values, which small files are worth reading, and that no control character of a medium reaches a terminal.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from baremetal.media.distros import Distro, Shape

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
        "ram-system.info",
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


def plain(text: str) -> str:
    """Make words of a medium fit for a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def known(
    shape: Shape, distro: Distro, version: str, arch: str, pair: tuple[str, str], evidence: str
) -> Finding:
    """Put together what a distribution of the table says of itself."""
    return make(shape, distro.key, distro.title, version, arch, pair, Confidence.SURE, (evidence,))


def unnamed(
    shape: Shape, name: str, version: str, arch: str, pair: tuple[str, str], evidence: str
) -> Finding:
    """Take a relative of what we know, by its layout: it installs alike, under its own name."""
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or str(shape.family)
    found = make(shape, key, name.strip()[:60] or key, version, arch, pair, Confidence.LIKELY, (evidence,))
    more = f"laid out as {shape.family} media are"
    return dataclasses.replace(found, evidence=(*found.evidence, more))


def make(
    shape: Shape,
    key: str,
    title: str,
    version: str,
    arch: str,
    pair: tuple[str, str],
    confidence: Confidence,
    evidence: tuple[str, ...],
) -> Finding:
    """Put a finding together."""
    return Finding(
        distro=key,
        title=plain(title),
        family=shape.family,
        version=plain(version),
        arch=plain(arch),
        kernel=pair[0],
        initrd=pair[1],
        confidence=confidence,
        evidence=tuple(map(plain, evidence)),
        layout=str(shape.layout),
        netboots=shape.netboots,
        note=shape.note,
    )
