"""tgt, asked through tgtadm: a real tgtd, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.lab.targets import CONTROL, TargetDaemon
from baremetal.storage.base import Chap, Lun, Output, Target
from baremetal.storage.chap import mint
from baremetal.storage.shell import LocalShell
from baremetal.storage.tgt import Tgt, read_targets
from tests.iscsi import HUNG_UP, NOT_FOUND, SUCCESS, knock

IQN = "iqn.2026-01.org.example:r1.main"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[TargetDaemon]:
    with TargetDaemon(tmp_path / "t") as running:
        yield running


@pytest.fixture
def tgt(daemon: TargetDaemon) -> Tgt:
    return Tgt(LocalShell(), f"{daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}")


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def target(*paths: str, chap: Chap | None = None) -> Target:
    luns = tuple(Lun(number, path, writable=number == 1) for number, path in enumerate(paths, 1))
    return Target(IQN, ("iqn.2026-01.org.example:i1",), luns, chap)


def without_passwords(one: Target) -> Target:
    chap = one.chap and Chap(one.chap.user, "", one.chap.mutual_user)
    return replace(one, chap=chap)


@pytest.mark.parametrize("mutual", [False, True])
def test_a_target_is_served_exactly_so_and_changed_in_place(
    tgt: Tgt, image: str, tmp_path: Path, daemon: TargetDaemon, mutual: bool
) -> None:
    seed = tmp_path / "seed.img"
    seed.write_bytes(bytes(1 << 20))
    first = target(image, str(seed), chap=mint("r1", mutual=mutual))
    assert tgt.serve(first, []) is True
    assert tgt.targets() == {IQN: without_passwords(first)}
    assert tgt.serve(first, []) is False, "served so already"
    for second in (
        replace(first, initiators=("iqn.2026-01.org.example:i2", "iqn.2026-01.org.example:i3")),
        replace(first, chap=mint("r1", mutual=not mutual)),
        replace(first, chap=None),
        target(str(seed), chap=first.chap),
    ):
        assert tgt.serve(second, [image, str(seed)]) is True
        assert tgt.targets() == {IQN: without_passwords(second)}
    assert tgt.withdraw(IQN, [image, str(seed)]) is True
    assert tgt.withdraw(IQN, []) is False
    assert tgt.targets() == {}
    assert daemon.admin("--mode", "account", "--op", "show") == "", "no account is left"


def test_only_who_may_is_let_in(tgt: Tgt, image: str, daemon: TargetDaemon) -> None:
    """LUN masking by the initiator's name (S4-9), and CHAP: a name alone proves nothing."""
    chap, portal = mint("r1", mutual=False), (daemon.address, daemon.port)
    mine, other = "iqn.2026-01.org.example:i1", "iqn.2026-01.org.example:i2"
    tgt.serve(target(image, chap=chap), [])
    assert knock(portal, IQN, mine, chap.user, chap.password) == SUCCESS
    assert knock(portal, IQN, mine, chap.user, "wrong-secret-123") != SUCCESS
    assert knock(portal, IQN, mine, "somebody", chap.password) != SUCCESS
    assert knock(portal, IQN, mine) != SUCCESS, "without CHAP"
    assert knock(portal, IQN, other, chap.user, chap.password) == NOT_FOUND
    renewed = mint("r1", mutual=False)
    tgt.serve(target(image, chap=renewed), [image])
    assert knock(portal, IQN, mine, chap.user, chap.password) != SUCCESS, "an old secret"
    assert knock(portal, IQN, mine, renewed.user, renewed.password) == SUCCESS
    tgt.withdraw(IQN, [image])
    assert knock(portal, IQN, mine, renewed.user, renewed.password) in (NOT_FOUND, HUNG_UP)


@dataclass(frozen=True)
class CutShell(LocalShell):
    """A connection that is cut for good before the command that begins with a word."""

    word: str = ""

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        if argv[0] == self.word:
            raise StorageError("the connection was cut", StorageErrorKind.UNREACHABLE)
        return super().send(argv, source, deadline_s=deadline_s)


@pytest.mark.parametrize("mutual", [False, True])
def test_a_change_of_secrets_that_breaks_off_opens_nothing(
    tgt: Tgt, image: str, daemon: TargetDaemon, mutual: bool
) -> None:
    """Without an account a name would be enough: nobody may pass until there is one again."""
    mine, portal = "iqn.2026-01.org.example:i1", (daemon.address, daemon.port)
    tgt.serve(target(image, chap=mint("r1", mutual=mutual)), [])
    renewed = mint("r1", mutual=mutual)
    with pytest.raises(StorageError):
        replace(tgt, shell=CutShell(word="perl")).serve(target(image, chap=renewed), [image])
    assert knock(portal, IQN, mine) != SUCCESS
    assert tgt.serve(target(image, chap=renewed), [image]) is True
    assert knock(portal, IQN, mine, renewed.user, renewed.password) == SUCCESS


def test_a_target_with_luns_of_others_is_left_as_it_is(tgt: Tgt, image: str, daemon: TargetDaemon) -> None:
    daemon.admin("--mode", "target", "--op", "new", "--tid", "5", "-T", IQN)
    daemon.admin("--mode", "logicalunit", "--op", "new", "--tid", "5", "--lun", "1", "-b", image)
    before = tgt.targets()
    changes: tuple[Callable[[], object], ...] = (
        lambda: tgt.serve(target(image + ".mine"), []),
        lambda: tgt.withdraw(IQN, [image + ".mine"]),
    )
    for change in changes:
        with pytest.raises(StorageError, match="not ours") as error:
            change()
        assert error.value.kind is StorageErrorKind.SETTINGS
        assert not error.value.transient
    assert tgt.targets() == before


def test_an_empty_target_of_our_name_is_a_begun_one(tgt: Tgt, image: str, daemon: TargetDaemon) -> None:
    """What a crash left: made, and nothing behind it yet."""
    daemon.admin("--mode", "target", "--op", "new", "--tid", "5", "-T", IQN)
    assert tgt.serve(target(image), []) is True
    assert tgt.targets() == {IQN: target(image)}


def test_an_account_that_was_made_and_not_bound_is_taken_up(
    tgt: Tgt, image: str, daemon: TargetDaemon
) -> None:
    chap = mint("r1", mutual=False)
    daemon.admin("--mode", "account", "--op", "new", "--user", chap.user, "--password", chap.password)
    assert tgt.serve(target(image, chap=chap), []) is True


def test_a_file_that_is_not_there_is_refused_by_tgtd_and_said(tgt: Tgt, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="logicalunit") as error:
        tgt.serve(target(str(tmp_path / "nowhere.img")), [])
    assert error.value.kind is StorageErrorKind.FAILED


def test_no_tgtd_is_said(tgt: Tgt, image: str, daemon: TargetDaemon) -> None:
    assert tgt.check().startswith("tgt 1.")
    daemon.stop()
    with pytest.raises(StorageError, match="no tgtd") as error:
        tgt.check()
    assert error.value.kind is StorageErrorKind.MISSING
    with pytest.raises(StorageError, match="no tgtd") as error:
        tgt.serve(target(image), [])
    assert error.value.kind is StorageErrorKind.UNREACHABLE
    daemon.start()
    assert tgt.serve(target(image), []) is True, "after a restart it is served anew"


@dataclass(frozen=True)
class TellingShell(LocalShell):
    """Keeps what it was asked to run."""

    asked: list[str] = field(default_factory=list)

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        self.asked.append(" ".join(argv))
        return super().send(argv, source, deadline_s=deadline_s)


def test_no_secret_stands_in_any_argument(tgt: Tgt, image: str) -> None:
    """I23: everybody on the storage host can read the arguments of its processes."""
    shell, chap = TellingShell(), mint("r1", mutual=True)
    assert replace(tgt, shell=shell).serve(target(image, chap=chap), []) is True
    assert any("--initiator-name" in line for line in shell.asked)
    assert not [line for line in shell.asked if chap.password in line or chap.mutual_password in line]


def test_what_tgtadm_prints_is_read() -> None:
    text = """\
Target 1: iqn.2026-01.org.example:a
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 2
            Initiator: iqn.2026-01.org.example:i1 alias: none
            Connection: 0
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
            Readonly: No
            Backing store path: None
        LUN: 1
            Type: disk
            Readonly: No
            Backing store path: /srv/volumes/bm-a-1/disk.img
        LUN: 12
            Type: disk
            Readonly: Yes
            Backing store path: /srv/volumes/a: b/seed.img
    Account information:
        a-0123
        a-t-4567 (outgoing)
    ACL information:
        iqn.2026-01.org.example:i1
        10.0.0.0/24
Target 17: iqn.2026-01.org.example:b
    System information:
        Driver: iscsi
    LUN information:
    Account information:
    ACL information:
"""
    luns = (Lun(1, "/srv/volumes/bm-a-1/disk.img"), Lun(12, "/srv/volumes/a: b/seed.img", writable=False))
    initiators = ("10.0.0.0/24", "iqn.2026-01.org.example:i1")
    assert read_targets(text) == [
        (1, Target("iqn.2026-01.org.example:a", initiators, luns, Chap("a-0123", "", "a-t-4567"))),
        (17, Target("iqn.2026-01.org.example:b", (), (), None)),
    ]
