"""What LIO's portal must do, told once: to a real storage host in the long tests, to its replayed dialogue otherwise.

Each scenario finds a host at 10.0.2.15 without targets and without a saved configuration, where the devices
`/dev/vg0/one`, `/dev/vg0/two`, `/dev/vg0/seed` and `/dev/vg0/theirs` and the file `/srv/volumes/bm-r1/disk.img` are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from baremetal.errors import Invalid, StorageErrorKind
from baremetal.storage.base import Chap, Lun, Shell, Target
from baremetal.storage.lio import SAVED, Lio
from tests.contract.storage.lvm_scenarios import must, refused

PORTAL = "10.0.2.15"
IQN = "iqn.2026-01.org.example:r1.main"
INITIATOR = "iqn.2026-01.org.example:r1"
ONE, TWO, SEED, THEIRS = (f"/dev/vg0/{name}" for name in ("one", "two", "seed", "theirs"))
CHAP = Chap("r1-3f1c9a00", "made-up-secret-1")
NEW_CHAP = Chap("r1-77aa0b12", "made-up-secret-2")
MUTUAL = Chap("r1-3f1c9a00", "made-up-secret-1", "r1-t-0c11d2e3", "made-up-secret-3")
WANTED = Target(IQN, (INITIATOR,), (Lun(0, ONE),), CHAP)


def by_hand(shell: Shell, *lines: str) -> None:
    """Do as an operator would, or a command of ours that was cut off."""
    must(
        shell,
        "targetcli",
        stdin="".join(f"{line}\n" for line in ("set global color_mode=false", *lines)).encode(),
    )


def saved(shell: Shell) -> str:
    return shell.run(["cat", SAVED[0]]).out


def a_target_lives_and_goes(shell: Shell) -> None:
    lio = Lio(shell, PORTAL)
    assert lio.check().startswith("LIO, targetcli ")
    assert lio.targets() == {}
    assert lio.serve(WANTED, [ONE])
    assert lio.targets() == {IQN: WANTED}
    assert not lio.serve(WANTED, [ONE]), "a second time changes nothing"
    (target,) = json.loads(saved(shell))["targets"]
    assert [each["ip_address"] for each in target["tpgs"][0]["portals"]] == [PORTAL], "on one address only"
    assert target["tpgs"][0]["attributes"]["generate_node_acls"] == 0
    assert json.loads(saved(shell))["storage_objects"][0]["attributes"]["emulate_tpu"] == 1, "room comes back"

    # with the seed beside it, and another secret
    seeded = replace(WANTED, luns=(Lun(0, ONE), Lun(1, SEED, writable=False)), chap=NEW_CHAP)
    assert lio.serve(seeded, [ONE, SEED])
    assert lio.targets() == {IQN: seeded}
    # the next run's volume in place of it, proving itself too
    rebuilt = replace(WANTED, luns=(Lun(0, TWO),), chap=MUTUAL)
    assert lio.serve(rebuilt, [ONE, SEED, TWO])
    assert lio.targets() == {IQN: rebuilt}
    assert [each["dev"] for each in json.loads(saved(shell))["storage_objects"]] == [TWO]
    # back to one that need not, for another initiator
    moved = Target(IQN, (f"{INITIATOR}-new",), (Lun(0, TWO),), CHAP)
    assert lio.serve(moved, [TWO])
    assert lio.targets() == {IQN: moved}

    with refused(StorageErrorKind.SETTINGS):
        lio.withdraw(IQN, [ONE])
    assert lio.withdraw(IQN, [TWO])
    assert not lio.withdraw(IQN, [TWO])
    assert lio.targets() == {}
    assert json.loads(saved(shell))["storage_objects"] == []
    assert json.loads(saved(shell))["targets"] == []
    log = shell.run(["grep", "-rl", "made-up-secret", "/root", "/run", "/var/log", "/tmp"])
    assert log.out == "", "no secret is left in a log"


def two_targets_stand_beside_each_other(shell: Shell) -> None:
    lio = Lio(shell, PORTAL)
    other = Target(
        "iqn.2026-01.org.example:r2.main", ("iqn.2026-01.org.example:r2",), (Lun(0, TWO),), NEW_CHAP
    )
    # what all may read stands behind both
    first = replace(WANTED, luns=(Lun(0, ONE), Lun(1, SEED, writable=False)))
    second = replace(other, luns=(Lun(0, TWO), Lun(1, SEED, writable=False)))
    assert lio.serve(first, [ONE, SEED])
    assert lio.serve(second, [TWO, SEED])
    assert lio.targets() == {IQN: first, other.iqn: second}
    assert lio.withdraw(IQN, [ONE, SEED])
    assert lio.targets() == {other.iqn: second}
    assert lio.withdraw(other.iqn, [TWO, SEED])


def without_chap_the_name_suffices(shell: Shell) -> None:
    lio = Lio(shell, f"{PORTAL}:3261", first_lun=1)
    open_target = Target(IQN, (INITIATOR,), (Lun(1, ONE),))
    assert lio.serve(open_target, [ONE])
    assert lio.targets() == {IQN: open_target}
    assert not lio.serve(open_target, [ONE])
    assert lio.serve(replace(open_target, chap=CHAP), [ONE])
    assert lio.targets() == {IQN: replace(open_target, chap=CHAP)}
    assert lio.serve(open_target, [ONE])
    assert lio.targets() == {IQN: open_target}
    assert lio.withdraw(IQN, [ONE])


def files_are_served_too(shell: Shell) -> None:
    lio = Lio(shell, PORTAL)
    path = "/srv/volumes/bm-r1/disk.img"
    target = Target(IQN, (INITIATOR,), (Lun(0, path),), CHAP)
    assert lio.serve(target, [path])
    assert lio.targets() == {IQN: target}
    assert not lio.serve(target, [path])
    assert lio.withdraw(IQN, [path])


def what_was_cut_off_is_finished(shell: Shell) -> None:
    lio = Lio(shell, PORTAL)
    assert lio.serve(WANTED, [ONE])
    # a target with nothing in it, open to all addresses and to anybody, and a storage object that nothing shows
    by_hand(
        shell,
        f"/iscsi delete {IQN}",
        "/backstores/block create name=other dev=/dev/vg0/two",
        f"/iscsi create {IQN}",
        f"/iscsi/{IQN}/tpg1 set attribute authentication=0 generate_node_acls=1",
    )
    assert lio.serve(WANTED, [ONE, TWO])
    assert lio.targets() == {IQN: WANTED}
    assert [each["dev"] for each in json.loads(saved(shell))["storage_objects"]] == [ONE]
    # not saved: the next start of the host would bring the earlier form back
    must(shell, "rm", SAVED[0])
    assert lio.serve(WANTED, [ONE])
    assert json.loads(saved(shell))["targets"][0]["wwn"] == IQN
    # the target went, and what was behind it did not
    by_hand(shell, f"/iscsi delete {IQN}")
    assert not lio.withdraw(IQN, [ONE])
    assert json.loads(saved(shell))["storage_objects"] == []


def what_is_not_ours_stays(shell: Shell) -> None:
    lio = Lio(shell, PORTAL)
    theirs = "iqn.2026-01.org.example:theirs"
    by_hand(
        shell,
        "/backstores/block create name=theirs dev=/dev/vg0/theirs",
        f"/iscsi create {theirs}",
        f"/iscsi/{theirs}/tpg1/portals delete 0.0.0.0 3260",
        f"/iscsi/{theirs}/tpg1/portals create {PORTAL} 3260",
        f"/iscsi/{theirs}/tpg1/luns create /backstores/block/theirs",
        f"/iscsi/{theirs}/tpg1/acls create {INITIATOR}-theirs",
    )
    before = lio.targets()[theirs]
    with refused(StorageErrorKind.SETTINGS):
        lio.serve(replace(WANTED, iqn=theirs), [ONE])
    with refused(StorageErrorKind.SETTINGS):
        lio.withdraw(theirs, [ONE])
    assert lio.serve(WANTED, [ONE])
    assert lio.withdraw(IQN, [ONE])
    assert lio.targets() == {theirs: before}
    # a host that does not have (yet) what was saved: saving now would lose it
    must(shell, "targetctl", "clear")
    with refused(StorageErrorKind.FAILED):
        lio.serve(WANTED, [ONE])
    assert json.loads(saved(shell))["targets"][0]["wwn"] == theirs
    must(shell, "targetctl", "restore")
    assert lio.serve(WANTED, [ONE])
    assert lio.targets() == {theirs: before, IQN: WANTED}
    assert lio.withdraw(IQN, [ONE])
    by_hand(shell, f"/iscsi delete {theirs}", "/backstores/block delete theirs")


def trouble_is_named(shell: Shell) -> None:
    lio = Lio(shell, PORTAL)
    with refused(StorageErrorKind.FAILED) as caught:
        lio.serve(replace(WANTED, luns=(Lun(0, "/dev/vg0/nothing"),)), [])
    assert "/dev/vg0/nothing" in str(caught.value)
    assert CHAP.password not in str(caught.value)
    assert lio.withdraw(IQN, [])
    for chap in (Chap("r1", "with space"), Chap("r1", "two\nlines"), Chap("r1", "")):
        with pytest.raises(Invalid) as refusal:
            lio.serve(replace(WANTED, chap=chap), [ONE])
        assert not chap.password or chap.password not in str(refusal.value)


SCENARIOS: tuple[Callable[[Shell], None], ...] = (
    a_target_lives_and_goes,
    two_targets_stand_beside_each_other,
    without_chap_the_name_suffices,
    files_are_served_too,
    what_was_cut_off_is_finished,
    what_is_not_ours_stays,
    trouble_is_named,
)
