"""A storage host's own rules, on a real keeper: what is asked before each change, and whose a name is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baremetal.errors import StorageError, StorageErrorKind, Superseded
from baremetal.lab.targets import CONTROL, TargetDaemon
from baremetal.storage.base import Output, Tag
from baremetal.storage.chap import mint
from baremetal.storage.files import FileKeeper
from baremetal.storage.host import Door, Shown, StorageHost, Wanted
from baremetal.storage.shell import LocalShell
from baremetal.storage.tgt import Tgt

MINE = Tag("v1", "server-1", 7)
DOOR = Door("iqn.2026-01.org.example:r1.main", "iqn.2026-01.org.example:r1")


OTHERS = Tag("v9", "server-9", 7)
WANTED = Wanted("bm-r1-7", MINE, 1 << 20, origin="golden-a", seed=b"seed")
SHOWN = Shown(WANTED.name, seeded=True)


@dataclass(frozen=True)
class CutShell(LocalShell):
    """A connection that is cut at the Nth command: before it, or after it took effect."""

    cut_at: int = 0
    after: bool = False
    commands: list[str] = field(default_factory=list)

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        self.commands.append(" ".join(argv))
        cut = len(self.commands) == self.cut_at
        done = super().send(argv, source, deadline_s=deadline_s) if self.after or not cut else None
        if cut or done is None:
            raise StorageError("the connection was cut", StorageErrorKind.UNREACHABLE)
        return done


Open = Callable[[LocalShell], StorageHost]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[TargetDaemon]:
    with TargetDaemon(tmp_path / "t") as running:
        yield running


@pytest.fixture
def open_host(daemon: TargetDaemon, tmp_path: Path) -> Open:
    (tmp_path / "v").mkdir()
    socket = f"{daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}"

    def opened(shell: LocalShell) -> StorageHost:
        keeper = FileKeeper(shell, str(tmp_path / "v"))
        return StorageHost("nas", shell, keeper, Tgt(shell, socket), str(tmp_path / "v" / ".lock"))

    return opened


@pytest.fixture
def host(open_host: Open) -> StorageHost:
    return open_host(LocalShell())


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
            host.serve(Shown(wanted.name, seeded=True), DOOR, [], permit)
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
            permit = Allowed(times)
            host.withdraw(DOOR.target, ["bm-r1-7"], permit)
            host.drop([("bm-r1-7", MINE)], permit)
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
    assert host.drop([("bm-r1-7", MINE), ("bm-r1-8", MINE)], lambda: None) is True
    assert [(one.name, one.tag) for one in host.keeper.volumes()] == [("bm-r1-7", Tag("v9", "server-9", 7))]
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == [".lock", "bm-r1-7"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_cut_off_at_each_line_and_asked_again_the_end_is_the_same(
    open_host: Open, host: StorageHost, daemon: TargetDaemon, tmp_path: Path, after: bool
) -> None:
    """Made, served with another secret, taken away: nothing of ours is left over, and nothing of others' goes."""
    host.keeper.fill("golden-a", 1 << 20, Tag("g1"), iter((b"golden",)))
    host.keeper.create("bm-r9-7", 1 << 20, OTHERS)
    chap = mint("r1", mutual=True)
    door, again = (Door(DOOR.target, DOOR.initiator, one) for one in (chap, mint("r1", mutual=True)))
    tgt = host.portal
    changes: tuple[Callable[[StorageHost], object], ...] = (
        lambda one: one.make(WANTED, lambda: None),
        lambda one: one.serve(SHOWN, door, []),
        lambda one: one.serve(SHOWN, again, []),
        lambda one: one.withdraw(door.target, [WANTED.name]),
        lambda one: one.drop([(WANTED.name, MINE)], lambda: None),
    )
    cut_at = lines = 0
    while cut_at <= lines:
        cut_at += 1
        for number, change in enumerate(changes):
            shell = CutShell(cut_at=cut_at, after=after)
            with suppress(StorageError):
                change(open_host(shell))
            change(host)
            lines = max(lines, len(shell.commands))
            about = (number, cut_at, shell.commands[-1])
            made, shown, secret = number < 4, 0 < number < 3, (chap, again.chap)[number == 2]
            kept = {one.name: one.tag for one in host.keeper.volumes()}
            assert kept == {"golden-a": Tag("g1"), "bm-r9-7": OTHERS} | (
                {WANTED.name: MINE} if made else {}
            ), about
            assert {path.name for path in (tmp_path / "v").iterdir()} == {".lock", *kept}, about
            served = tgt.targets()
            assert set(served) == ({door.target} if shown else set()), about
            if shown:
                assert served[door.target].luns == host.target(SHOWN, door).luns, about
            accounts = daemon.admin("--mode", "account", "--op", "show").split()[2:]
            assert set(accounts) == ({secret.user, secret.mutual_user} if shown and secret else set()), about
    assert lines > 12, "each line was cut once"
