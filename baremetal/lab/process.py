"""Processes that outlive the command that started them: is it still ours, and how to end it.

A process id by itself proves nothing, because ids are used again: every question also names words that must stand in
the process's own command line. Owns no files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def is_running(pid: int, *words: str) -> bool:
    """Say whether this process exists, has not ended, and was started with all of these words as whole arguments."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    ended = stat.rpartition(")")[2].split()[0] in ("Z", "X")
    return not ended and all(word in arguments for word in words)


def end(pid: int, *words: str, grace_s: float) -> bool:
    """End a process of ours: ask, wait, then kill. Return whether there was one. Idempotent."""
    if not is_running(pid, *words):
        return False
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not is_running(pid, *words):
                return True
            time.sleep(0.05)
    return True


def read_pid(path: Path) -> int | None:
    """Return the process id in a file, or None when there is none."""
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
