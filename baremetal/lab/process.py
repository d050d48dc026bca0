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
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return _started(pid) is not None and all(word in arguments for word in words)


def end(pid: int, *words: str, grace_s: float) -> bool:
    """End a process of ours: ask, wait, then kill. Return whether there was one. Idempotent."""
    started = _started(pid)
    if started is None or not is_running(pid, *words):
        return False
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if _started(pid) != started:  # not `is_running`: one that is ending has no arguments any more
                return True
            time.sleep(0.05)
    return True


def _started(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks; None when there is none or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def read_pid(path: Path) -> int | None:
    """Return the process id in a file, or None when there is none."""
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
