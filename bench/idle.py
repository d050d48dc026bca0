"""The memory of an idle service that looks after a thousand servers."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from unittest.mock import patch

from bench.figure import Figure
from bench.service import Service, enrolments

SERVERS = 1000
# Twice the interval of the power watch: by then every BMC has been read, and most of them twice.
WATCHED_S = 40.0
SETTINGS = "[bmc]\nobserve_interval_s = 20\n"


def run(_: Namespace) -> list[Figure]:
    command = (sys.executable, "-m", "bench.simulated_service")
    with patch.dict(os.environ, {"BENCH_SERVERS": str(SERVERS)}), Service(SETTINGS, command) as service:
        empty = service.memory_mb()
        rows = enrolments(SERVERS, lambda number: f"sim://admin@bmc-{number}")
        service.post("/v1/servers", {"servers": rows})
        names = {row["name"] for row in rows}
        service.wait(names, lambda one: one["provision_state"] == "available", 300.0)
        began, used = time.monotonic(), service.cpu_s()
        time.sleep(WATCHED_S)
        busy = (service.cpu_s() - used) / (time.monotonic() - began)
        full = service.memory_mb()
    return [
        Figure(
            f"memory of an idle service with {SERVERS:,} simulated servers",
            full,
            "MB",
            150.0,
            how=f"PSS, children included, after enrolling and verifying them all and {WATCHED_S:.0f} s of "
            f"watching their power states; the simulated BMCs live in it too; {empty:.0f} MB without servers",
        ),
        Figure(
            "processor share meanwhile", 100 * busy, "%", how="of one core, each power state read every 20 s"
        ),
    ]
