"""Windows' batch files, as far as a linter on Linux can read them: jumps that go nowhere, brackets left open.

Deliberately unknown: what the programs in them do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from baremetal.netboot.lint.finding import Finding

_LABEL = re.compile(r"^:([A-Za-z0-9_-]+)\s*$")
_GOTO = re.compile(r"\bgoto\s+:?([A-Za-z0-9_-]+)", re.I)


def check_batch(text: str, file: str) -> Iterator[Finding]:
    """Check that every label that is jumped to is there, once."""
    lines = text.splitlines()
    labels = [found[1].lower() for line in lines if (found := _LABEL.match(line))]
    for label in {label for label in labels if labels.count(label) > 1}:
        yield Finding.problem(file, None, f"the label {label} is there twice")
    for number, line in enumerate(lines, 1):
        if line.lower().startswith("rem "):
            continue
        for label in _GOTO.findall(line):
            if label.lower() not in (*labels, "eof"):
                yield Finding.problem(file, number, f"goto {label}: there is no such label")
        if line.count('"') % 2:
            yield Finding.problem(file, number, "a quote that is not closed")
