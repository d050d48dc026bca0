"""Writes the members of a medium below one new folder, and nowhere else.

Owns the order (folders, files, links last, so that nothing is written through a link), modes, and that what was written
cannot lead out. Deliberately unknown: what the files mean, and where the folder goes afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from baremetal.media.shelf import RECORD, cannot_write
from baremetal.media.tree import (
    Kind,
    Member,
    Progress,
    Source,
    bytes_in,
    check_members,
    link_leads_out,
    refuse,
    shown,
)


def unpack(source: Source, into: Path, progress: Progress) -> tuple[int, int]:
    """Write everything below the empty folder `into`; returns bytes and files. Raises Invalid BM205, Refused BM207.

    A `media.json` at the top is left out: ours takes its place. Modes and owners of the medium are not taken over.
    """
    check_members(source)
    members = [member for member in source.members if member.path.lower() != RECORD]
    total = bytes_in(members)
    done = 0
    progress(done, total)
    written: dict[tuple[tuple[tuple[int, int], ...], int], Path] = {}
    # Folders before what is in them; files in the order in which they lie on the medium.
    for folder in sorted(member.path for member in members if member.kind is Kind.FOLDER):
        _make_folder(into, folder)
    for member in sorted((m for m in members if m.kind is Kind.FILE), key=lambda m: (m.extents, m.path)):
        place = (member.extents, member.size)
        earlier = written.get(place) if member.extents else None
        path = into / member.path
        if earlier is None or not _link_files(earlier, path):
            for count in _write(source, member, path):
                done = min(total, done + count)
                progress(done, total)
            written[place] = path
    for member in members:
        if member.kind is Kind.LINK:
            _make_link(into, member)
    _check_links(into, [member for member in members if member.kind is Kind.LINK])
    return total, sum(member.kind is Kind.FILE for member in members)


def _make_folder(into: Path, path: str) -> None:
    try:
        (into / path).mkdir(mode=0o755)
    except FileExistsError:
        raise _collision(path) from None
    except OSError as error:
        raise cannot_write(into / path, error) from error


def _link_files(earlier: Path, path: Path) -> bool:
    """Give a file of the same bytes a second name; False where the file system cannot."""
    try:
        os.link(earlier, path)
    except FileExistsError:
        raise _collision(path.name) from None
    except OSError:
        return False
    return True


def _write(source: Source, member: Member, path: Path) -> Iterator[int]:
    """Write one file that is not there yet; yields how many bytes were written, chunk by chunk."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise _collision(member.path) from None
    except OSError as error:
        raise cannot_write(path, error) from error
    with open(file, "wb", buffering=0) as out:
        for data in source.chunks(member):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[out.write(rest) :]
            except OSError as error:
                raise cannot_write(path, error) from error
            yield len(data)


def _make_link(into: Path, member: Member) -> None:
    try:
        os.symlink(member.target, into / member.path)
    except FileExistsError:
        raise _collision(member.path) from None
    except OSError as error:
        raise cannot_write(into / member.path, error) from error


def _check_links(into: Path, links: list[Member]) -> None:
    """Follow every link as it lies there: links through links can lead where no single one does."""
    root = os.path.realpath(into)
    for member in links:
        real = os.path.realpath(into / member.path)
        if real != root and not real.startswith(root + os.sep):
            raise link_leads_out(member.path, member.target)


def _collision(path: str) -> Exception:
    return refuse(
        f"two members have one name here: {shown(path)}",
        seen="this file system does not tell capitals from small letters",
        fix="set [server] data_dir to one that does",
    )
