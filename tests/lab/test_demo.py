"""The demo on real firmware, as `./dev demo` runs it: a system is deployed, logged in to, and nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from baremetal.lab.rack import available
from tests.evidence import record
from tests.unit.netboot.shipped import shipped

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def test_the_demo_deploys_logs_in_and_cleans_up(tmp_path: Path) -> None:
    possible, why = available()
    if not possible:
        pytest.skip(why)
    # The built media are kept in this user's cache, everything else below TMPDIR.
    done = subprocess.run(
        [sys.executable, "-m", "baremetal", "lab", "demo"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for milestone in ("boot script fetched", "go ", "install complete", "first boot", "proof by SSH"):
        assert f"✓ {milestone}" in done.stdout
    assert "✓ r1 is active after" in done.stdout
    if shutil.which("ssh"):
        assert re.search(r"^[0-9a-f]{32}/2\nLinux r1 ", done.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
    record(shipped()["tiny"], "booted", "deployed to a proven system in QEMU, by every test run")
