"""Named crash points, so that tests can fail the program exactly where it hurts.

Owns the list of names, their modes and their arming by `BAREMETAL_FAILPOINTS`. Knows nothing of what happens
at a point: that is the caller's code. Unarmed, a point costs one look at an empty dictionary.

    BAREMETAL_FAILPOINTS="boot_set.send:before=kill,ssh.verify:after=delay:2,signal.complete:before=raise@1"

| mode | does |
|---|---|
| `kill` | SIGKILL to this process: nothing is flushed, nothing is unwound |
| `raise` | raises `FailpointError` |
| `pause` | stops this process (SIGSTOP) until somebody sends SIGCONT |
| `delay:SECONDS` | sleeps, in the calling thread only |

`@N` after a mode: at the Nth time only; without it, every time. What a point does is said on standard error first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum

VARIABLE = "BAREMETAL_FAILPOINTS"

PLACES = frozenset(
    [
        "api.accept",
        "run.create",
        "token.mint",
        "volume.create",
        "acl.set",
        "target.save",
        "power_off.send",
        "power_off.verify",
        "boot_set.send",
        "boot_set.verify",
        "power_on.send",
        "power_on.verify",
        "boot.serve",
        "answer.serve",
        "signal.started",
        "signal.complete",
        "boot_target.send",
        "boot_target.verify",
        "ssh.verify",
        "webhook.send",
        "release.off",
        "acl.remove",
        "volume.remove",
    ]
)
NAMES = frozenset(f"{place}:{side}" for place in PLACES for side in ("before", "after"))


class Mode(StrEnum):
    KILL = "kill"
    RAISE = "raise"
    PAUSE = "pause"
    DELAY = "delay"


class FailpointError(RuntimeError):
    """Raised at a point armed with `raise`: no error of ours, so that nothing handles it by name."""


@dataclass(slots=True)
class _Armed:
    mode: Mode
    delay_s: float = 0.0
    only: int | None = None
    hits: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_armed: dict[str, _Armed] = {}


def failpoint(name: str) -> None:
    """Do what `name` is armed with; nothing, cheaply, when it is not."""
    if not _armed:
        return
    point = _armed.get(name)
    if point is not None:
        _fire(name, point)
    elif name not in NAMES:
        raise ValueError(_unknown(name))


@contextmanager
def failpoints(place: str) -> Iterator[None]:
    """Stand around one effect: `place:before` on the way in, `place:after` on the way out unless it failed."""
    failpoint(f"{place}:before")
    yield
    failpoint(f"{place}:after")


def arm(spec: str) -> None:
    """Replace what is armed by `spec`, in the form of the module's docstring. Raises ValueError where it is wrong."""
    points = dict(_parse(part.strip()) for part in spec.split(",") if part.strip())
    _armed.clear()
    _armed.update(points)


def disarm() -> None:
    """Make every point a no-op again."""
    _armed.clear()


def hits(name: str) -> int:
    """How often the armed point `name` was passed."""
    point = _armed.get(name)
    return point.hits if point is not None else 0


def arm_from(environ: Mapping[str, str]) -> None:
    """Arm what the environment asks for; runs once when this module is imported."""
    if spec := environ.get(VARIABLE):
        arm(spec)


def _parse(part: str) -> tuple[str, _Armed]:
    name, equals, how = part.partition("=")
    if not equals:
        raise ValueError(f"{VARIABLE}: {part!r} is not NAME=MODE")
    if name not in NAMES:
        raise ValueError(_unknown(name))
    how, at, count = how.partition("@")
    mode, _, seconds = how.partition(":")
    if mode not in tuple(Mode):
        raise ValueError(f"{VARIABLE}: {name}: mode {mode!r} is none of {', '.join(Mode)}")
    if at and not (count.isdecimal() and int(count) > 0):
        raise ValueError(f"{VARIABLE}: {name}: @{count} is not a count from 1")
    try:
        delay_s = float(seconds) if mode == Mode.DELAY else 0.0
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {name}: delay {seconds!r} is not a number of seconds") from error
    return name, _Armed(Mode(mode), delay_s, int(count) if at else None)


def _unknown(name: str) -> str:
    near = get_close_matches(name, NAMES, n=1)
    return f"no failpoint {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _fire(name: str, point: _Armed) -> None:
    with point.lock:
        point.hits += 1
        if point.only is not None and point.hits != point.only:
            return
    # in one piece: print writes the end of a line by itself, and another thread's line may come between
    sys.stderr.write(f"failpoint {name}: {point.mode}\n")
    sys.stderr.flush()
    match point.mode:
        case Mode.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Mode.PAUSE:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Mode.DELAY:
            time.sleep(point.delay_s)
        case Mode.RAISE:
            raise FailpointError(f"failpoint {name}")


arm_from(os.environ)
