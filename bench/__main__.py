"""`./dev bench [NAME …]`: run the benchmarks named, or all, and print each figure beside its bound."""

from __future__ import annotations

import argparse
import importlib
import sys

from bench.figure import Figure, conditions

NAMES = ("start", "bmc", "storage", "boot", "storm", "render", "idle", "simulation", "demo", "tftp", "media")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; without one, all"
    )
    parser.add_argument("--lives", type=int, default=10_000, help="simulation: how many lives")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    print(conditions(), flush=True)
    missed = 0
    for name in asked.names or NAMES:
        print(f"\n== {name}", flush=True)
        found: list[Figure] = importlib.import_module(f"bench.{name}").run(asked)
        for figure in found:
            print(figure.line(), flush=True)
        missed += sum(not figure.is_met for figure in found)
    print(f"\n{missed} of the bounds missed" if missed else "\nall bounds met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
