"""Says what a medium is: a pure function over its list of files and a few small texts.

Owns the matching. Deliberately unknown: how media are read, and profiles. The versions of distributions are read from
the media, never listed, so that tomorrow's minor version needs no new release of this program.
"""

from __future__ import annotations

from baremetal.media.clues import any_pair, arch_of, find, find_pair, version_in
from baremetal.media.distros import ALSO, DISTRO, DISTROS, SHAPE, SHAPES, Distro, Shape
from baremetal.media.finding import Confidence, Finding, Listing, make
from baremetal.media.readers import READERS


def detect(listing: Listing, as_distro: str = "") -> Finding:
    """Say what a medium is; `as_distro`, a key of DISTRO, overrides what it says of itself."""
    if as_distro:
        return _forced(listing, DISTRO[as_distro])
    for reader in READERS:
        found = reader(listing)
        if found is not None:
            return found
    return _nearest(listing)


def _forced(listing: Listing, distro: Distro) -> Finding:
    layouts = (distro.layout, *ALSO.get(distro.key, ()))
    for layout in layouts:
        pair = find_pair(listing, SHAPE[layout])
        if pair:
            break
    else:
        layout, pair = distro.layout, ("", "")
    said = detect(listing)
    version = said.version or version_in(" ".join(listing.texts.values()))
    return make(
        SHAPE[layout],
        distro.key,
        distro.title,
        version,
        said.arch or arch_of(listing),
        pair if pair[0] else (said.kernel, said.initrd),
        Confidence.SURE,
        ("you said so",),
    )


def _nearest(listing: Listing) -> Finding:
    """Find the layout that most of the files speak for, and any kernel with an initrd beside it."""
    scores: list[tuple[int, Shape, list[str]]] = []
    for shape in SHAPES:
        seen = [mark for mark in shape.marks if find(listing, mark)]
        pair = find_pair(listing, shape)
        scores.append((len(seen) + 2 * bool(pair), shape, seen + ([pair[0]] if pair else [])))
    score, shape, seen = max(scores, key=lambda entry: entry[0])
    arch = arch_of(listing)
    anything = any_pair(listing) or ("", "")
    if not score:
        return Finding("", "", "", "", arch, *anything, Confidence.NONE, ())
    distro = next(
        distro
        for distro in DISTROS
        if distro.layout is shape.layout or shape.layout in ALSO.get(distro.key, ())
    )
    pair = find_pair(listing, shape) or anything
    evidence = tuple(f"{mark} is there" for mark in seen)
    return make(shape, distro.key, distro.title, "", arch, pair, Confidence.GUESS, evidence)
