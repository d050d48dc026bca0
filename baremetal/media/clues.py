"""Small facts that names and texts of a medium give away: a kernel with its initrd, a version, an architecture.

Deliberately unknown: which of them to believe.
"""

from __future__ import annotations

import re
from functools import cache

from baremetal.media.distros import ARCHES, DISTROS, Distro, Layout, Shape
from baremetal.media.finding import Listing


def named_in(text: str, layout: Layout | None = None) -> Distro | None:
    for distro in DISTROS:
        if layout in (None, distro.layout) and re.search(distro.says, text, re.IGNORECASE):
            return distro
    return None


def find_pair(listing: Listing, shape: Shape) -> tuple[str, str] | None:
    """Find the first kernel of a layout that has its initrd in the same folder."""
    for kernel, initrd in shape.pairs:
        for found in find(listing, kernel):
            folder = found.rpartition("/")[0]
            for beside in find(listing, initrd):
                if shape.layout is Layout.WINDOWS or beside.rpartition("/")[0] == folder:
                    return found, beside
    return None


def find(listing: Listing, pattern: str) -> list[str]:
    """Return the paths that fit, in small letters; a star stands for anything within one folder's name."""
    matches = _pattern(pattern).match
    return sorted(path for path in listing.paths if matches(path))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(re.escape(part) for part in text.split("*")) + r"\Z", re.IGNORECASE)


def version_in(text: str) -> str:
    found = re.search(r"(?<![\w.])\d+(?:\.\d+)*(?![\w])", text)
    return found[0] if found else ""


def arch_in(text: str) -> str:
    for word in re.findall(r"[A-Za-z0-9_]+", text):
        if word.lower() in ARCHES and word != "386":
            return ARCHES[word.lower()]
    return ""


def arch_of(listing: Listing) -> str:
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


def any_pair(listing: Listing) -> tuple[str, str] | None:
    """Find a kernel and an initrd by their usual names, in one folder."""
    kernels = [path for path in listing.paths if re.match(r"(.*/)?(vmlinuz|linux|bzImage)[^/]*\Z", path)]
    for kernel in sorted(kernels, key=lambda path: (path.count("/"), path)):
        folder = kernel.rpartition("/")[0]
        for path in listing.paths:
            above, _, name = path.rpartition("/")
            if above == folder and re.match(r"init(rd|ramfs)", name):
                return kernel, path
    return None
