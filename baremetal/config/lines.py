"""Finds the line on which a TOML text gives a key, so that a complaint can name it.

Not a parser: `tomllib` has accepted the text before anybody asks here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_KEY = r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[A-Za-z0-9_-]+)"
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"^\s*\[\[?\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"^\s*({_DOTTED})\s*=")


def find_line(text: str, keys: Sequence[str]) -> int | None:
    """Find the line, from 1, on which a TOML text gives the key; of an inline table, the line where that begins."""
    best: tuple[int, int] | None = None  # how many keys agree, line
    table: list[str] = []
    quotes = ""
    for number, line in enumerate(text.splitlines(), 1):
        if quotes:  # inside a string of several lines
            if line.count(quotes) % 2:
                quotes = ""
            continue
        if header := _HEADER.match(line):
            table = _split_key(header[1])
            here = table
        elif assignment := _ASSIGNMENT.match(line):
            here = table + _split_key(assignment[1])
        else:
            continue
        quotes = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
        if here[: len(keys)] == list(keys):
            return number
        if here == list(keys[: len(here)]) and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None


def _split_key(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_KEY, dotted)]
