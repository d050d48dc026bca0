"""Guests of the lab: what names a recipe, and what is packed into its root."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.lab.guest import build
from baremetal.lab.guest.recipe import GuestFile, GuestRecipe
from baremetal.lab.guest.storage_host import STORAGE_HOST

SMALL = GuestRecipe(name="small", packages=("python3", "udev"), commands=("true",))


def test_every_change_of_a_recipe_is_another_digest() -> None:
    others = [
        replace(SMALL, packages=("curl",)),
        replace(SMALL, files={"etc/motd": GuestFile("hello\n")}),
        replace(SMALL, files={"etc/motd": GuestFile("hello\n", 0o600)}),
        replace(SMALL, commands=("false",)),
        replace(SMALL, modules=("virtio_blk",)),
        replace(SMALL, kernel_args="quiet"),
        replace(SMALL, size_mib=1024),
        replace(SMALL, bootable=True),
    ]
    digests = {each.digest for each in [SMALL, *others]}
    assert len(digests) == 1 + len(others)
    assert replace(SMALL).digest == SMALL.digest


def test_a_recipe_s_own_files_come_before_those_of_every_guest() -> None:
    own = replace(SMALL, files={"etc/fstab": GuestFile("/dev/sda2 / ext4 _netdev 0 1\n")})
    assert own.all_files["etc/fstab"].text.startswith("/dev/sda2")
    assert "LABEL=guest-root" in SMALL.all_files["etc/fstab"].text
    assert SMALL.all_packages.count("udev") == 1
    assert "virtio_blk\n" in SMALL.all_files["etc/initramfs-tools/modules"].text


def test_files_are_root_s_and_its_ssh_folder_private() -> None:
    packed = build._pack(
        {"root/.ssh/authorized_keys": GuestFile("key\n", 0o600), "etc/motd": GuestFile("hé\n")}
    )
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        modes = {member.name: member.mode for member in tar}
        assert modes == {"etc/motd": 0o644, "root/.ssh": 0o700, "root/.ssh/authorized_keys": 0o600}
        assert {member.uid for member in tar} == {0}
        content = tar.extractfile("etc/motd")
        assert content is not None
        assert content.read().decode() == "hé\n"


def test_what_was_built_today_is_taken_without_asking_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    built = tmp_path / f"small-{SMALL.digest}-0123456789ab"
    built.mkdir()
    assert build.build(SMALL, tmp_path).folder == built
    os.utime(built, (0, 0))
    assert build.build(SMALL, tmp_path).folder == built, "older, and no apt to ask"
    with pytest.raises(LabError):
        build.build(STORAGE_HOST, tmp_path)


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TOOLS", {"no-such-tool-anywhere": "some-package"})
    assert build.available() == (False, "not installed: some-package")
