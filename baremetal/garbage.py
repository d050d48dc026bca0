"""When the interpreter looks for unreachable cycles: every look stops all threads, and nobody is answered meanwhile.

A look through everything that a service with a thousand servers keeps takes 0.2 s and finds next to nothing; left to
itself the interpreter takes one every few seconds when a rack is switched on. So it looks through what is new as ever,
through everything once in a while, and never through what was imported.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY_S = 900.0
# Objects made and not freed before the newest are looked through; how often that before those which outlived it are;
# and how often that before everything is: never, `collect` is called instead.
_THRESHOLDS = (5_000, 10, 1_000_000)


@contextmanager
def loading() -> Iterator[None]:
    """Import in here: collecting between so many imports finds none and costs a tenth of a service's start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def seldom() -> None:
    """Leave looking through everything to `collect`, for the rest of this process."""
    gc.set_threshold(*_THRESHOLDS)


def collect() -> int:
    """Look through everything but imports now; return how many objects were freed."""
    return gc.collect()
