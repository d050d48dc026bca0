"""Colour, where it is wanted: on a terminal, without NO_COLOR. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Self, TextIO

_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}
_STATES = {
    "active": "green",
    "available": "cyan",
    "deploy failed": "red",
    "error": "red",
    "clean failed": "red",
    "inspect failed": "red",
    "rescue": "yellow",
    "rescue failed": "red",
    "unrescue failed": "red",
    "enroll": "yellow",
    "manageable": "blue",
}


@dataclass(frozen=True, slots=True)
class Paint:
    """Wraps text in colour, or leaves it as it is."""

    on: bool

    def __call__(self, text: str, *styles: str) -> str:
        if not self.on or not styles:
            return text
        return f"\x1b[{';'.join(str(_CODES[style]) for style in styles)}m{text}\x1b[0m"

    def state(self, text: str) -> str:
        """Paint a provision state; what moves is yellow."""
        return self(text, _STATES.get(text, "yellow"))

    @classmethod
    def stdout(cls) -> Self:
        return cls(wants_colour(sys.stdout))

    @classmethod
    def stderr(cls) -> Self:
        return cls(wants_colour(sys.stderr))


def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches this stream."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def wants_colour(stream: TextIO) -> bool:
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def say(text: str = "") -> None:
    """Talk to the person: on stderr, so that stdout holds data only."""
    print(text, file=sys.stderr, flush=True)
