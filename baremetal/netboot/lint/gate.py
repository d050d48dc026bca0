"""Go, as a linter sees it: nothing is written before it was asked for, and the run's call-backs are there (I3, I18).

Owns these two judgements over lines of shell, for every installer. Deliberately unknown: the installers' own files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from baremetal.netboot.lint.finding import Finding, Severity

SIGNALS = ("install-started", "install-complete", "install-failed")
WRITES = re.compile(
    r"^\s*(dd\b.*\bof=/dev/|wipefs\b|sgdisk\b|sfdisk\b|parted\b|fdisk\s+/dev|mkfs[. ]|mkswap\b|pvcreate\b|vgcreate\b"
    r"|lvcreate\b|blkdiscard\b|shred\b.*/dev/|mdadm\b.*--create|nvme\s+format|hdparm\b.*--security-erase"
    r"|(?:coreos-installer\s+install|flatcar-install)\b)"
)
ASKS = re.compile(r"^\s*bm_ask_(go|wipe)\b(?!\s*\()")


def write_before_go(lines: Sequence[str], among: Collection[int] | None = None) -> int | None:
    """Return the number of the first line that writes a disk before go is asked for; `among` limits the lines."""
    for number, line in enumerate(lines, 1):
        if among is not None and number not in among:
            continue
        if ASKS.match(line) or ("install-started" in line and "bm_call" not in line):
            return None
        if WRITES.match(line):
            return number
    return None


def script_rules(scripts: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Check scripts that run before the install, by file name: none writes a disk before it asks for go."""
    for name, text in scripts:
        line = write_before_go(text.splitlines())
        if line is not None:
            yield Finding.problem(name, line, BEFORE_GO)


def signal_rules(texts: Iterable[str], file: str, wanted: Sequence[str] = SIGNALS) -> Iterator[Finding]:
    """Check that each signal of a run is sent by one of the files that its machine is served."""
    everything = list(texts)
    for signal in wanted:
        if not any(signal in text for text in everything):
            severity = Severity.WARNING if signal == "install-failed" else Severity.ERROR
            message = (
                f"never calls back with {signal}: include the shipped partials, or the run can only time out"
            )
            yield Finding(severity, message, file, rendered=True)


BEFORE_GO = "a disk is written before the call-back install-started has answered go"
