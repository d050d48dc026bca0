"""The demo as a person runs it, with the simulated machine; the one with QEMU is in tests/lab."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "baremetal", "lab", "demo", "--simulated"]


def surroundings(folder: Path) -> dict[str, str]:
    """Make an environment of its own: nothing of this host's service, temporary files in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAREMETAL_")}
    # The demo is not to be led astray by the settings of a service that runs here.
    return kept | {"TMPDIR": str(folder), "BAREMETAL_SERVER__DATA_DIR": "/nonexistent"}


@pytest.mark.timeout(330)
def test_the_demo_deploys_and_cleans_up(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND,
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "a server simulated at the packet level" in done.stdout
    assert "✓ r1 is active after" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(330)
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen(
        COMMAND, env=surroundings(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if "power on" in line:
            break
    time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert said.strip() == "Interrupted; cleaning up"
    assert list(tmp_path.iterdir()) == []
    mine = f"{tmp_path}/"
    assert not [pid for pid in _processes() if mine in pid]


def _processes() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found
