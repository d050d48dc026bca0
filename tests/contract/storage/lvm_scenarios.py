"""What LVM's keeper must do, told once: to a real storage host in the long tests, to its replayed dialogue otherwise.

Each scenario finds the volume group `vg0` without volumes. It has room beside its thin pools `pool` (1 GiB) and `small`
(32 MiB, set to fail when it is full).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from baremetal.errors import Invalid, StorageError, StorageErrorKind
from baremetal.storage.base import Kept, Shell, Tag
from baremetal.storage.lvm import LvmKeeper

MIB = 1 << 20
GOLDEN = Tag("9d2c5d2a6d0f4a0c8a5e000000000001")
ONE = Tag("9d2c5d2a6d0f4a0c8a5e000000000002", "5ab1f0c2d3e4410f9a00000000000001", 7)
TWO = Tag("9d2c5d2a6d0f4a0c8a5e000000000003", "5ab1f0c2d3e4410f9a00000000000002", 8)
BEGINNING = b"golden".ljust(MIB, b".")


def image() -> Iterator[bytes]:
    """A disk image of 24 MiB: something, a hole, something."""
    yield BEGINNING
    yield from (bytes(MIB) for _ in range(22))
    yield b"end".ljust(MIB, b".")


def named(keeper: LvmKeeper) -> dict[str, Kept]:
    return {kept.name: kept for kept in keeper.volumes()}


def beginning(shell: Shell, path: str, size: int = 6) -> str:
    return shell.run(["head", "-c", str(size), path]).out


def must(shell: Shell, *argv: str, stdin: bytes = b"") -> None:
    done = shell.run(argv, stdin=stdin, deadline_s=120)
    assert done.status == 0, done


def refused(kind: StorageErrorKind) -> pytest.RaisesExc[StorageError]:
    return pytest.RaisesExc(StorageError, check=lambda error: error.kind is kind)


def thin_volumes_live_and_go(shell: Shell) -> None:
    keeper = LvmKeeper(shell, "vg0", "pool")
    room = keeper.check()
    assert room.size > 512 * MIB
    assert room.free == room.size
    keeper.fill("debian-13", 24 * MIB, GOLDEN, image())
    golden = named(keeper)["debian-13"]
    assert golden == Kept("debian-13", 24 * MIB, golden.used, None, GOLDEN)
    assert golden.used is not None
    assert MIB < golden.used < 4 * MIB, "zeros take no room"
    keeper.fill("debian-13", 24 * MIB, GOLDEN, iter([b"something else"]))
    assert beginning(shell, keeper.path("debian-13")) == "golden", "a second time changes nothing"

    keeper.clone("bm-r1-5ab1f0-7", "debian-13", 24 * MIB, ONE)
    keeper.clone("bm-r2-5ab1f0-8", "debian-13", 40 * MIB, TWO)
    keeper.create("bm-data-1", 10 * MIB, ONE)
    must(
        shell,
        "dd",
        f"of={keeper.path('bm-r1-5ab1f0-7')}",
        "conv=fsync,nocreat",
        "status=none",
        stdin=b"mine!!",
    )
    keeper.clone("bm-r1-5ab1f0-7", "debian-13", 24 * MIB, ONE)
    assert beginning(shell, keeper.path("bm-r1-5ab1f0-7")) == "mine!!", "a second time changes nothing"
    assert beginning(shell, keeper.path("bm-r2-5ab1f0-8")) == "golden"
    assert beginning(shell, keeper.path("debian-13")) == "golden"
    kept = named(keeper)
    assert set(kept) == {"debian-13", "bm-r1-5ab1f0-7", "bm-r2-5ab1f0-8", "bm-data-1"}
    assert (kept["bm-r1-5ab1f0-7"].origin, kept["bm-r1-5ab1f0-7"].tag) == ("debian-13", ONE)
    assert kept["bm-r2-5ab1f0-8"].size == 40 * MIB
    assert kept["bm-data-1"].size == 12 * MIB, "in whole extents of 4 MiB"
    assert keeper.check().free < room.free

    # the seed beside a volume
    keeper.seed("bm-r1-5ab1f0-7", b"first!".ljust(64 << 10, b"\0"))
    keeper.seed("bm-r1-5ab1f0-7", b"second".ljust(64 << 10, b"\0"))
    assert beginning(shell, keeper.seed_path("bm-r1-5ab1f0-7")) == "second"
    keeper.seed("bm-r1-5ab1f0-7", b"larger".ljust(5 * MIB, b"\0"))
    assert beginning(shell, keeper.seed_path("bm-r1-5ab1f0-7")) == "larger"
    assert set(named(keeper)) == set(kept), "a seed is no volume"
    keeper.seed("bm-r1-5ab1f0-7", None)
    keeper.seed("bm-r1-5ab1f0-7", None)
    assert shell.run(["test", "-e", keeper.seed_path("bm-r1-5ab1f0-7")]).status == 1
    keeper.seed("bm-r1-5ab1f0-7", b"first!")

    # a golden image may go before its clones
    assert keeper.remove("debian-13", GOLDEN)
    assert keeper.remove("bm-r1-5ab1f0-7", ONE)
    assert not keeper.remove("bm-r1-5ab1f0-7", ONE)
    assert keeper.remove("bm-r2-5ab1f0-8", TWO)
    assert keeper.remove("bm-data-1", ONE)
    assert keeper.volumes() == []
    assert keeper.check().free == room.free


def plain_volumes_live_and_go(shell: Shell) -> None:
    keeper = LvmKeeper(shell, "vg0", snapshot_bytes=8 * MIB)
    must(shell, "lvcreate", "--yes", "--size", "24M", "--name", "before", "vg0")
    must(shell, "dd", "of=/dev/vg0/before", "conv=fsync,nocreat", "status=none", stdin=b"secret" * 4000)
    must(shell, "lvremove", "--yes", "vg0/before")
    room = keeper.check()
    keeper.create("bm-data-1", 24 * MIB, TWO)
    assert beginning(shell, keeper.path("bm-data-1")) == "\0" * 6, "what others wrote is not seen"
    keeper.fill("debian-13", 24 * MIB, GOLDEN, image())
    keeper.clone("bm-r1-5ab1f0-7", "debian-13", 24 * MIB, ONE)
    keeper.clone("bm-r2-5ab1f0-8", "debian-13", 32 * MIB, TWO)
    must(
        shell,
        "dd",
        f"of={keeper.path('bm-r1-5ab1f0-7')}",
        "conv=fsync,nocreat",
        "status=none",
        stdin=b"mine!!",
    )
    assert beginning(shell, keeper.path("bm-r2-5ab1f0-8")) == "golden"
    assert beginning(shell, keeper.path("debian-13")) == "golden"
    kept = named(keeper)
    assert (kept["bm-r1-5ab1f0-7"].size, kept["bm-r1-5ab1f0-7"].origin) == (24 * MIB, "debian-13")
    used = kept["bm-r1-5ab1f0-7"].used
    assert used is not None
    assert used < 1 * MIB, "only what differs"
    assert (kept["bm-r2-5ab1f0-8"].size, kept["bm-r2-5ab1f0-8"].origin) == (32 * MIB, None), "a whole copy"
    assert room.free - keeper.check().free == (24 + 24 + 8 + 32) * MIB
    with refused(StorageErrorKind.IN_USE):  # LVM itself would silently take the snapshot too
        keeper.remove("debian-13", GOLDEN)
    assert keeper.remove("bm-r1-5ab1f0-7", ONE)
    assert keeper.remove("debian-13", GOLDEN)
    assert keeper.remove("bm-r2-5ab1f0-8", TWO)
    assert keeper.remove("bm-data-1", TWO)
    assert keeper.volumes() == []


def half_made_volumes_are_made_anew(shell: Shell) -> None:
    keeper = LvmKeeper(shell, "vg0", "pool")
    words = ["--addtag", f"baremetal.volume={GOLDEN.volume}", "--addtag", "baremetal.making"]
    thin = ["--type", "thin", "--thinpool", "pool", "--virtualsize", "8M"]
    must(shell, "lvcreate", "--yes", *thin, *words, "--name", "debian-13", "vg0")
    assert keeper.volumes() == [], "what is not whole is not there"
    with refused(StorageErrorKind.MISSING):
        keeper.clone("bm-r1-5ab1f0-7", "debian-13", 24 * MIB, ONE)
    keeper.fill("debian-13", 24 * MIB, GOLDEN, image())
    assert named(keeper)["debian-13"].size == 24 * MIB
    # cut off between the snapshot and its growing
    words = ["--addtag", f"baremetal.volume={ONE.volume}", "--addtag", f"baremetal.server={ONE.server}"]
    words += ["--addtag", "baremetal.run=7", "--addtag", "baremetal.making"]
    must(shell, "lvcreate", "--yes", "--snapshot", *words, "--name", "bm-r1-5ab1f0-7", "vg0/debian-13")
    keeper.clone("bm-r1-5ab1f0-7", "debian-13", 40 * MIB, ONE)
    assert named(keeper)["bm-r1-5ab1f0-7"].size == 40 * MIB
    keeper.remove("bm-r1-5ab1f0-7", ONE)
    keeper.remove("debian-13", GOLDEN)


def what_is_not_ours_stays(shell: Shell) -> None:
    keeper = LvmKeeper(shell, "vg0", "pool")
    must(shell, "lvcreate", "--yes", "--size", "8M", "--addtag", "theirs", "--name", "bm-r1-5ab1f0-7", "vg0")
    keeper.create("bm-r2-5ab1f0-8", 8 * MIB, TWO)
    with refused(StorageErrorKind.CLASH):
        keeper.create("bm-r1-5ab1f0-7", 8 * MIB, ONE)
    with refused(StorageErrorKind.CLASH):
        keeper.clone("bm-r1-5ab1f0-7", "bm-r2-5ab1f0-8", 8 * MIB, ONE)
    with refused(StorageErrorKind.CLASH):
        keeper.fill("bm-r1-5ab1f0-7", 8 * MIB, ONE, image())
    with refused(StorageErrorKind.CLASH):
        keeper.remove("bm-r1-5ab1f0-7", ONE)
    with refused(StorageErrorKind.MISSING):
        keeper.seed("bm-r1-5ab1f0-7", b"seed")
    with refused(StorageErrorKind.CLASH):  # another run's
        keeper.remove("bm-r2-5ab1f0-8", Tag(TWO.volume, TWO.server, 9))
    kept = named(keeper)
    assert kept["bm-r1-5ab1f0-7"].tag is None
    assert kept["bm-r2-5ab1f0-8"].tag == TWO
    with pytest.raises(Invalid):
        keeper.create("bm-r3", 8 * MIB, Tag("a,b"))
    assert keeper.remove("bm-r2-5ab1f0-8", TWO)
    must(shell, "lvremove", "--yes", "vg0/bm-r1-5ab1f0-7")


def trouble_is_named(shell: Shell) -> None:
    with refused(StorageErrorKind.MISSING):
        LvmKeeper(shell, "vg9").check()
    with refused(StorageErrorKind.MISSING):
        LvmKeeper(shell, "vg9", "pool").create("bm-r1-5ab1f0-7", 8 * MIB, ONE)
    with refused(StorageErrorKind.MISSING):
        LvmKeeper(shell, "vg0", "nopool").check()
    with refused(StorageErrorKind.MISSING):
        LvmKeeper(shell, "vg0", "nopool").create("bm-r1-5ab1f0-7", 8 * MIB, ONE)
    plain = LvmKeeper(shell, "vg0")
    with refused(StorageErrorKind.FULL):
        plain.create("bm-r1-5ab1f0-7", 1 << 40, ONE)
    thin = LvmKeeper(shell, "vg0", "pool")
    thin.create("bm-r1-5ab1f0-7", 8 * MIB, ONE)
    hold = ["sh", "-c", 'exec 3<"$0"; echo held; exec cat', thin.path("bm-r1-5ab1f0-7")]
    with shell.holding(hold, deadline_s=30), refused(StorageErrorKind.IN_USE):
        thin.remove("bm-r1-5ab1f0-7", ONE)
    assert thin.remove("bm-r1-5ab1f0-7", ONE)


def a_full_pool_is_said(shell: Shell) -> None:
    keeper = LvmKeeper(shell, "vg0", "small")
    with refused(StorageErrorKind.FULL):
        keeper.fill("debian-13", 64 * MIB, GOLDEN, (b"x" * MIB for _ in range(64)))
    assert keeper.volumes() == [], "what is not whole is not there"
    assert keeper.check().free == keeper.check().size, "and takes no room"
    keeper.create("bm-r1-5ab1f0-7", 64 * MIB, ONE)
    dd = ["dd", "of=/dev/vg0/bm-r1-5ab1f0-7", "bs=1M", "iflag=fullblock", "conv=fsync,nocreat", "status=none"]
    assert shell.run(dd, stdin=b"x" * (40 * MIB), deadline_s=120).status != 0
    with refused(StorageErrorKind.FULL):
        keeper.create("bm-r2-5ab1f0-8", 8 * MIB, TWO)
    with refused(StorageErrorKind.FULL):
        keeper.clone("bm-r2-5ab1f0-8", "bm-r1-5ab1f0-7", 64 * MIB, TWO)
    assert keeper.remove("bm-r1-5ab1f0-7", ONE)
    keeper.fill("debian-13", 24 * MIB, GOLDEN, image())
    assert keeper.remove("debian-13", GOLDEN)


SCENARIOS: tuple[Callable[[Shell], None], ...] = (
    thin_volumes_live_and_go,
    plain_volumes_live_and_go,
    half_made_volumes_are_made_anew,
    what_is_not_ours_stays,
    trouble_is_named,
    a_full_pool_is_said,
)
