"""What lies on an installation medium, as values; and whether it may be unpacked at all.

Owns members, the form of a source, and the rules for names, links and sizes that hold for every source. Deliberately
unknown: file systems and what the files mean.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from baremetal.errors import Invalid

CODE = "BM205"
CHUNK = 1 << 20

# Calls back with bytes done and bytes in all; what it raises ends the work.
Progress = Callable[[int, int], None]


class Kind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Member:
    """One name on a medium. `path` has no leading slash; `extents` are (offset, length) where files share an image."""

    path: str
    kind: Kind
    size: int = 0
    target: str = ""
    extents: tuple[tuple[int, int], ...] = ()


class Source(Protocol):
    """A medium: its members, once, and their bytes."""

    @property
    def name(self) -> str:
        """Return the file or folder name, for people."""

    @property
    def room(self) -> int:
        """Return how many bytes its files can have together, at most."""

    @property
    def members(self) -> Sequence[Member]: ...

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Yield a file's bytes, exactly as many as its size says. Raises Invalid BM205 where they cannot be had."""

    def close(self) -> None: ...


def refuse(what: str, *, seen: str | None = None, fix: str | None = None) -> Invalid:
    """Word a medium that cannot be used."""
    return Invalid(what, code=CODE, seen=seen, fix=fix)


def shown(text: str) -> str:
    """Write a name from a medium so that a terminal may print it."""
    plain = ascii(text)
    return plain if len(plain) <= 200 else plain[:200] + "…'"


def check_name(name: str, folder: str) -> None:
    """Make sure that a name is one plain name. Raises Invalid BM205."""
    where = shown(f"{folder}/{name}" if folder else name)
    if name in ("", ".", "..") or "/" in name:
        raise refuse(f"a member would leave its folder: {where}", fix="do not trust this medium")
    if any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in name):
        raise refuse(f"a name has control characters: {where}", fix="do not trust this medium")
    if len(name.encode("utf-8", "surrogateescape")) > 255:
        raise refuse(f"a name is longer than 255 bytes: {where}")


def check_members(source: Source) -> None:
    """Make sure that unpacking stays inside its folder and within the medium's own size. Raises Invalid BM205."""
    kinds: dict[str, Kind] = {}
    for member in source.members:
        for part in member.path.split("/"):
            check_name(part, posixpath.dirname(member.path))
        if member.path in kinds:
            raise refuse(f"two members have one name: {shown(member.path)}", fix="do not trust this medium")
        kinds[member.path] = member.kind
        if member.kind is Kind.LINK:
            _check_link(member)
    for path in kinds:
        above = posixpath.dirname(path)
        if above and kinds.get(above) is not Kind.FOLDER:
            raise refuse(f"a member lies in something that is no folder: {shown(path)}")
    total = bytes_in(source.members)
    if total > source.room:
        raise refuse(
            "its members claim more bytes than it has",
            seen=f"{total} bytes in a medium of {source.room}",
            fix="do not trust this medium",
        )


def _check_link(member: Member) -> None:
    """Refuse a link that names a place outside; where it really leads is looked at once it is unpacked."""
    ends = posixpath.normpath(posixpath.join(posixpath.dirname(member.path), member.target))
    if (
        not member.target
        or "\0" in member.target
        or posixpath.isabs(member.target)
        or ends.split("/")[0] == ".."
    ):
        raise link_leads_out(member.path, member.target)


def link_leads_out(path: str, target: str) -> Invalid:
    return refuse(
        f"a link leads out of the medium: {shown(path)} to {shown(target)}",
        fix="if you trust it, unpack it yourself, remove the link, and add the folder",
    )


def bytes_in(members: Sequence[Member]) -> int:
    """Count the bytes of files; names of the same place on an image count once."""
    places = {(member.extents, member.size) for member in members if member.extents}
    return sum(size for _, size in places) + sum(
        member.size for member in members if member.kind is Kind.FILE and not member.extents
    )


def read_text(source: Source, member: Member, limit: int = 4 << 20) -> str | None:
    """Read a small file; None for a larger one."""
    if member.size > limit:
        return None
    return b"".join(source.chunks(member)).decode("utf-8", "replace")


def files_of(members: Sequence[Member]) -> Mapping[str, Member]:
    """Map the paths of files to their members."""
    return {member.path: member for member in members if member.kind is Kind.FILE}
