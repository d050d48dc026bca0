"""How long the command line takes to say what it can do, and the service to answer."""

from __future__ import annotations

import subprocess
import time
from argparse import Namespace
from statistics import median

from bench.figure import Figure
from bench.service import COMMAND, Service

TIMES = 3


def run(_: Namespace) -> list[Figure]:
    return [help_text(), *service()]


def help_text() -> Figure:
    took = []
    for _ in range(TIMES):
        began = time.monotonic()
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
        took.append(time.monotonic() - began)
    how = f"whole process, median of {TIMES}; slowest {max(took):.2f} s"
    return Figure("baremetal --help", median(took), "s", 0.3, how=how)


def service() -> list[Figure]:
    first, again, busy = [], [], []
    for _ in range(TIMES):
        with Service() as service:
            first.append(service.took_s)
            busy.append(service.cpu_s())
            service.stop()
            again.append(service.start())
    how = f"process start until both apps answered a request, median of {TIMES}; slowest"
    return [
        Figure(
            "service start, first (makes keys and database)",
            median(first),
            "s",
            2.0,
            how=f"{how} {max(first):.2f} s; {median(busy):.2f} s of processor time",
        ),
        Figure("service start, again", median(again), "s", 2.0, how=f"{how} {max(again):.2f} s"),
    ]
