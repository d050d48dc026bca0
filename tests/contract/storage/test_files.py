"""Volumes as files, on a real filesystem: whole or not at all, a clone per host (S4-9), nobody else's are touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.storage.base import Kept, Output, Tag
from baremetal.storage.files import FileKeeper
from baremetal.storage.shell import LocalShell

MIB = 1 << 20
MINE = Tag("v1", "server-1", 7)
GOLDEN = Tag("g1")


@dataclass(frozen=True)
class CutShell(LocalShell):
    """A connection that is cut at the Nth command: before it, or after it took effect."""

    cut_at: int = 0
    after: bool = False
    commands: list[str] = field(default_factory=list)

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        self.commands.append(" ".join(argv))
        cut = len(self.commands) == self.cut_at
        if cut and not self.after:
            raise StorageError("the connection was cut", StorageErrorKind.UNREACHABLE)
        done = super().send(argv, source, deadline_s=deadline_s)
        if cut:
            raise StorageError("the connection was cut", StorageErrorKind.UNREACHABLE)
        return done


@pytest.fixture
def keeper(tmp_path: Path) -> FileKeeper:
    return FileKeeper(LocalShell(), str(tmp_path))


def kind_of(error: pytest.ExceptionInfo[StorageError]) -> StorageErrorKind:
    return error.value.kind


def test_a_clone_has_what_its_origin_had_and_goes_its_own_way(keeper: FileKeeper) -> None:
    keeper.fill("golden-a", 2 * MIB, GOLDEN, iter((b"golden" * 1000,)))
    keeper.clone("bm-r1-1", "golden-a", 4 * MIB, MINE)
    golden, mine = Path(keeper.path("golden-a")), Path(keeper.path("bm-r1-1"))
    assert mine.stat().st_size == 4 * MIB
    assert mine.read_bytes()[:6000] == b"golden" * 1000
    mine.write_bytes(b"mine")
    assert golden.read_bytes()[:6] == b"golden"
    assert golden.stat().st_size == 2 * MIB
    found = {one.name: one for one in keeper.volumes()}
    assert found["golden-a"].tag == GOLDEN
    assert (found["bm-r1-1"].tag, found["bm-r1-1"].origin) == (MINE, "golden-a")


def test_everything_may_be_asked_for_twice(keeper: FileKeeper) -> None:
    """P5."""
    for _ in range(2):
        keeper.create("bm-r1-1", MIB, MINE)
    Path(keeper.path("bm-r1-1")).write_bytes(b"written since")
    keeper.create("bm-r1-1", MIB, MINE)
    assert Path(keeper.path("bm-r1-1")).read_bytes() == b"written since"
    assert keeper.remove("bm-r1-1", MINE) is True
    assert keeper.remove("bm-r1-1", MINE) is False
    assert keeper.volumes() == []


def test_only_what_carries_the_tag_is_removed(keeper: FileKeeper, tmp_path: Path) -> None:
    """I21."""
    keeper.create("bm-r1-1", MIB, MINE)
    for other in (Tag("v2", "server-1", 7), Tag("v1", "server-2", 7), Tag("v1", "server-1", 8), GOLDEN):
        with pytest.raises(StorageError) as error:
            keeper.remove("bm-r1-1", other)
        assert kind_of(error) is StorageErrorKind.CLASH
    foreign = tmp_path / "bm-r1-2"
    foreign.mkdir()
    (foreign / "disk.img").write_bytes(b"somebody's")
    changes: tuple[Callable[[], object], ...] = (
        lambda: keeper.remove("bm-r1-2", MINE),
        lambda: keeper.create("bm-r1-2", MIB, MINE),
        lambda: keeper.clone("bm-r1-2", "bm-r1-1", MIB, MINE),
        lambda: keeper.fill("bm-r1-2", MIB, MINE, iter(())),
    )
    for change in changes:
        with pytest.raises(StorageError) as error:
            change()
        assert kind_of(error) is StorageErrorKind.CLASH
    assert (foreign / "disk.img").read_bytes() == b"somebody's"
    assert Kept("bm-r1-2", 10, 4096) in keeper.volumes(), "it is listed, and nobody's"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_connection_that_is_cut_at_any_line_leaves_whole_volumes_or_none(
    tmp_path: Path, after: bool
) -> None:
    """What is asked again after the cut is as if there had been none."""
    golden = FileKeeper(LocalShell(), str(tmp_path))
    golden.fill("golden-a", MIB, GOLDEN, iter((b"golden",)))
    steps: tuple[tuple[Callable[[FileKeeper], object], set[str]], ...] = (
        (lambda k: k.clone("bm-r1-1", "golden-a", 2 * MIB, MINE), {"golden-a", "bm-r1-1"}),
        (lambda k: k.seed("bm-r1-1", b"seed"), {"golden-a", "bm-r1-1"}),
        (lambda k: k.remove("bm-r1-1", MINE), {"golden-a"}),
    )
    for change, check in steps:
        cuts = 0
        while True:
            keeper = FileKeeper(CutShell(cut_at=cuts + 1, after=after), str(tmp_path))
            try:
                change(keeper)
                break
            except StorageError:
                cuts += 1
            for one in golden.volumes():
                assert one.tag is not None
                assert one.size in (MIB, 2 * MIB)
        assert cuts > 1
        assert {one.name for one in golden.volumes()} == check
        assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_seed_is_for_its_owner_alone_and_replaced_whole(keeper: FileKeeper) -> None:
    keeper.create("bm-r1-1", MIB, MINE)
    keeper.seed("bm-r1-1", b"one")
    keeper.seed("bm-r1-1", b"two")
    seed = Path(keeper.seed_path("bm-r1-1"))
    assert seed.read_bytes() == b"two"
    assert seed.stat().st_mode & 0o077 == 0
    assert Path(keeper.path("bm-r1-1")).parent.stat().st_mode & 0o077 == 0
    keeper.seed("bm-r1-1", None)
    assert not seed.exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    keeper = FileKeeper(LocalShell(), str(tmp_path / "nowhere"))
    for ask in (keeper.check, lambda: keeper.create("bm-r1-1", MIB, MINE)):
        with pytest.raises(StorageError, match="is not there") as error:
            ask()
        assert kind_of(error) is StorageErrorKind.MISSING


def test_a_full_filesystem_is_said_and_leaves_nothing_half(keeper: FileKeeper) -> None:
    """A size that no filesystem has is refused like one that is full; the name stays free."""
    with pytest.raises(StorageError) as error:
        keeper.create("bm-r1-1", 1 << 62, MINE)
    assert kind_of(error) in (StorageErrorKind.FULL, StorageErrorKind.FAILED)
    assert keeper.volumes() == []
    keeper.create("bm-r1-1", MIB, MINE)
