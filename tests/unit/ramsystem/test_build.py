"""What is read out of kernel packages, wherever a release of Debian puts it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from baremetal.ramsystem.build import firmware_named_by
from baremetal.ramsystem.packages import unpack
from baremetal.ramsystem.parts import needs_of


def test_every_firmware_that_a_driver_names_is_known() -> None:
    module = b"\0license=GPL\0firmware=bnx2/one.fw\0firmware=bnx2/two.fw\0firmware=tigon/tg3.bin\0depends=\0"
    assert firmware_named_by(module) == ["bnx2/one.fw", "bnx2/two.fw", "tigon/tg3.bin"]


def test_what_a_driver_needs_is_known() -> None:
    assert needs_of(b"\0license=GPL\0depends=mdio,libcrc32c\0") == ["mdio", "libcrc32c"]
    assert needs_of(b"\0depends=\0") == needs_of(b"none") == []


@pytest.mark.parametrize("place", ["lib/modules", "usr/lib/modules"])
def test_modules_are_found_in_either_place(place: str, tmp_path: Path) -> None:
    """Debian 12 has them in the first, Debian 13 in the second."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg is Debian's")
    made = tmp_path / "made"
    driver = made / place / "6.12.0-1-amd64/kernel/drivers/one.ko"
    driver.parent.mkdir(parents=True)
    driver.write_bytes(b"driver")
    (made / "DEBIAN").mkdir()
    (made / "DEBIAN/control").write_text(
        "Package: one\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: one\n"
    )
    subprocess.run(
        ["dpkg-deb", "--build", str(made), str(tmp_path / "one.deb")], check=True, capture_output=True
    )
    root = tmp_path / "root"
    unpack([tmp_path / "one.deb"], root)
    assert [path.name for path in (root / "lib/modules").rglob("*.ko")] == ["one.ko"]
