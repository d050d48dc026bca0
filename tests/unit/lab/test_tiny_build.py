"""What the tiny system is made of: archive, image and the packages behind them, built as an ordinary user would."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.lab.tiny import build, image, trees
from baremetal.ramsystem import cpio, packages, parts

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/tool").write_bytes(b"#!/bin/sh\n")
    (folder / "bin/tool").chmod(0o755)
    (folder / "bin/link").symlink_to("tool")
    (folder / "empty").write_bytes(b"")
    return folder


def test_archive_is_what_cpio_understands(folder: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    done = subprocess.run(
        [busybox, "cpio", "-tv"], input=cpio.pack_folder(folder), capture_output=True, timeout=10, check=True
    )
    listing = [line.split() for line in done.stdout.decode().splitlines()]
    assert [(words[0], words[1], " ".join(words[5:])) for words in listing] == [
        ("drwxr-xr-x", "0/0", "bin"),
        ("lrwxrwxrwx", "0/0", "bin/link -> tool"),
        ("-rwxr-xr-x", "0/0", "bin/tool"),
        ("-rw-r--r--", "0/0", "empty"),
    ]


def test_equal_folders_give_equal_archives(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(folder, again, symlinks=True)
    assert cpio.pack_folder(folder) == cpio.pack_folder(again)


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "HOST_TOOLS", {"no-such-tool": "no-such-package"})
    with pytest.raises(LabError, match="no-such-package") as caught:
        build.build(tmp_path)
    assert not (tmp_path / "packages").exists()
    assert caught.value.fix == "run: apt-get install --no-install-recommends no-such-package"


@pytest.fixture
def no_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An apt that was never updated."""
    for name in ("lists/partial", "archives/partial"):
        (tmp_path / "apt" / name).mkdir(parents=True)
    (tmp_path / "apt/status").touch()
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::State "{tmp_path}/apt";\nDir::State::status "{tmp_path}/apt/status";\nDir::Cache "{tmp_path}/apt";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(config))


@pytest.mark.usefixtures("no_lists")
def test_without_apt_lists_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        build.build(tmp_path / "cache")
    assert caught.value.fix == "run: apt-get update"
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.usefixtures("no_lists")
def test_without_apt_lists_an_earlier_build_of_the_same_scripts_serves(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    earlier = cache / f"{build._digest_scripts()}-0123456789ab"
    earlier.mkdir(parents=True)
    os.utime(earlier, (0, 0))
    (cache / "fedcba987654-0123456789ab").mkdir()
    assert build.build(cache).folder == earlier


def test_apt_is_asked_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    older = tmp_path / f"{build._digest_scripts()}-0123456789ab"
    newer = tmp_path / f"{build._digest_scripts()}-ba9876543210"
    older.mkdir()
    os.utime(older, (0, 0))
    newer.mkdir()
    assert build.build(tmp_path).folder == newer


def test_an_unknown_package_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(LabError):
        packages.Apt().locate(["no-such-package-in-any-suite"])


def test_every_way_to_fail_is_documented_and_known_to_the_scripts() -> None:
    scripts = (trees.SCRIPTS, parts.SCRIPTS)
    text = "".join(path.read_text() for folder in scripts for path in folder.iterdir())
    for mode in build.FAIL_MODES:
        word = mode.split("=", 1)[0]
        assert f"| `{mode}` |" in (build.__doc__ or "")
        assert word in text, f"no script knows {word}"
