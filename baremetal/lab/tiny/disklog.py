"""The disk's own log: what installers wrote to a disk, read from outside the guest.

The tiny installer keeps the last 64 KiB of its target disk as an append-only text journal, which no image covers: one
line before its first write to the disk, one after its last post script. Nothing else can say as plainly how often a
disk was installed. Knows the journal's place and form; what the lines mean is for the reader.
"""

from __future__ import annotations

from pathlib import Path

JOURNAL_BYTES = 64 * 1024
JOURNAL_MAGIC = b"tiny disk journal 1\n"


def read_disk_log(path: Path) -> list[str]:
    """Read the journal of a raw disk image, oldest line first; a disk that was never installed has none."""
    with path.open("rb") as disk:
        size = disk.seek(0, 2)
        if size < JOURNAL_BYTES:
            return []
        disk.seek(size - JOURNAL_BYTES)
        journal = disk.read(JOURNAL_BYTES)
    if not journal.startswith(JOURNAL_MAGIC):
        return []
    text = journal[len(JOURNAL_MAGIC) :].split(b"\0", 1)[0]
    return text.decode("utf-8", "replace").splitlines()


def count_installs(path: Path) -> int:
    """Count how often an installer began to write to this disk."""
    return sum(line.startswith("partitioning ") for line in read_disk_log(path))
