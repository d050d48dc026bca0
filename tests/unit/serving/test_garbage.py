"""A served process looks for garbage as `baremetal.garbage` says, and its ticks see to it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Ends the service where it would wait for a signal, with everything built that is built before.
PROGRAM = """
import gc, sys
from baremetal import garbage, serving
from baremetal.config import Config

async def look(config, halt, ready=None):
    app = serving.build(config, boot_port=1)
    try:
        (job,) = [job for job in app.ticks._scheduler.get_jobs() if job.id == "garbage"]
        print(gc.get_threshold() == garbage._THRESHOLDS, job.trigger.interval.total_seconds() == garbage.EVERY_S)
        looks = []
        gc.callbacks.append(lambda phase, about: looks.append(about["generation"]))
        job.func()
        print(2 in looks)
    finally:
        app.store.close()

serving.run = look
serving.serve(Config.model_validate({"server": {"data_dir": sys.argv[1], "public_url": "http://127.0.0.1:1"}}))
"""


def test_everything_is_looked_through_by_a_tick_and_by_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout.split(), done.returncode) == (["True", "True", "True"], 0), done.stderr
