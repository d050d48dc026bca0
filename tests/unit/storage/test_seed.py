"""Seeds, read back by programs that know FAT better than we do."""

from __future__ import annotations

import random
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from baremetal.errors import Invalid
from baremetal.storage.seed import make_seed

AT = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)


def run(*command: str) -> str:
    tool = shutil.which(command[0], path="/usr/bin:/usr/sbin:/bin:/sbin")
    assert tool, command[0]
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", range(4))
def test_every_file_comes_back_as_it_was(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    files = {
        "meta-data": b"instance-id: a\n",
        "user-data": rng.randbytes(rng.choice((511, 512, 513, 100_000))),
        "network-config": b"",
        "a-name-longer-than-one-entry-of-thirteen": b"x" * rng.randint(1, 2000),
    }
    image = tmp_path / "seed.img"
    image.write_bytes(make_seed(files, AT))
    run("fsck.vfat", "-n", str(image))
    assert "CIDATA" in run("mlabel", "-s", "-i", str(image), "::")
    for name, content in files.items():
        run("mcopy", "-i", str(image), f"::/{name}", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == content
        (tmp_path / "out").unlink()
    assert "2026-01-02   3:04" in run("mdir", "-i", str(image), "::")


def test_the_same_files_make_the_same_bytes() -> None:
    """So that a seed that is written again after a crash changes nothing under a machine that reads it."""
    assert make_seed({"user-data": b"x"}, AT) == make_seed({"user-data": b"x"}, AT)


def test_the_largest_seed_and_one_that_is_too_large(tmp_path: Path) -> None:
    image = tmp_path / "seed.img"
    image.write_bytes(make_seed({"user-data": b"x" * 2847 * 512}, AT))
    run("fsck.vfat", "-n", str(image))
    with pytest.raises(Invalid, match="larger"):
        make_seed({"user-data": b"x" * (2847 * 512 + 1)}, AT)
    with pytest.raises(Invalid, match="larger"):
        make_seed({f"file-{number}": b"" for number in range(120)}, AT)
