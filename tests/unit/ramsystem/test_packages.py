"""Packages of an architecture that is not this machine's, from an archive in a folder: real apt, no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.ramsystem.architecture import Architecture
from baremetal.ramsystem.packages import Apt, unpack

pytestmark = pytest.mark.slow


@pytest.fixture
def foreign() -> Architecture:
    """An architecture that is not this machine's."""
    if shutil.which("dpkg-deb") is None or shutil.which("apt-get") is None:
        pytest.skip("dpkg and apt are Debian's")
    own = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout
    return next(one for one in Architecture if one.debian != own.strip())


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty archive, the only one that apt knows of here."""
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "Packages").touch()
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{archive} ./\n")
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/nowhere";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))
    return archive


def add(archive: Path, name: str, architecture: Architecture, depends: str = "") -> None:
    """Build a package that holds one file with its name, and list it."""
    control = f"Package: {name}\nVersion: 1\nArchitecture: {architecture.debian}\n"
    control += f"Maintainer: nobody <nobody@lab.test>\nDescription: made for a test\n{depends}"
    tree = archive.parent / "tree" / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(control)
    (tree / "usr").mkdir()
    (tree / "usr" / name).write_text(architecture)
    file = archive / f"{name}_1_{architecture.debian}.deb"
    subprocess.run(["dpkg-deb", "--build", tree, file], check=True, capture_output=True)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with (archive / "Packages").open("a") as index:
        index.write(f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n\n")


def test_packages_of_another_architecture_are_found_fetched_and_unpacked(
    foreign: Architecture, archive: Path, tmp_path: Path
) -> None:
    add(archive, "lab-kernel", foreign, "Depends: lab-library\n")
    add(archive, "lab-library", foreign)
    apt = Apt.of(foreign, tmp_path / "apt")
    assert apt.depends_of("lab-kernel") == {"lab-kernel": ["lab-library"]}
    found = apt.locate(["lab-library", "lab-kernel"])
    assert [package.file for package in found] == [
        f"lab-{name}_1_{foreign.debian}.deb" for name in ("kernel", "library")
    ]
    unpack(apt.fetch(found, tmp_path / "packages"), tmp_path / "root")
    assert (tmp_path / "root/usr/lab-library").read_text() == foreign
    with pytest.raises(LabError):
        Apt().locate(["lab-kernel"])  # this machine's own apt was told nothing


def test_libraries_of_libraries_are_known_and_other_packages_left_out(
    foreign: Architecture, archive: Path, tmp_path: Path
) -> None:
    add(archive, "tool", foreign, "Depends: libone, debconf\n")
    add(archive, "libone", foreign, "Depends: libtwo, zlib9\n")
    add(archive, "libtwo", foreign, "Depends: libone\n")
    for name in ("zlib9", "debconf"):
        add(archive, name, foreign)
    assert Apt.of(foreign, tmp_path / "apt").libraries_of("tool") == {"libone", "libtwo", "zlib9"}


def test_lists_are_fetched_once_a_day_and_older_ones_serve_while_they_cannot_be(
    foreign: Architecture, archive: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "apt"
    Apt.of(foreign, folder)
    add(archive, "lab-kernel", foreign)
    with pytest.raises(LabError):
        Apt.of(foreign, folder).locate(["lab-kernel"])
    os.utime(folder / "refreshed", (0, 0))
    assert Apt.of(foreign, folder).locate(["lab-kernel"])
    os.utime(folder / "refreshed", (0, 0))
    (archive / "Packages").unlink()
    assert Apt.of(foreign, folder).locate(["lab-kernel"])


def test_without_an_archive_of_that_architecture_there_is_nothing(
    foreign: Architecture, archive: Path, tmp_path: Path
) -> None:
    (archive / "Packages").unlink()
    with pytest.raises(LabError):
        Apt.of(foreign, tmp_path / "apt")
    assert not (tmp_path / "apt/refreshed").exists()


def test_this_machines_own_architecture_is_asked_of_its_own_apt(
    foreign: Architecture, tmp_path: Path
) -> None:
    own = next(one for one in Architecture if one is not foreign)
    assert Apt.of(own, tmp_path / "apt") == Apt()
    assert not (tmp_path / "apt").exists()
