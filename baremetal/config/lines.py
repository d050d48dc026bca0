"""Finds the line on which a TOML text gives a key, so that a complaint can name it.

Not a parser: `tomllib` has accepted the text before anybody asks here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_KEY = r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[A-Za-z0-9_-]+)"
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"^\s*(\[\[?)\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"^\s*({_DOTTED})\s*=")


def find_line(text: str, keys: Sequence[str]) -> int | None:
    """Find the line, from 1, on which a TOML text gives the key; of an inline table, the line where that begins.

    A table of an array has its number among the keys: `("dhcp", "subnet", "1", "mask")` is in the second
    `[[dhcp.subnet]]`.
    """
    best: tuple[int, int] | None = None  # how many keys agree, line
    table: list[str] = []
    arrays: Counter[tuple[str, ...]] = Counter()
    quotes = ""
    for number, line in enumerate(text.splitlines(), 1):
        if quotes:  # inside a string of several lines
            if line.count(quotes) % 2:
                quotes = ""
            continue
        if header := _HEADER.match(line):
            table = _split_key(header[2])
            if header[1] == "[[":
                arrays[tuple(table)] += 1
            for length in range(
                len(table), 0, -1
            ):  # from the inside, so that the numbers do not shift the rest
                if number_of := arrays[tuple(table[:length])]:
                    table.insert(length, str(number_of - 1))
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
