"""Volumes as LVM's logical volumes: thin ones with thin snapshots, or plain ones with copy-on-write snapshots (S4-9).

Owns LVM's ways. Whose a volume is stands in its tags, which LVM writes together with the volume itself, so that none of
ours is ever found without them. What takes more than one command is marked `baremetal.making` until it is whole, and a
marked volume is made anew. A seed is a small volume named `VOLUME.seed`: volume names of ours have no dot.

Traps, all seen with LVM 2.03.16: `lvremove --yes` of a plain origin silently takes its snapshots too; a plain volume
shows what was on the disk before; commands that fail end with 5 (3 for words that cannot be parsed) and say why on
standard error, where warnings stand as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from baremetal.errors import Invalid, StorageError, StorageErrorKind
from baremetal.storage.base import Kept, Output, Room, Shell, Tag

MIB = 1 << 20
_COMMAND_S = 120.0  # LVM takes its time while another of its commands holds the group
_COPY_S = 3600.0
_PREFIX = "baremetal."
_MAKING = "baremetal.making"
_SEED = "baremetal.seed"
_FIELDS = "lv_name,lv_size,data_percent,origin,origin_size,lv_tags,pool_lv,segtype"
# lvm(8), "Tags": up to 1024 of these; what we put in is far shorter.
_TAG_WORD = re.compile(r"[A-Za-z0-9_+.-]*\Z")
_FULL = re.compile(
    r"insufficient free space|free space in thin pool .* reached threshold|No space left on device"
    r"|insufficient suitable .*extents|Out of (data|metadata) space",
    re.IGNORECASE,
)
_NO_GROUP = re.compile(r'Volume group "[^"]*" not found')
_NO_POOL = re.compile(r"Pool \S+ not found in Volume group|is not a thin pool", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LvmKeeper:
    """See `base.Keeper`. `group` is a volume group; `pool` its thin pool, or "" for plain volumes.

    `snapshot_bytes` is how much a plain clone may differ from its origin before it breaks; 0 makes whole copies.
    """

    shell: Shell
    group: str
    pool: str = ""
    snapshot_bytes: int = 10 << 30

    @property
    def snapshots(self) -> str:
        if self.pool:
            return "thin snapshot"
        return "copy-on-write snapshot" if self.snapshot_bytes else "whole copy"

    def check(self) -> Room:
        (group,) = self._report("vgs", "vg", "vg_size,vg_free")
        if not self.pool:
            return Room(int(group["vg_size"]), int(group["vg_free"]))
        pool = next((each for each in self._rows() if each["lv_name"] == self.pool), None)
        if pool is None or pool["segtype"] != "thin-pool":
            raise StorageError(
                f"the volume group {self.group} on {self.shell.place} has no thin pool {self.pool}",
                StorageErrorKind.MISSING,
                fix=f"make it: lvcreate --type thin-pool --extents 90%FREE --name {self.pool} {self.group}",
            )
        size = int(pool["lv_size"])
        return Room(size, size - _share(size, pool["data_percent"]))

    def volumes(self) -> list[Kept]:
        return [
            _kept(row)
            for row in self._rows()
            if row["segtype"] != "thin-pool" and not {_MAKING, _SEED} & _words(row)
        ]

    def create(self, name: str, size: int, tag: Tag) -> None:
        if self._is_there(name, tag):
            return
        if self.pool:  # what was never written reads as zeros: whole at once
            self._make(name, size, tag)
            return
        self._make(name, size, tag, _MAKING)
        self._must("clearing the volume", "blkdiscard", "--force", "--zeroout", self.path(name))
        self._finish(name)

    def clone(self, name: str, origin: str, size: int, tag: Tag) -> None:
        rows = self._rows()
        if self._is_there(name, tag, rows):
            return
        from_size = self._size_of(origin, rows)
        if self.pool or (self.snapshot_bytes and size <= from_size):
            room = [] if self.pool else ["--size", _bytes(min(self.snapshot_bytes, from_size))]
            marks = [_MAKING] if size > from_size else []
            self._must(
                "cloning", "lvcreate", "--yes", "--snapshot", "--setactivationskip", "n", *room,
                *_as_options(tag, *marks), "--name", name, f"{self.group}/{origin}",
            )  # fmt: skip
            if marks:
                self._must("cloning", "lvextend", "--yes", "--size", _bytes(size), f"{self.group}/{name}")
                self._finish(name)
            return
        self._make(name, max(size, from_size), tag, _MAKING)
        self._must("cloning", "blkdiscard", "--force", "--zeroout", self.path(name))
        self._must("cloning", "dd", f"if={self.path(origin)}", f"of={self.path(name)}", "bs=1M",
                   "conv=fsync,nocreat,sparse", "status=none")  # fmt: skip
        self._finish(name)

    def fill(self, name: str, size: int, tag: Tag, source: Iterator[bytes]) -> None:
        if self._is_there(name, tag):
            return
        self._make(name, size, tag, _MAKING)
        if not self.pool:
            self._must("clearing the volume", "blkdiscard", "--force", "--zeroout", self.path(name))
        # zeros are left out: on a thin volume they would take room
        argv = ["dd", f"of={self.path(name)}", "bs=1M", "iflag=fullblock", "conv=fsync,nocreat,sparse"]
        done = self.shell.send([*argv, "status=none"], source, deadline_s=_COPY_S)
        if done.status != 0:
            # the kernel tells a full pool as any error of writing
            full = bool(self.pool) and self.check().free == 0
            self._remove(name)  # what is half written keeps a full pool full, for everybody
            raise self._full(done.said) if full else self._failed("filling the volume", done)
        self._finish(name)

    def seed(self, name: str, content: bytes | None) -> None:
        rows = self._rows()
        of = next((row for row in rows if row["lv_name"] == name), None)
        there = next((row for row in rows if row["lv_name"] == _seed(name)), None)
        if there is not None:
            self._assert_ours(there, _tag(there) if of is None else _tag(of))
        if there is not None and (content is None or int(there["lv_size"]) < len(content)):
            self._remove(_seed(name))
            there = None
        if content is None:
            return
        if of is None or (tag := _tag(of)) is None:
            raise StorageError(
                f"there is no volume {self.group}/{name} of ours on {self.shell.place} to seed",
                StorageErrorKind.MISSING,
            )
        if there is None:
            self._make(_seed(name), len(content), tag, _SEED)
            there = next(row for row in self._rows() if row["lv_name"] == _seed(name))
        # in place, and to the end: a target may hold it open, and a plain volume shows what was there before
        whole = content.ljust(int(there["lv_size"]), b"\0")
        done = self.shell.run(
            ["dd", f"of={self.seed_path(name)}", "bs=1M", "iflag=fullblock", "conv=fsync,nocreat", "status=none"],
            stdin=whole,
            deadline_s=_COMMAND_S,
        )  # fmt: skip
        if done.status != 0:
            raise self._failed("writing the seed", done)

    def path(self, name: str) -> str:
        return f"/dev/{self.group}/{name}"

    def seed_path(self, name: str) -> str:
        return self.path(_seed(name))

    def remove(self, name: str, tag: Tag) -> bool:
        rows = {row["lv_name"]: row for row in self._rows()}
        there = rows.get(name)
        if there is not None:
            self._assert_ours(there, tag)
            held = sorted(each for each, row in rows.items() if row["origin"] == name and not row["pool_lv"])
            if held:
                raise StorageError(
                    f"{self.group}/{name} on {self.shell.place} has snapshots that would go with it",
                    StorageErrorKind.IN_USE,
                    seen=", ".join(held),
                    fix="remove these first",
                )
        for each in (_seed(name), name):
            if each in rows:
                self._assert_ours(rows[each], tag)
                self._remove(each)
        return there is not None

    # -- inside --

    def _is_there(self, name: str, tag: Tag, rows: Sequence[dict[str, str]] | None = None) -> bool:
        """Whether this very volume stands there, whole; a half-made one of ours is removed. Raises CLASH."""
        rows = self._rows() if rows is None else rows
        found = next((row for row in rows if row["lv_name"] == name), None)
        if found is None:
            return False
        self._assert_ours(found, tag)
        if _MAKING not in _words(found):
            return True
        self._remove(name)
        return False

    def _assert_ours(self, row: dict[str, str], tag: Tag | None) -> None:
        if tag is None or _tag(row) != tag:
            raise StorageError(
                f"the logical volume {self.group}/{row['lv_name']} on {self.shell.place} is not ours",
                StorageErrorKind.CLASH,
                seen="another tag" if _tag(row) else "no tag",
                fix="rename or remove it; it is left as it is",
            )

    def _size_of(self, name: str, rows: Sequence[dict[str, str]]) -> int:
        for row in rows:
            if row["lv_name"] == name and _MAKING not in _words(row):
                return _kept(row).size
        raise StorageError(
            f"there is no volume {self.group}/{name} on {self.shell.place}", StorageErrorKind.MISSING
        )

    def _make(self, name: str, size: int, tag: Tag, *marks: str) -> None:
        kind = (
            ["--type", "thin", "--thinpool", self.pool, "--virtualsize", _bytes(size)]
            if self.pool
            else ["--type", "linear", "--wipesignatures", "y", "--size", _bytes(size)]
        )
        self._must(
            "making the volume", "lvcreate", "--yes", *kind, *_as_options(tag, *marks), "--name", name, self.group
        )  # fmt: skip

    def _finish(self, name: str) -> None:
        self._must("making the volume", "lvchange", "--deltag", _MAKING, f"{self.group}/{name}")

    def _remove(self, name: str) -> None:
        self._must("removing the volume", "lvremove", "--yes", f"{self.group}/{name}")

    def _rows(self) -> list[dict[str, str]]:
        return self._report("lvs", "lv", _FIELDS)

    def _report(self, program: str, kind: str, fields: str) -> list[dict[str, str]]:
        argv = [program, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields, self.group]
        done = self.shell.run(argv, deadline_s=_COMMAND_S)
        if done.status != 0:
            raise self._failed("asking LVM", done)
        try:
            rows: Any = json.loads(done.out)["report"][0][kind]
            return [{str(key): str(value) for key, value in row.items()} for row in rows]
        except (ValueError, LookupError, AttributeError) as error:
            raise StorageError(
                f"LVM on {self.shell.place} answered with something else than its report",
                StorageErrorKind.FAILED,
                seen=done.out[:200],
            ) from error

    def _must(self, what: str, *argv: str) -> None:
        done = self.shell.run(argv, deadline_s=_COPY_S if argv[0] in ("dd", "blkdiscard") else _COMMAND_S)
        if done.status != 0:
            raise self._failed(what, done)

    def _failed(self, what: str, done: Output) -> StorageError:
        place = self.shell.place
        said = " / ".join(
            line.strip() for line in done.err.splitlines() if line.strip() and "WARNING:" not in line
        )
        seen = said[:300] or done.said
        if done.status == 127:
            return StorageError(
                f"there is no LVM on {place}",
                StorageErrorKind.MISSING,
                seen=seen,
                fix="install it: apt-get install lvm2 thin-provisioning-tools",
            )
        if _NO_GROUP.search(said):
            return StorageError(
                f"there is no volume group {self.group} on {place}",
                StorageErrorKind.MISSING,
                seen=seen,
                fix="see which there are: vgs",
            )
        if _NO_POOL.search(said):
            return StorageError(
                f"the volume group {self.group} on {place} has no thin pool {self.pool}",
                StorageErrorKind.MISSING,
                seen=seen,
                fix="see which there are: lvs -o lv_name,segtype",
            )
        if _FULL.search(said):
            return self._full(seen)
        if "already exists in volume group" in said:
            return StorageError(
                f"{what} in {self.group} on {place}: the name is taken", StorageErrorKind.CLASH, seen=seen
            )
        if re.search(r"\bin use\b|is used by another device", said):
            return StorageError(
                f"{what} in {self.group} on {place}: it is in use",
                StorageErrorKind.IN_USE,
                seen=seen,
                fix="see who holds it: a target that shows it, or something on the host itself",
            )
        return StorageError(f"{what} in {self.group} on {place} failed", StorageErrorKind.FAILED, seen=seen)

    def _full(self, seen: str) -> StorageError:
        what = f"thin pool {self.pool} of the volume group" if self.pool else "volume group"
        return StorageError(
            f"the {what} {self.group} on {self.shell.place} is full",
            StorageErrorKind.FULL,
            seen=seen,
            fix="delete volumes (`baremetal volume list`) or give it more room",
        )


def _seed(name: str) -> str:
    return f"{name}.seed"


def _bytes(size: int) -> str:
    """Write a size as LVM takes it: in bytes, and only whole sectors; it makes whole extents of them itself."""
    return f"{-(-size // 512) * 512}b"


def _share(size: int, percent: str) -> int:
    return round(size * float(percent or 0) / 100)


def _words(row: dict[str, str]) -> set[str]:
    return set(row["lv_tags"].split(","))


def _kept(row: dict[str, str]) -> Kept:
    size = int(row["lv_size"])
    percent = row["data_percent"]
    used = _share(size, percent) if percent else size
    if (
        row["origin"] and not row["pool_lv"]
    ):  # a copy-on-write snapshot: its own size is that of the differences
        size = int(row["origin_size"] or size)
    return Kept(row["lv_name"], size, used, row["origin"] or None, _tag(row))


def _tag(row: dict[str, str]) -> Tag | None:
    """Read whose a volume is; what says so twice or not clearly is nobody's."""
    values: dict[str, str] = {}
    for word in _words(row):
        key, equals, value = word.removeprefix(_PREFIX).partition("=")
        if word.startswith(_PREFIX) and equals:
            if key in values:
                return None
            values[key] = value
    if not values.get("volume") or not re.fullmatch(r"\d{1,18}", values.get("run", "0")):
        return None
    return Tag(values["volume"], values.get("server", ""), int(values.get("run", "0")))


def _as_options(tag: Tag, *marks: str) -> list[str]:
    words = {"volume": tag.volume, "server": tag.server, "run": str(tag.run or "")}
    for key, value in words.items():
        if not _TAG_WORD.match(value):
            raise Invalid(f"a tag of LVM cannot say {key}={value!r}")
    said = [f"{_PREFIX}{key}={value}" for key, value in words.items() if value]
    return [word for each in (*said, *marks) for word in ("--addtag", each)]
