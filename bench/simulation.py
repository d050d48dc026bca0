"""How long ten thousand simulated lives take on one core."""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from baremetal import garbage
from bench.figure import Figure
from tests.simulation.lives import Lives, Tally, quiet
from tests.simulation.world import frozen_templates

PROMISED = 10_000
PROMISED_S = 180.0


def run(asked: Namespace) -> list[Figure]:
    count: int = asked.lives
    total = Tally()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        lives = Lives(frozen_templates(Path(folder)))
        gc.freeze()  # both as the command does
        garbage.seldom()
        began, used = time.monotonic(), _cpu_s()
        for seed in range(count):
            total.add(lives.live(seed))
        wall, cpu = time.monotonic() - began, _cpu_s() - used
        lives.close()
    how = f"one process; {1000 * cpu / count:.1f} ms of processor time a life; any broken promise would have ended it"
    bound = PROMISED_S * count / PROMISED
    return [
        Figure(f"{total.lives:,} simulated lives, wall time", wall, "s", bound, how=how),
        Figure(f"{total.lives:,} simulated lives, processor time", cpu, "s", bound),
    ]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
