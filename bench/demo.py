"""The whole of `./dev demo`, and in it the deploy itself, from power-on to proof, by the events that it recorded."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
import time
from argparse import Namespace
from contextlib import closing, suppress
from pathlib import Path
from statistics import median

from bench.figure import ROOT, Figure

RUNS = 3
LONGEST_S = 600.0
_EVENTS = "SELECT at, note, from_state, to_state FROM history WHERE kind = 'decision' ORDER BY id"
Event = tuple[int, str, str | None, str | None]


def run(_: Namespace) -> list[Figure]:
    whole, deploy, said = [], [], ""
    for _number in range(RUNS):
        took, events, said = _demo()
        whole.append(took)
        deploy.append(_power_on_to_proof(events))
    how = f"median of {RUNS}, slowest"
    machine = (
        "QEMU without hardware virtualisation" if "QEMU" in said else "the packet-level simulated machine"
    )
    return [
        Figure(
            "./dev demo, whole process, packages cached",
            median(whole),
            "s",
            60.0,
            how=f"{how} {max(whole):.1f} s; {machine}",
        ),
        Figure(
            "the deploy, power-on to proof",
            median(deploy),
            "s",
            35.0,
            how=f"{how} {max(deploy):.1f} s; from the recorded intention to power on to the commit of active",
            quoted=("a rig put together by hand: 20.5 s to the first call from the installed system",),
        ),
    ]


def _demo() -> tuple[float, list[Event], str]:
    """Run the demo once, copying its history while it lives: it cleans up after itself."""
    with tempfile.TemporaryDirectory(prefix="bm-") as folder:
        with (Path(folder) / "said").open("w+") as said:
            began = time.monotonic()
            process = subprocess.Popen(
                [str(ROOT / "dev"), "demo"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "TMPDIR": folder},
            )
            events: list[Event] = []
            while process.poll() is None:
                events = _history(Path(folder)) or events
                if time.monotonic() - began > LONGEST_S:
                    process.terminate()
                time.sleep(0.2)
            took = time.monotonic() - began
            said.seek(0)
            text = said.read()
        if process.returncode != 0:
            raise RuntimeError(f"the demo ended with {process.returncode}:\n{text[-3000:]}")
        return took, events, text


def _history(folder: Path) -> list[Event]:
    for path in folder.glob("baremetal-demo-*/data/*.sqlite3"):
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as database,
        ):
            return database.execute(_EVENTS).fetchall()
    return []


def _power_on_to_proof(events: list[Event]) -> float:
    on = next(at for at, note, _, _ in events if note == "intends power on")
    active = next(at for at, _, before, after in events if after == "active" and before != after and at > on)
    return (active - on) / 1e6
