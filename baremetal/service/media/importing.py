"""Puts installation media where profiles boot them from: detect, check, unpack, verify, exchange.

Owns what must hold before a medium takes a place: that it is known, that it fits its profile, that its boot files are
what it says they are. Works on the data directory alone, so the service need not run. Deliberately unknown: the
configuration (the caller hands over what each profile needs) and how media are read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

from baremetal.errors import Conflict, Invalid, Unknown
from baremetal.media import checksums
from baremetal.media.detect import detect
from baremetal.media.finding import Finding, Listing, wanted
from baremetal.media.iso import open_source
from baremetal.media.shelf import Record, Shelf, cannot_write
from baremetal.media.tree import (
    CHUNK,
    Kind,
    Progress,
    Source,
    bytes_in,
    check_members,
    files_of,
    read_text,
    refuse,
)
from baremetal.media.unpack import unpack
from baremetal.service.media.fit import UNFIT, Need, check_distro, check_fit, check_known

_BLOCK = 4096
_STAGE2 = ("images/install.img", "LiveOS/squashfs.img")


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` did; `warnings` are sentences."""

    name: str
    folder: Path
    record: Record
    replaced: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A medium that is there, or that a profile waits for. `record` is None for one put there by hand."""

    name: str
    present: bool
    record: Record | None
    profiles: tuple[str, ...]
    ready: tuple[str, ...]


class MediaImport:
    """The media folder and the profiles that boot from it."""

    def __init__(
        self, root: Path, needs: Sequence[Need], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._shelf = Shelf(root)
        self._needs = tuple(needs)
        self._now = now

    def check(self, name: str, *, replace: bool = False) -> None:
        """Raise what `add` would say of the place, for a caller who has yet to make what he will add."""
        media, _ = self._resolve(name)
        self._check_place(media, None, replace)

    def add(
        self,
        name: str,
        path: Path,
        *,
        as_distro: str = "",
        sha256: str = "",
        replace: bool = False,
        progress: Progress = lambda done, total: None,
    ) -> Added:
        """Import an image or a folder for a profile (or for the media that profiles share, by its name).

        Nothing is changed unless all of it succeeds. Raises Unknown BM201, Invalid BM205 and BM206, MediaMissing BM202,
        Conflict, Refused BM207.
        """
        media, needs = self._resolve(name)
        check_distro(as_distro)
        path = path.absolute()
        self._check_place(media, path, replace)
        whole = _verify_whole(path, sha256, progress)
        source = open_source(path)
        try:
            check_members(source)
            texts = _texts(source)
            finding = detect(Listing(_paths(source), texts), as_distro)
            there = set(_paths(source))
            whole_too = _wanted_whole(path, finding, needs, there)
            there.update(whole_too)
            warnings = [*check_known(finding, source.name), *check_fit(finding, there, needs)]
            with self._shelf.work():
                self._check_place(media, path, replace)
                self._shelf.check_room(_room(source) + (path.stat().st_size if whole_too else 0))
                with self._shelf.temporary() as folder:
                    size, files = unpack(source, folder, progress)
                    size += _keep_whole(path, folder, whole_too)
                    files += len(whole_too)
                    record = _record(finding, folder, texts, source, whole, size, files, self._now())
                    _check_boots(folder, needs, texts)
                    replaced = (self._shelf.root / media).exists()
                    self._shelf.put(folder, media, record)
        finally:
            source.close()
        warnings += self._others(media, needs)
        return Added(media, self._shelf.root / media, record, replaced, tuple(warnings))

    def held(self) -> list[Held]:
        """List the media that are there and those that profiles wait for."""
        present = set(self._shelf.names())
        wanted_by = {need.media for need in self._needs}
        return [self._held(name, name in present) for name in sorted(present | wanted_by)]

    def remove(self, name: str, *, force: bool = False) -> Held:
        """Take a medium away. Raises Unknown; Conflict for one put there by hand, unless forced."""
        names = self._shelf.names()
        media = next((need.media for need in self._needs if need.profile == name), name)
        if media not in names:
            near = get_close_matches(name, names, n=1, cutoff=0.5)
            raise Unknown(
                f"no media {name[:64]!r}",
                nearest=near[0] if near else None,
                fix=None if near else "baremetal media list",
            )
        with self._shelf.work():
            held = self._held(media, True)
            if held.record is None and not force:
                raise _by_hand(self._shelf.root / media, "--force removes it")
            self._shelf.remove(media)
        return held

    def _held(self, name: str, present: bool) -> Held:
        users = [need for need in self._needs if need.media == name]
        ready = [need.profile for need in users if not self._missing(need)]
        record = self._shelf.record(name) if present else None
        return Held(name, present, record, tuple(need.profile for need in users), tuple(ready))

    def _missing(self, need: Need) -> list[str]:
        folder = self._shelf.root / need.media
        return [path for path in need.files if not (folder / path).is_file()]

    def _resolve(self, name: str) -> tuple[str, list[Need]]:
        for need in self._needs:
            if need.profile == name:
                return need.media, [need]
        sharing = [need for need in self._needs if need.media == name]
        if sharing:
            return name, sharing
        known = sorted({need.profile for need in self._needs})
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        raise Unknown(
            f"no profile {name[:64]!r}",
            code="BM201",
            nearest=near[0] if near else None,
            fix=None
            if near
            else f"known are {', '.join(known) or 'none'}; write [profile.NAME] in config.toml first",
        )

    def _check_place(self, media: str, path: Path | None, replace: bool) -> None:
        target = self._shelf.root / media
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise Conflict(f"{target} is no folder", fix="move it away")
        if target.is_dir() and any(target.iterdir()) and self._shelf.record(media) is None and not replace:
            raise _by_hand(target, "--replace replaces it")
        if path is None:
            return
        real, root = os.path.realpath(path), os.path.realpath(self._shelf.root)
        if os.path.isdir(real) and (root == real or root.startswith(real.rstrip("/") + "/")):
            raise Invalid(f"{path} holds the media folder itself", code=UNFIT, fix="add another folder")

    def _others(self, media: str, needs: Sequence[Need]) -> list[str]:
        return [
            f"profile {need.profile} boots from this too, and misses {' and '.join(missing)}"
            for need in self._needs
            if need.media == media and need not in needs and (missing := self._missing(need))
        ]


def _by_hand(folder: Path, way: str) -> Conflict:
    return Conflict(
        f"{folder} was not made by `media add`", seen="there is no media.json in it", fix=f"look at it; {way}"
    )


def _verify_whole(path: Path, sha256: str, progress: Progress) -> str:
    """Compare an image with its published SHA-256; returns it. Raises Invalid."""
    if not sha256:
        return ""
    wanted_hex = sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", wanted_hex):
        raise Invalid("--sha256 is not 64 hexadecimal digits", code=UNFIT)
    if path.is_dir():
        raise Invalid("--sha256 is for an image; a folder has none", code=UNFIT)
    made, done = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            while data := file.read(CHUNK):
                made.update(data)
                done += len(data)
                progress(done, total)
    except OSError as error:
        raise refuse(f"cannot read {path}: {error.strerror}") from error
    if made.hexdigest() != wanted_hex:
        raise refuse(
            f"{path.name} is not the image that was meant",
            seen=f"SHA-256 {made.hexdigest()}",
            fix="download it again, or correct --sha256",
        )
    return wanted_hex


def _texts(source: Source) -> dict[str, str]:
    files = files_of(source.members)
    read = {path: read_text(source, files[path]) for path in wanted(files)}
    return {path: text for path, text in read.items() if text is not None}


def _paths(source: Source) -> tuple[str, ...]:
    return tuple(member.path for member in source.members if member.kind is not Kind.FOLDER)


def _room(source: Source) -> int:
    """Return what the tree takes on a disk, at most: bytes, the unused end of each last block, names."""
    return bytes_in(source.members) + 2 * _BLOCK * len(source.members) + (1 << 20)


def _wanted_whole(
    path: Path, finding: Finding, needs: Sequence[Need], there: AbstractSet[str]
) -> tuple[str, ...]:
    """Return the names under which installers fetch the image itself: Ubuntu's live system does."""
    if path.is_dir() or finding.family != "autoinstall":
        return ()
    names = {need.beside for need in needs if need.family == finding.family}
    return tuple(sorted(name for name in names - there if name and ".." not in name.split("/")))


def _keep_whole(path: Path, folder: Path, names: Sequence[str]) -> int:
    """Put a copy of the image beside what was unpacked, under all these names; returns its bytes, 0 without a name."""
    if not names:
        return 0
    first, *others = (folder / name for name in names)
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as image, first.open("xb") as copy:  # x: follows no link that was unpacked
            shutil.copyfileobj(image, copy, CHUNK)
        for other in others:
            other.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, other)
    except OSError as error:
        raise cannot_write(first, error) from error
    return first.stat().st_size


def _record(
    finding: Finding,
    folder: Path,
    texts: Mapping[str, str],
    source: Source,
    whole: str,
    size: int,
    files: int,
    at: datetime,
) -> Record:
    """Verify the pair that was found and write down what there is."""
    sums = checksums.expected(texts)
    hashes = {
        path: checksums.check(folder, path, sums.get(path)) if path else ""
        for path in (finding.kernel, finding.initrd)
    }
    return Record(
        distro=finding.distro,
        title=finding.title,
        family=finding.family,
        version=finding.version,
        arch=finding.arch,
        kernel=finding.kernel,
        initrd=finding.initrd,
        kernel_sha256=hashes[finding.kernel],
        initrd_sha256=hashes[finding.initrd],
        confidence=finding.confidence,
        evidence=finding.evidence,
        source=source.name,
        source_sha256=whole,
        bytes=size,
        files=files,
        added_at=at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        note=finding.note,
    )


def _check_boots(folder: Path, needs: Sequence[Need], texts: Mapping[str, str]) -> None:
    """Verify what the profiles boot, where that is not the pair that was found, and what their kernels load next."""
    sums = checksums.expected(texts)
    for path in {path for need in needs for path in need.files} | set(_STAGE2):
        # A link that leads nowhere is refused; what is not there at all, another profile's check has spoken of.
        if os.path.lexists(folder / path):
            checksums.check(folder, path, sums.get(path))
