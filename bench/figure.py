"""A measured figure beside its bound, and the conditions it was measured under."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

ROOT = Path(__file__).parent.parent


def load() -> float:
    """Return the load average of the last minute: who shares the machine shows in every figure."""
    return os.getloadavg()[0]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. `bound` None: told for comparison, promised by nobody. `load` is taken when it is made."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False
    how: str = ""
    quoted: Sequence[str] = ()
    load: float = field(default_factory=load)

    @property
    def is_met(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        """Write the figure, its bound, the load at the time, and how it was measured."""
        bound = "no bound"
        if self.bound is not None:
            sign = "≥" if self.at_least else "≤"
            bound = f"bound {sign} {_number(self.bound)} {self.unit}: {'met' if self.is_met else 'MISSED'}"
        lines = [f"{self.what}: {_number(self.value)} {self.unit}   ({bound}; load {self.load:.1f})"]
        lines += [f"    {text}" for text in (self.how, *self.quoted) if text]
        return "\n".join(lines)


def conditions() -> str:
    """Say when, where and of which commit: what a figure is worth nothing without."""
    cores = len(os.sched_getaffinity(0))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{now}, {cores} cores ({_processor()}), {python}, {platform.system()} {platform.release()}, {_commit()}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: a value that was measured, never one between two."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "baremetal", "tests")
    except (OSError, subprocess.CalledProcessError):
        return "no git commit"
    return f"commit {name}" + (", with uncommitted changes" if changed else "")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
