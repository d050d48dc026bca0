"""Which file a media URL means: kernels, initrds and installer trees below one folder.

Owns the mapping from URL path to file, and that nothing outside the folder is ever served: no `..`, no hidden name, no
link that leads out, no listing. A path may begin with a run's reference, which opens nothing; it lets the timeline say
whose kernel was fetched.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from baremetal.lifecycle.model import Fetch
from baremetal.service.recipe import read_media_reference

_SEGMENT = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+~@%:,= -]*\Z")
# The hidden files that installers ask for: Anaconda finds its repositories by the first.
_ASKED_FOR = frozenset({".treeinfo", ".discinfo"})


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file that may be served. `what` is KERNEL or INITRD where a profile boots it, and `run` who asked, if known."""

    path: Path
    stat: os.stat_result
    name: str
    what: Fetch = Fetch.MEDIA
    server: str = ""
    run: int = 0


class Media:
    """The media folder. `boots` tells which files, as `folder/path`, are some profile's kernel or initrd."""

    def __init__(self, root: Path, boots: Mapping[str, Fetch]) -> None:
        self._root = root
        self._boots = dict(boots)

    def find(self, path: str) -> MediaFile | None:
        """Find the file behind a URL path below /media/; None for whatever may not or cannot be served."""
        segments = path.split("/")
        reference = read_media_reference(segments[0])
        if reference is not None:
            segments = segments[1:]
        if len(segments) < 2 or len(path) > 1024:
            return None
        if not all(_SEGMENT.match(part) or (part in _ASKED_FOR and at) for at, part in enumerate(segments)):
            return None
        name = "/".join(segments)
        try:
            root = os.path.realpath(self._root)
            real = os.path.realpath(os.path.join(root, *segments))
            found = os.stat(real)
        except (OSError, ValueError):
            return None
        if not real.startswith(root + os.sep) or not stat.S_ISREG(found.st_mode):
            return None
        server, run = reference if reference is not None else ("", 0)
        return MediaFile(Path(real), found, name, self._boots.get(name, Fetch.MEDIA), server, run)
