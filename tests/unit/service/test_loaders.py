"""Where the loaders' programs are found, and which are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.service.media.loaders import PROGRAMS, Loaders, Missing, Program


@pytest.fixture
def loaders(tmp_path: Path) -> Loaders:
    """The operator's folder before a package's: `pxelinux.0` is in both, `undionly.kpxe` in the package alone."""
    own, package = tmp_path / "loaders", tmp_path / "usr"
    own.mkdir()
    package.mkdir()
    for folder, name in ((own, "pxelinux.0"), (package, "pxelinux.0"), (package, "undionly.kpxe")):
        (folder / name).write_text(f"{folder.name} {name}")
    programs = {
        name: Program(package / name, "pkg") for name in ("pxelinux.0", "undionly.kpxe", "ldlinux.c32")
    }
    return Loaders(own, programs | {"ipxe-arm64.efi": Program(None)})


def test_the_operators_folder_wins(loaders: Loaders) -> None:
    for name, text in (("pxelinux.0", "loaders pxelinux.0"), ("undionly.kpxe", "usr undionly.kpxe")):
        found = loaders.find(name)
        assert found is not None
        assert found.path.read_text() == text


def test_any_folder_and_either_case(loaders: Loaders) -> None:
    """S3-1: firmware asks as DHCP spelled it; shim asks beside itself."""
    (loaders.folder / "BOOTX64.EFI").write_text("as it came from the medium")
    for name in ("UNDIONLY.KPXE", "boot/undionly.kpxe", "a/b/c/d/undionly.kpxe", "BOOTX64.EFI"):
        assert loaders.find(name) is not None, name


@pytest.mark.parametrize(
    "name",
    ["", "/", "..", "../secret", "a/../pxelinux.0", ".hidden", "pxelinux.0/", "/pxelinux.0", "a//pxelinux.0",
     "a/b/c/d/e/pxelinux.0", "pxelinux.0\x00", "pxelinux.0\n", "nothing.efi", "x" * 200],
)  # fmt: skip
def test_nothing_else_is_served(loaders: Loaders, name: str) -> None:
    (loaders.folder / ".hidden").write_text("x")
    (loaders.folder.parent / "secret").write_text("x")
    assert loaders.find(name) is None


def test_a_folder_or_a_pipe_is_no_loader(loaders: Loaders) -> None:
    (loaders.folder / "boot").mkdir()
    assert loaders.find("boot") is None


def test_what_is_missing_and_who_has_it(loaders: Loaders) -> None:
    """pxelinux.0 is no use without ldlinux.c32."""
    missing = loaders.missing(["undionly.kpxe", "pxelinux.0", "ipxe-arm64.efi"])
    assert missing == [
        Missing("ldlinux.c32", "pkg", loaders.folder),
        Missing("ipxe-arm64.efi", "", loaders.folder),
    ]
    assert "apt-get install pkg" in missing[0].fix
    assert "no package" in missing[1].fix


def test_a_missing_loader_is_named_without_the_folder_that_is_asked_for(tmp_path: Path) -> None:
    """UEFI HTTP boot asks for `loaders/ipxe.efi`, which is the same program."""
    loaders = Loaders(tmp_path, {"ipxe.efi": Program(tmp_path / "nowhere", "ipxe")})
    assert loaders.missing(["loaders/ipxe.efi"]) == [Missing("ipxe.efi", "ipxe", tmp_path)]


def test_every_name_is_in_the_form_in_which_it_is_looked_up() -> None:
    assert all(name == name.lower() for name in PROGRAMS)
    assert {"undionly.kpxe", "ipxe.efi", "snponly.efi", "pxelinux.0", "lpxelinux.0", "grubx64.efi"} <= set(
        PROGRAMS
    )
