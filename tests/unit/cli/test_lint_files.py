"""`baremetal profile lint --file`: files of one's own, checked without a service."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from baremetal.cli.profiles import app
from tests.unit.netboot.test_rules import ARTICLE


def test_a_faulty_file_is_told_by_line_and_ends_with_7(tmp_path: Path) -> None:
    (tmp_path / "default").write_text(ARTICLE)
    (tmp_path / "ok.ipxe").write_text("#!ipxe\nexit\n")
    done = CliRunner().invoke(
        app, ["profile", "lint", "--file", str(tmp_path / "ok.ipxe"), "--file", str(tmp_path / "default")]
    )
    assert done.exit_code == 7
    assert f"{tmp_path}/ok.ipxe: iPXE script: no problems\n" in done.stdout
    assert f"{tmp_path}/default: pxelinux configuration: 2 problems\n" in done.stdout
    assert "  1: error: default menu names a label that does not exist" in done.stdout


def test_a_clean_file_ends_with_0(tmp_path: Path) -> None:
    (tmp_path / "grub.cfg").write_text("set timeout=1\n")
    done = CliRunner().invoke(app, ["profile", "lint", "--file", str(tmp_path / "grub.cfg")])
    assert done.exit_code == 0
