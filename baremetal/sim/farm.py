"""Many simulated BMCs in a process of their own: `python -m baremetal.sim.farm --count 50 --knob reply_delay_s=0.02`.

Owns the process and the lines it talks in, so that a benchmark's own work and its BMCs do not share an interpreter.
Prints one line of JSON with the ports, answers each line `stats` with one, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

from baremetal.sim.bmc import Identity, SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.sim.knobs import Knobs
from baremetal.sim.rmcp import BmcFarm


class FarmProcess:
    """The parent's side: `with FarmProcess(50, {"reply_delay_s": 0.02}) as farm: farm.ports`."""

    def __init__(self, count: int, knobs: dict[str, Any] | None = None) -> None:
        words = [f"--knob={name}={json.dumps(value)}" for name, value in (knobs or {}).items()]
        self._command = [sys.executable, "-m", "baremetal.sim.farm", f"--count={count}", *words]
        self.ports: list[int] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.ports = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=10)

    def stats(self) -> list[dict[str, Any]]:
        """Say what each BMC has seen, in the order of `ports`: requests by command, power commands with their time.

        Times are `time.monotonic`, which all processes of a host share. Raises RuntimeError when the process is gone.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("stats\n")
        seen: list[dict[str, Any]] = self._read()
        return seen

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the farm's process ended with {self._process.wait()}")
        return json.loads(line)


def _stats(bmc: SimulatedBmc) -> dict[str, Any]:
    controls = [each for each in bmc.trace or () if each.name == "chassis-control"]
    return {
        "requests": dict(bmc.requests),
        "power": [{"at": each.at, "action": each.data[0] if each.data else None} for each in controls],
        "fired": dict(bmc.fired),
        "is_on": bmc.chassis.is_on,
    }


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m baremetal.sim.farm", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1, help="how many BMCs, a port each")
    parser.add_argument("--knob", action="append", default=[], metavar="NAME=JSON", help="turn a fault knob")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    turned = {name: json.loads(value) for name, _, value in (knob.partition("=") for knob in asked.knob)}
    bmcs = [
        SimulatedBmc(
            DummyChassis(),
            time.monotonic,
            Knobs(**turned),
            random.Random(asked.seed + number),
            identity=Identity(name=f"farm-{number}"),
            trace=True,
        )
        for number in range(asked.count)
    ]
    with BmcFarm() as farm:
        print(json.dumps([farm.add(bmc) for bmc in bmcs]), flush=True)
        for line in sys.stdin:
            if line.strip() == "stats":
                print(json.dumps(farm.call(lambda: [_stats(bmc) for bmc in bmcs])), flush=True)


if __name__ == "__main__":
    main()
