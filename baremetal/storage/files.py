"""Volumes as files in a folder: clones by reflinks where the filesystem has them, else plain copies.

Each volume is a folder with the image and its tag. It is made under another name and renamed when it is whole, and
renamed away before it is deleted, so that what stands under a volume's name is always a whole volume of ours.

    FOLDER/bm-r1-3fa2c1-7/disk.img      the image, sparse
                          tag.json      whose it is
                          seed.img      the small second image, while a clone has one
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.storage.base import Kept, Output, Room, Shell, Tag

_COPY_S = 3600.0
_NEW, _GONE = ".new-", ".gone-"


@dataclass(frozen=True, slots=True)
class FileKeeper:
    """See `base.Keeper`. `folder` is an absolute path on the storage host."""

    shell: Shell
    folder: str

    @property
    def snapshots(self) -> str:
        return "reflink, or copy"

    def check(self) -> Room:
        done = self._run("stat", "-f", "-c", "%S %b %a", self.folder)
        if done.status != 0:
            raise StorageError(
                f"the folder {self.folder} is not there on {self.shell.place}",
                StorageErrorKind.MISSING,
                seen=done.said,
                fix=f"make it: mkdir -p {self.folder}",
            )
        block, size, free = (int(word) for word in done.out.split())
        return Room(block * size, block * free)

    def volumes(self) -> list[Kept]:
        # two commands, however many volumes there are
        sizes = self._run("find", self.folder, "-mindepth", "2", "-maxdepth", "2", "-name", "disk.img",
                          "-printf", "%h\t%s\t%b\n")  # fmt: skip
        tags = self._run("grep", "-rH", "--include=tag.json", "", self.folder)
        if sizes.status != 0:
            raise self._failed("listing the volumes", sizes)
        tagged = dict(_read_tag(line) for line in tags.out.splitlines() if line)
        found = []
        for line in sizes.out.splitlines():
            folder, size, blocks = line.split("\t")
            name = folder.rpartition("/")[2]
            if not name.startswith((_NEW, _GONE)):
                tag, origin = tagged.get(name, (None, None))
                found.append(Kept(name, int(size), int(blocks) * 512, origin, tag))
        return found

    def create(self, name: str, size: int, tag: Tag) -> None:
        if not self._is_there(name, tag):
            image = self._begin(name, tag)
            self._must("making the volume", "truncate", "-s", str(size), image)
            self._finish(name)

    def clone(self, name: str, origin: str, size: int, tag: Tag) -> None:
        if not self._is_there(name, tag):
            image = self._begin(name, tag, origin)
            self._must("cloning", "cp", "--reflink=auto", "--sparse=always", self.path(origin), image)
            self._must("cloning", "truncate", "-s", f">{size}", image)
            self._finish(name)

    def fill(self, name: str, size: int, tag: Tag, source: Iterator[bytes]) -> None:
        if not self._is_there(name, tag):
            image = self._begin(name, tag)
            done = self.shell.send(
                ["dd", f"of={image}", "bs=1M", "iflag=fullblock", "conv=sparse,fsync"],
                source,
                deadline_s=_COPY_S,
            )
            if done.status != 0:
                raise self._failed("filling the volume", done)
            self._must("filling the volume", "truncate", "-s", f">{size}", image)
            self._finish(name)

    def seed(self, name: str, content: bytes | None) -> None:
        place = self.seed_path(name)
        if content is None:
            self._must("taking the seed away", "rm", "-f", place)
            return
        done = self._run("dd", f"of={place}.new", "conv=fsync", stdin=content)
        if done.status != 0:
            raise self._failed("writing the seed", done)
        self._must("writing the seed", "chmod", "600", f"{place}.new")
        self._must("writing the seed", "mv", "-fT", f"{place}.new", place)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}/disk.img"

    def seed_path(self, name: str) -> str:
        return f"{self.folder}/{name}/seed.img"

    def remove(self, name: str, tag: Tag) -> bool:
        for leftover in (
            _GONE,
            _NEW,
        ):  # first, because they are ours even where another's volume has the name
            self._must("removing the volume", "rm", "-rf", f"{self.folder}/{leftover}{name}")
        there = self._is_there(name, tag)
        if there:
            gone = f"{self.folder}/{_GONE}{name}"
            self._must("removing the volume", "mv", "-T", f"{self.folder}/{name}", gone)
            self._must("removing the volume", "rm", "-rf", gone)
        return there

    # -- inside --

    def _is_there(self, name: str, tag: Tag) -> bool:
        """Whether this very volume stands there, whole. Raises CLASH for another one of its name."""
        folder = f"{self.folder}/{name}"
        done = self._run("cat", f"{folder}/tag.json")
        if done.status == 0:
            found, _ = _read_tag(f"{folder}/tag.json:{done.out.strip()}")[1]
            if found == tag:
                return True
        elif self._run("test", "-e", folder).status != 0:
            if self._run("test", "-d", self.folder).status != 0:
                self.check()
            return False
        raise StorageError(
            f"{folder} on {self.shell.place} is not ours",
            StorageErrorKind.CLASH,
            seen="another tag" if done.status == 0 else "no tag",
            fix="move it away; it is left as it is",
        )

    def _begin(self, name: str, tag: Tag, origin: str | None = None) -> str:
        """Make an empty folder beside, with its tag; return where the image goes."""
        folder = f"{self.folder}/{_NEW}{name}"
        self._must("making the volume", "rm", "-rf", folder)
        self._must("making the volume", "mkdir", "-m", "700", folder)
        words = {"volume": tag.volume, "server": tag.server, "run": tag.run, "origin": origin}
        done = self._run(
            "dd", f"of={folder}/tag.json", "conv=fsync", stdin=json.dumps(words).encode() + b"\n"
        )
        if done.status != 0:
            raise self._failed("making the volume", done)
        return f"{folder}/disk.img"

    def _finish(self, name: str) -> None:
        self._must("making the volume", "sync", f"{self.folder}/{_NEW}{name}/disk.img")
        self._must("making the volume", "mv", "-nT", f"{self.folder}/{_NEW}{name}", f"{self.folder}/{name}")
        if self._run("test", "-e", f"{self.folder}/{_NEW}{name}").status == 0:
            raise StorageError(
                f"{self.folder}/{name} on {self.shell.place} is not ours",
                StorageErrorKind.CLASH,
                fix="move it away; it is left as it is",
            )

    def _run(self, *argv: str, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        return self.shell.run(argv, stdin=stdin, deadline_s=deadline_s)

    def _must(self, what: str, *argv: str) -> None:
        done = self._run(*argv, deadline_s=_COPY_S)
        if done.status != 0:
            raise self._failed(what, done)

    def _failed(self, what: str, done: Output) -> StorageError:
        if "No space left" in done.err or "quota exceeded" in done.err:
            return StorageError(
                f"{self.folder} on {self.shell.place} is full",
                StorageErrorKind.FULL,
                seen=done.said,
                fix="delete volumes (`baremetal volume list`) or give it more room",
            )
        return StorageError(
            f"{what} in {self.folder} on {self.shell.place} failed", StorageErrorKind.FAILED, seen=done.said
        )


def _read_tag(line: str) -> tuple[str, tuple[Tag | None, str | None]]:
    """Read `FOLDER/NAME/tag.json:JSON`; what cannot be read is nobody's."""
    place, _, text = line.partition(":")
    name = place.split("/")[-2]
    try:
        words = json.loads(text)
        tag = Tag(str(words["volume"]), str(words["server"]), int(words["run"]))
    except (ValueError, KeyError, TypeError):
        return name, (None, None)
    return name, (tag, words.get("origin"))
