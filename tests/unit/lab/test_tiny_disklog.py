"""The disk's own log as the host reads it."""

from __future__ import annotations

from pathlib import Path

from baremetal.lab.tiny.disklog import JOURNAL_BYTES, JOURNAL_MAGIC, count_installs, read_disk_log


def disk_with(folder: Path, journal: bytes) -> Path:
    disk = folder / "disk.img"
    disk.write_bytes(b"\xff" * 4096 + journal.ljust(JOURNAL_BYTES, b"\0"))
    return disk


def test_a_blank_disk_was_never_installed(tmp_path: Path) -> None:
    assert read_disk_log(disk_with(tmp_path, b"")) == []


def test_a_disk_too_small_for_a_log_has_none(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"x")
    assert read_disk_log(tmp_path / "disk.img") == []


def test_foreign_data_is_no_log(tmp_path: Path) -> None:
    assert read_disk_log(disk_with(tmp_path, b"partitioning run=1\n")) == []


def test_reads_the_lines_in_order_and_counts_installs(tmp_path: Path) -> None:
    lines = ["partitioning run=a/1 boot_id=b at=3.1", "complete run=a/1", "partitioning run=a/2"]
    disk = disk_with(tmp_path, JOURNAL_MAGIC + "".join(f"{line}\n" for line in lines).encode())
    assert read_disk_log(disk) == lines
    assert count_installs(disk) == 2


def test_a_line_cut_by_a_power_loss_is_still_shown(tmp_path: Path) -> None:
    disk = disk_with(tmp_path, JOURNAL_MAGIC + b"partitioning run=a/1\npartitioning ru")
    assert read_disk_log(disk) == ["partitioning run=a/1", "partitioning ru"]
