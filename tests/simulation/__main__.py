"""The simulation by itself: `./dev sim --seeds N [--seed S]`. Prints what fired, which edges were taken, what broke."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import traceback
from pathlib import Path

from baremetal import garbage
from tests.simulation.broken import Broken
from tests.simulation.faults import DISKLESS, KNOBS
from tests.simulation.lives import Lives, Tally, quiet
from tests.simulation.world import frozen_templates


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many lives")
    parser.add_argument(
        "--seed", type=int, default=0, help="the first seed; with --seeds 1, the one to replay"
    )
    parser.add_argument(
        "--diskless", type=float, default=DISKLESS, help="the share of servers that boot from a storage host"
    )
    asked = parser.parse_args()
    total, broken, began = Tally(), [], time.monotonic()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        lives = Lives(frozen_templates(Path(folder)), diskless=asked.diskless)
        gc.freeze()  # what is imported stays: no use in looking through it for garbage again and again
        garbage.seldom()  # as a served process does
        for seed in range(asked.seed, asked.seed + asked.seeds):
            try:
                total.add(lives.live(seed))
            except Broken as error:
                broken.append((seed, str(error)))
                if asked.seeds == 1:
                    traceback.print_exc()
        lives.close()
    print(report(total, time.monotonic() - began))
    for seed, what in broken[:20]:
        print(
            f"BROKEN seed {seed}: {what}\n       replay: ./dev sim --seeds 1 --seed {seed} --diskless {asked.diskless}"
        )
    print(f"{total.lives} lives, {len(broken)} broken")
    return 1 if broken else 0


def report(total: Tally, seconds: float) -> str:
    """Say how often each knob fired and each edge was taken."""
    lines = [
        f"{total.lives} lives in {seconds:.1f} s ({1000 * seconds / max(total.lives, 1):.1f} ms each)",
        "",
        "knobs",
    ]
    lines += [f"  {name:<18} {total.fired[name]:>8}" for name in sorted({*KNOBS, *total.fired})]
    lines += ["", "edges"]
    lines += [f"  {edge:<46} {times:>8}" for edge, times in sorted(total.edges.items())]
    lines += ["", "ends"]
    lines += [f"  {state:<18} {times:>8}" for state, times in sorted(total.ends.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
