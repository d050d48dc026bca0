"""A storage host's own rules, on a real keeper: what is asked before each change, and whose a name is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from baremetal.errors import StorageError, StorageErrorKind, Superseded
from baremetal.lab.targets import CONTROL, TargetDaemon
from baremetal.storage.base import Tag
from baremetal.storage.files import FileKeeper
from baremetal.storage.host import Door, StorageHost, Wanted
from baremetal.storage.shell import LocalShell
from baremetal.storage.tgt import Tgt

MINE = Tag("v1", "server-1", 7)
DOOR = Door("iqn.2026-01.org.example:r1.main", "iqn.2026-01.org.example:r1")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[StorageHost]:
    with TargetDaemon(tmp_path / "t") as daemon:
        (tmp_path / "v").mkdir()
        shell = LocalShell()
        portal = Tgt(shell, f"{daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}")
        keeper = FileKeeper(shell, str(tmp_path / "v"))
        yield StorageHost("nas", shell, keeper, portal, str(tmp_path / "v" / ".lock"))


@dataclass
class Allowed:
    """Permits so many changes, and no more: what an abort or maintenance in between does."""

    times: int

    def __call__(self) -> None:
        if self.times == 0:
            raise Superseded("no longer wanted")
        self.times -= 1


def test_each_change_is_asked_for_before_it_is_made(host: StorageHost, tmp_path: Path) -> None:
    """I11, I17: the volume, its seed and its target, each by itself: a copy may take an hour."""
    wanted = Wanted("bm-r1-7", MINE, 1 << 20, seed=b"seed")
    folder = tmp_path / "v" / "bm-r1-7"
    made = []
    for times in range(4):
        try:
            permit = Allowed(times)
            host.make(wanted, permit)
            host.serve(wanted.name, True, DOOR, [], permit)
        except Superseded:
            pass
        parts = (folder / "disk.img", folder / "seed.img")
        made.append((*(part.exists() for part in parts), DOOR.target in host.portal.targets()))
    assert made == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]
    for times in range(3):
        try:
            host.release(DOOR.target, [("bm-r1-7", MINE)], Allowed(times))
        except Superseded:
            pass
        made.append((folder.exists(), DOOR.target in host.portal.targets()))
    assert made[4:] == [(True, True), (True, False), (False, False)]


def test_what_has_our_name_and_not_our_tag_stays_and_holds_up_no_release(
    host: StorageHost, tmp_path: Path
) -> None:
    """I21: another's volume is left as it is; nor does it keep a server from being released."""
    host.keeper.create("bm-r1-7", 1 << 20, Tag("v9", "server-9", 7))
    (tmp_path / "v" / ".new-bm-r1-7").mkdir()
    with pytest.raises(StorageError) as error:
        host.make(Wanted("bm-r1-7", MINE, 1 << 20), lambda: None)
    assert error.value.kind is StorageErrorKind.CLASH
    host.keeper.create("bm-r1-8", 1 << 20, MINE)
    assert host.release(DOOR.target, [("bm-r1-7", MINE), ("bm-r1-8", MINE)], lambda: None) is True
    assert [(one.name, one.tag) for one in host.keeper.volumes()] == [("bm-r1-7", Tag("v9", "server-9", 7))]
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == [".lock", "bm-r1-7"]
