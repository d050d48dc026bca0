"""LVM and LIO for real: a full Debian guest is the storage host, driven over SSH as any other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.lab.guest import build
from baremetal.lab.guest.guest import ADDRESS, Guest
from baremetal.lab.guest.storage_host import STORAGE_HOST
from baremetal.lab.machine import VirtualDisk
from baremetal.lab.rack import available
from baremetal.storage.base import Chap, Lun, Output, Shell, Tag, Target
from baremetal.storage.host import Door, Shown, StorageHost, Wanted
from baremetal.storage.lio import SAVED, Lio
from baremetal.storage.lvm import LvmKeeper
from baremetal.storage.remote import SshShell
from tests.contract.storage import lio_scenarios, lvm_scenarios
from tests.contract.storage.dialogue import Recorder
from tests.iscsi import HUNG_UP, SUCCESS, UNPROVEN, knock
from tests.lab.debian_rig import cache_folder

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(1800)]
MIB = 1 << 20
BASE = "iqn.2026-01.org.example"
NOT_PROVEN, NOT_ALLOWED = (2, 1), (2, 2)  # RFC 3720 10.13.5

_VOLUMES = """set -e
vgs vg0 >/dev/null 2>&1 || vgcreate --yes vg0 /dev/vdb
for each in $(lvs --noheadings -o lv_name vg0); do lvremove --yes vg0/$each || true; done
lvcreate --yes --type thin-pool --size 1G --name pool vg0
lvcreate --yes --type thin-pool --size 32M --name small vg0
lvchange --errorwhenfull y vg0/small
"""
_TARGETS = """set -e
targetctl clear
rm -rf /etc/rtslib-fb-target/* /root/.targetcli /run/baremetal-lio
"""
_DEVICES = """set -e
for each in one two seed theirs; do lvcreate --yes --type thin --virtualsize 16M --thinpool pool --name $each vg0; done
mkdir -p /srv/volumes/bm-r1
truncate -s 16M /srv/volumes/bm-r1/disk.img
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    for there, reason in (available(), build.available()):
        if not there:
            pytest.skip(reason)
    image = build.build(STORAGE_HOST, cache_folder() / "guests")
    folder = tmp_path_factory.mktemp("storage-host")
    disk = VirtualDisk(folder / "volumes.img", 4096, "GUEST-VG0")
    with Guest(STORAGE_HOST, image, folder, more_disks=[disk], ports=[3260]) as guest:
        yield guest


def prepare(guest: Guest, *scripts: str) -> None:
    done = guest.shell.run(["sh", "-c", "\n".join(scripts)], deadline_s=300)
    assert done.status == 0, done


@pytest.mark.parametrize("scenario", lvm_scenarios.SCENARIOS)
def test_lvm(guest: Guest, scenario: Callable[[Shell], None], request: pytest.FixtureRequest) -> None:
    prepare(guest, _TARGETS, _VOLUMES)
    run(scenario, "lvm", guest, request)


@pytest.mark.parametrize("scenario", lio_scenarios.SCENARIOS)
def test_lio(guest: Guest, scenario: Callable[[Shell], None], request: pytest.FixtureRequest) -> None:
    prepare(guest, _TARGETS, _VOLUMES, _DEVICES)
    run(scenario, "lio", guest, request)


def run(
    scenario: Callable[[Shell], None], backend: str, guest: Guest, request: pytest.FixtureRequest
) -> None:
    recorder = Recorder(guest.shell)
    scenario(recorder)
    if request.config.getoption("--record-dialogues"):
        recorder.save(f"{backend}-{scenario.__name__.replace('_', '-')}")


def host(guest: Guest, *, cut_at: int = 0, after: bool = False) -> StorageHost:
    """The storage host as another process of ours would open it, with a connection of its own."""
    known = guest.shell
    shell = CutShell(
        known.address, known.port, known.user, known.private_key, known.host_key, cut_at=cut_at, after=after
    )
    keeper = LvmKeeper(shell, "vg0", "pool")
    return StorageHost("san", shell, keeper, Lio(shell, ADDRESS), "/run/lock/baremetal-storage.lock")


def ensure(san: StorageHost, wanted: Wanted, door: Door) -> bool:
    """Have a volume stand and be served, as a deploy does; return whether it was not served so."""
    san.make(wanted, permit)
    return san.serve(Shown(wanted.name, wanted.seed is not None), door, ())


def take_away(san: StorageHost, wanted: Wanted, door: Door) -> bool:
    """Have the target be gone and then its volume, as a release does; return whether there was either."""
    withdrawn = san.withdraw(door.target, [wanted.name], permit)
    return san.drop([(wanted.name, wanted.tag)], permit) or withdrawn


def permit() -> None:
    """Nothing is against it."""


def test_only_who_may_gets_in_and_all_survives_a_power_loss(guest: Guest) -> None:
    prepare(guest, _TARGETS, _VOLUMES)
    san = host(guest)
    chap = Chap("r1-3f1c9a00", "made-up-secret-1", "r1-t-0c11d2e3", "made-up-secret-3")
    golden, one = Tag("9d2c01"), Tag("9d2c02", "5ab1f0", 7)
    san.keeper.fill("debian-13", 24 * MIB, golden, lvm_scenarios.image())
    wanted = Wanted("bm-r1-5ab1f0-7", one, 32 * MIB, "debian-13", b"seed".ljust(4096, b"\0"))
    door = Door(f"{BASE}:r1.main", f"{BASE}:r1", chap)
    assert ensure(san, wanted, door)
    assert not ensure(san, wanted, door)

    def log_in(initiator: str = door.initiator, *secrets: str) -> tuple[int, int]:
        try:
            return knock(("127.0.0.1", guest.port(3260)), door.target, initiator, *secrets)
        except ConnectionError:
            return HUNG_UP

    def assert_guarded() -> None:
        assert log_in(door.initiator, chap.user, chap.password) == SUCCESS
        assert log_in(door.initiator, chap.user, chap.password, chap.mutual_password) == SUCCESS
        assert log_in(door.initiator, chap.user, chap.password, "made-up-wrong") == UNPROVEN
        assert log_in(f"{BASE}:r2", chap.user, chap.password) == NOT_ALLOWED
        assert log_in(door.initiator, chap.user, "made-up-wrong") == NOT_PROVEN
        assert log_in() in (NOT_PROVEN, HUNG_UP)

    assert_guarded()
    before = san.portal.targets()
    guest.power_off()
    guest.power_on()
    deadline = time.monotonic() + 120
    while log_in(door.initiator, chap.user, chap.password) != SUCCESS and time.monotonic() < deadline:
        time.sleep(1)  # sshd is up before the targets are
    assert_guarded()
    again = host(guest)
    assert again.portal.targets() == before
    assert not ensure(again, wanted, door)
    assert {kept.name for kept in again.keeper.volumes()} == {"debian-13", "bm-r1-5ab1f0-7"}

    assert take_away(again, wanted, door)
    assert not take_away(again, wanted, door)
    assert log_in(door.initiator, chap.user, chap.password) == HUNG_UP
    assert {kept.name for kept in again.keeper.volumes()} == {"debian-13"}
    assert again.keeper.remove("debian-13", golden)


@dataclass(slots=True)
class CutShell(SshShell):
    """A connection that is cut at the Nth command: before it, or after it took effect."""

    cut_at: int = 0
    after: bool = False
    commands: int = 0

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        self.commands += 1
        cut = self.commands == self.cut_at
        if cut and not self.after:
            raise StorageError("the connection was cut", StorageErrorKind.UNREACHABLE)
        done = SshShell.send(self, argv, source, deadline_s=deadline_s)
        if cut:
            raise StorageError("the connection was cut", StorageErrorKind.UNREACHABLE)
        return done


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_connection_that_is_cut_at_any_line_leaves_nothing_behind(guest: Guest, after: bool) -> None:
    prepare(guest, _TARGETS, _VOLUMES)
    whole = host(guest)
    golden, one = Tag("9d2c01"), Tag("9d2c02", "5ab1f0", 7)
    whole.keeper.fill("debian-13", 8 * MIB, golden, iter([b"golden"]))
    wanted = Wanted("bm-r1-5ab1f0-7", one, 16 * MIB, "debian-13", b"seed".ljust(4096, b"\0"))
    door = Door(f"{BASE}:r1.main", f"{BASE}:r1", Chap("r1-3f1c9a00", "made-up-secret-1"))
    steps: tuple[Callable[[StorageHost], object], ...] = (
        lambda san: ensure(san, wanted, door),
        lambda san: take_away(san, wanted, door),
    )
    for change in steps:
        cuts = 0
        while True:
            try:
                change(host(guest, cut_at=cuts + 1, after=after))
                break
            except StorageError as error:
                if error.kind is not StorageErrorKind.UNREACHABLE:
                    raise
                cuts += 1
        assert cuts > 3
        if change is steps[0]:
            assert whole.portal.targets() == {
                door.target: whole.target(Shown(wanted.name, seeded=True), door)
            }
            assert {kept.name: kept.tag for kept in whole.keeper.volumes()} == {
                "debian-13": golden,
                wanted.name: one,
            }
    assert whole.portal.targets() == {}
    rows = guest.shell.run(["lvs", "--noheadings", "-o", "lv_name", "vg0"]).out.split()
    assert sorted(rows) == ["debian-13", "pool", "small"], "no half-made volume and no seed is left"
    config = guest.shell.run(["cat", SAVED[0]]).out
    assert json.loads(config)["storage_objects"] == []


def test_changes_at_once_come_one_after_the_other(guest: Guest) -> None:
    prepare(guest, _TARGETS, _VOLUMES)
    host(guest).keeper.fill("debian-13", 8 * MIB, Tag("9d2c01"), iter([b"golden"]))
    failed: list[BaseException] = []

    def deploy(number: int) -> None:
        wanted = Wanted(f"bm-r{number}", Tag(f"9d2d0{number}", f"5ab1f{number}", 1), 8 * MIB, "debian-13")
        door = Door(
            f"{BASE}:r{number}.main", f"{BASE}:r{number}", Chap(f"r{number}", f"made-up-secret-{number}")
        )
        try:
            ensure(host(guest), wanted, door)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=deploy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for error in failed if not _waited_too_long(error)] == []
    for number in range(3):
        deploy(number)  # who did not get the lock in time asks again
    expected = {
        f"{BASE}:r{number}.main": Target(
            f"{BASE}:r{number}.main", (f"{BASE}:r{number}",), (Lun(0, f"/dev/vg0/bm-r{number}"),),
            Chap(f"r{number}", f"made-up-secret-{number}"),
        )
        for number in range(3)
    }  # fmt: skip
    assert host(guest).portal.targets() == expected


def _waited_too_long(error: BaseException) -> bool:
    return isinstance(error, StorageError) and "ended at once" in str(error)


def test_a_golden_image_is_cloned_in_seconds(guest: Guest) -> None:
    prepare(guest, _TARGETS, _VOLUMES)
    keeper = host(guest).keeper
    keeper.fill("debian-13", 512 * MIB, Tag("9d2c01"), lvm_scenarios.image())
    began = time.monotonic()
    keeper.clone("bm-r1", "debian-13", 512 * MIB, Tag("9d2c02", "5ab1f0", 1))
    print(f"cloned in {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    assert len(keeper.volumes()) == 2
    print(f"listed in {time.monotonic() - began:.1f} s")


def test_path_of_the_disk_is_the_machines_own(guest: Guest, tmp_path: Path) -> None:
    """The guest's disk is a copy: what a run does to it is not in the next one's."""
    assert (
        guest.machine.spec.disks[0].path.parent != build.build(STORAGE_HOST, cache_folder() / "guests").folder
    )
    assert guest.shell.run(["findmnt", "-no", "SOURCE,FSTYPE", "/"]).out.split() == ["/dev/vda", "ext4"]
