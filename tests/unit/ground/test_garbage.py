"""Looks through everything happen when they are asked for, and not whenever much was made.

What is set here holds for a whole process, so each case is one of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

LOOKS = """
import gc
from baremetal import garbage

looks = [0, 0, 0]
def look(phase, about):
    looks[about["generation"]] += phase == "stop"
gc.callbacks.append(look)
class Knot:
    def __init__(self):
        self.me = self
def knots(count):
    return [Knot() for _ in range(count)]
"""


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOOKS + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return done.stdout.strip()


# From there on the interpreter looks through a share of everything each time, and has no third threshold.
by_generations = pytest.mark.skipif(sys.version_info >= (3, 14), reason="looks are spread out by themselves")


@by_generations
def test_everything_is_looked_through_only_when_asked_for() -> None:
    said = _run(
        """
        garbage.seldom()
        kept = knots(700_000)
        print(looks[0] > 50, looks[1] > 5, looks[2])
        """
    )
    assert said == "True True 0"


@by_generations
def test_the_interpreter_left_to_itself_does_otherwise() -> None:
    """Or the test above would prove nothing."""
    assert _run("kept = knots(700_000); print(looks[2] > 0)") == "True"


def test_what_became_garbage_late_is_found_when_asked_for() -> None:
    said = _run(
        """
        garbage.seldom()
        kept = knots(200_000)
        del kept
        print(garbage.collect() >= 200_000)
        """
    )
    assert said == "True"


def test_loading_collects_nothing_and_sets_aside_what_it_made() -> None:
    said = _run(
        """
        with garbage.loading():
            enabled = gc.isenabled()
            kept = knots(100_000)
        print(enabled, sum(looks), gc.isenabled(), gc.get_freeze_count() > 100_000)
        """
    )
    assert said == "False 0 True True"


def test_loading_ends_however_it_ends() -> None:
    said = _run(
        """
        try:
            with garbage.loading():
                raise ImportError
        except ImportError:
            print(gc.isenabled())
        """
    )
    assert said == "True"
