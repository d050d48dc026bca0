"""A medium is there whole or not at all, whatever dies meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from baremetal.errors import Conflict, Refused
from baremetal.media import shelf as module
from baremetal.media.finding import Confidence
from baremetal.media.shelf import Record, Shelf

RECORD = Record(
    distro="rocky",
    title="Rocky Linux",
    family="kickstart",
    version="9.4",
    arch="x86_64",
    kernel="k",
    initrd="i",
    kernel_sha256="",
    initrd_sha256="",
    confidence=Confidence.SURE,
    evidence=("told",),
    source="x.iso",
    bytes=1,
    files=1,
    added_at="2026-01-01T00:00:00Z",
)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "data" / "media")


def put(shelf: Shelf, text: str) -> None:
    with shelf.work(), shelf.temporary() as folder:
        (folder / "k").write_text(text)
        shelf.put(folder, "rocky9", RECORD)


def names(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.root.iterdir()} - {".lock"}


def test_the_second_takes_the_place_of_the_first(shelf: Shelf) -> None:
    put(shelf, "one")
    assert (shelf.root / "rocky9/k").read_text() == "one"
    put(shelf, "two")
    assert (shelf.root / "rocky9/k").read_text() == "two"
    assert names(shelf) == {"rocky9"}
    assert shelf.record("rocky9") == RECORD
    assert shelf.names() == ["rocky9"]


def test_where_folders_cannot_be_swapped_it_works_in_two_steps(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without renameat2's exchange."""
    put(shelf, "one")
    monkeypatch.setattr(module, "_RENAME_EXCHANGE", 1 << 30)  # a flag that the kernel refuses with EINVAL
    put(shelf, "two")
    assert (shelf.root / "rocky9/k").read_text() == "two"
    assert names(shelf) == {"rocky9"}


def test_a_crash_between_the_two_steps_is_mended(shelf: Shelf) -> None:
    put(shelf, "one")
    (shelf.root / "rocky9").rename(shelf.root / ".old-rocky9")
    (shelf.root / ".new-abc").mkdir()
    (shelf.root / ".new-abc" / "half").write_text("x")
    with shelf.work():
        pass
    assert names(shelf) == {"rocky9"}
    assert (shelf.root / "rocky9/k").read_text() == "one"
    put(shelf, "two")
    (shelf.root / ".old-rocky9").mkdir()
    with shelf.work():
        pass
    assert (shelf.root / "rocky9/k").read_text() == "two"
    assert names(shelf) == {"rocky9"}


def test_two_do_not_work_at_once(shelf: Shelf) -> None:
    with shelf.work(), shelf.temporary() as folder:
        with pytest.raises(Conflict, match="at work"), Shelf(shelf.root).work():
            raise AssertionError("both are in")
        assert folder.is_dir()


def test_removed_is_gone(shelf: Shelf) -> None:
    put(shelf, "one")
    with shelf.work():
        shelf.remove("rocky9")
    assert names(shelf) == set()
    with shelf.work(), pytest.raises(Refused, match="cannot remove"):
        shelf.remove("rocky9")


def test_no_room_is_said_beforehand(shelf: Shelf) -> None:
    with shelf.work():
        shelf.check_room(1)
        with pytest.raises(Refused, match="no room") as caught:
            shelf.check_room(1 << 60)
    assert caught.value.code == "BM207"
    full = module.cannot_write(shelf.root, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert full.code == "BM207"


def test_a_record_that_cannot_be_read_is_none(shelf: Shelf) -> None:
    put(shelf, "one")
    (shelf.root / "rocky9" / "media.json").write_text("{")
    assert shelf.record("rocky9") is None
    assert shelf.record("other") is None
    assert Shelf(shelf.root / "nowhere").names() == []
