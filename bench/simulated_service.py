"""A service with simulated BMCs plugged into its own process: `python -m bench.simulated_service serve --config FILE`.

Is the ordinary service in everything else. Takes the words that `baremetal` takes, so that `bench/service.py` starts
either; how many BMCs there are is in BENCH_SERVERS.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from baremetal import garbage


def main() -> None:
    with garbage.loading():
        from baremetal.config import load
        from baremetal.drivers import sim
        from baremetal.serving import serve
        from baremetal.sim.bmc import SimulatedBmc
        from baremetal.sim.chassis import DummyChassis

    dice = random.Random(0)  # one for all: each would be two and a half kilobytes
    for number in range(int(os.environ["BENCH_SERVERS"])):
        sim.plug(f"bmc-{number}", SimulatedBmc(DummyChassis(), time.monotonic, rng=dice), time.sleep)
    serve(load(Path(sys.argv[sys.argv.index("--config") + 1])))


if __name__ == "__main__":
    main()
