"""Prints data on stdout: as a table for people, as JSON, YAML or bare names for programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from baremetal.cli.options import Output
from baremetal.cli.paint import Paint, is_terminal

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Any], str]]
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def emit(data: Any, form: Output) -> bool:
    """Print `data` in a form for programs; False for a table, which is the caller's to print."""
    if form is Output.TABLE:
        return False
    if form is Output.JSON:
        print(json.dumps(data, indent=2, ensure_ascii=False, default=str))
    elif form is Output.YAML:
        import yaml

        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")
    else:
        for row in data if isinstance(data, list) else [data]:
            print(row.get("name") or row.get("mac") or row.get("server") or row.get("id"))
    return True


def table(rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """Print aligned columns under upper-case headings; on a terminal the last column is cut to its width."""
    paint = Paint.stdout()
    cells = [[read(row) or "-" for _, read in columns] for row in rows]
    widths = [
        max([len(title), *(visible(line[at]) for line in cells)]) for at, (title, _) in enumerate(columns)
    ]
    room = shutil.get_terminal_size((120, 24)).columns if is_terminal(sys.stdout) else 0
    print(paint(_line([title for title, _ in columns], widths), "bold"))
    for line in cells:
        if room:
            left = room - sum(widths[:-1]) - 2 * (len(widths) - 1)
            if left >= 8 and visible(line[-1]) > left:
                line[-1] = _ANSI.sub("", line[-1])[: left - 1] + "…"
        print(_line(line, widths))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - visible(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def visible(text: str) -> int:
    """How many characters of a text are seen."""
    return len(_ANSI.sub("", text))


def fields(pairs: Sequence[tuple[str, str]]) -> None:
    """Print facts, one a line, the words aligned; empty ones are left out."""
    paint = Paint.stdout()
    wide = max((len(word) for word, value in pairs if value), default=0)
    for word, value in pairs:
        if value:
            first, *more = value.split("\n")
            print(f"{paint(word.ljust(wide), 'dim')}  {first}")
            for line in more:
                print(f"{'':{wide}}  {line}")


def ago(value: str | None) -> str:
    """Say how long ago a time of the API was."""
    if not value:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(value.replace("Z", "+00:00"))).total_seconds()
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {word} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def in_bytes(count: int) -> str:
    """Write a size for people, in powers of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
