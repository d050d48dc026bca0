"""What the key of the proof may do on a deployed system, in the shells that deployed systems have."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from baremetal.netboot.context import PROOF_COMMAND

pytestmark = pytest.mark.slow  # real shells, and a second that they sleep
# Not Busybox': its shell takes its own poweroff for the one that was meant.
SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]
RUN = "cat /etc/baremetal/run"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with programs of those names that only write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cat", "poweroff", "reboot", "rm", "id"):
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" | sed "s/ $//" >>{tmp_path}/calls\n')
        (folder / name).chmod(0o755)
    return folder


def _ask(shell: str, programs: Path, asked: str | None) -> tuple[str, list[str]]:
    """Have a shell run the forced command; return what it says, and what was called within two seconds."""
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    if asked is not None:
        environment["SSH_ORIGINAL_COMMAND"] = asked
    done = subprocess.run(
        [shell, "-c", PROOF_COMMAND], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    calls = programs.parent / "calls"
    until = time.monotonic() + 5.0
    while not (calls.exists() and calls.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    return done.stdout.strip(), calls.read_text().splitlines()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("word", ["poweroff", "reboot"])
def test_it_says_that_it_will_and_then_ends_in_order(shell: str, word: str, programs: Path) -> None:
    """S4-17: the answer is out before the system goes down."""
    assert _ask(shell, programs, word) == (word, [word])


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "asked",
    [
        None,
        "",
        "true",
        "id",
        "poweroff; rm -rf /",
        "poweroff -f",
        "poweroff\nid",
        "$(id)",
        "`id`",
        "*",
        "reboot|id",
    ],
)
def test_whatever_else_is_asked_it_shows_the_run(shell: str, asked: str | None, programs: Path) -> None:
    assert _ask(shell, programs, asked) == ("", [RUN])


def test_it_stands_in_one_line_between_quotes() -> None:
    assert not set(PROOF_COMMAND) & set('"\\\n')
