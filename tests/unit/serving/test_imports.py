"""What a service does not use is not loaded: its memory, when it is idle, is its imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# Each is megabytes, and wanted by some services only, or for a moment.
SPARED = ("alembic", "mako", "paramiko", "pycdlib", "pyghmi", "sqlalchemy.dialects.postgresql", "yaml")


def test_a_service_starts_without_what_it_may_never_need() -> None:
    program = f"import sys, baremetal.serving; print(*sorted(set({SPARED!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout.strip() == ""
