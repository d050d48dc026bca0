"""The private apt configuration: what is asked of apt, and what is kept. Apt itself is a script here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.lab.debian import fetch_installer, find_mirror

APT = """#!/bin/sh
echo "$@" >>{folder}/calls
case "$*" in
    *indextargets*) cat {folder}/targets ;;
    *update) for word; do case $word in Dir::Etc=*) cat "${{word#*=}}/sources.list" >>{folder}/calls ;; esac; done ;;
    *download*) : >debian-installer_1_amd64.deb ;;
esac
exit $(cat {folder}/status 2>/dev/null || echo 0)
"""
DPKG = """#!/bin/sh
kernel=$3/usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64
mkdir -p $kernel
echo kernel >$kernel/linux
echo initrd >$kernel/initrd.gz
"""
TARGETS = """http://other.test/tools main
http://mirror.test/debian-security/ main
http://mirror.test/debian/ contrib
http://mirror.test/debian/ main
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("apt-get", APT.format(folder=folder)), ("dpkg-deb", DPKG)):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    (folder / "targets").write_text(TARGETS)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_installer_is_fetched_once_from_the_mirror_of_the_machines_own_sources(
    tools: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    installer = fetch_installer("debian13", cache)
    assert installer.suite == "trixie"
    assert installer.kernel.read_text() == "kernel\n"
    assert installer.initrd.read_text() == "initrd\n"
    calls = (tools / "calls").read_text()
    assert "http://mirror.test/debian trixie main" in calls
    assert "signed-by=" in calls
    assert "download debian-installer-13-netboot-amd64" in calls
    assert fetch_installer("debian13", cache) == installer
    assert (tools / "calls").read_text() == calls
    assert sorted(os.listdir(cache)) == ["debian13-installer", "debian13-installer.lock"]


def test_failure_says_what_apt_said_and_leaves_nothing(tools: Path, tmp_path: Path) -> None:
    (tools / "status").write_text("100")
    with pytest.raises(LabError, match="apt-get"):
        fetch_installer("debian12", tmp_path / "cache", mirror="http://mirror.test/debian")
    assert os.listdir(tmp_path / "cache") == ["debian12-installer.lock"]


def test_no_mirror_in_the_sources_is_told(tools: Path) -> None:
    (tools / "targets").write_text("http://other.test/tools main\n")
    with pytest.raises(LabError, match="name no Debian mirror"):
        find_mirror()


def test_unknown_release_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="debian12, debian13"):
        fetch_installer("debian99", tmp_path)
