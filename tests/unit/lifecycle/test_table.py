"""The derived transition table against the one written by hand, and the generated page against the code (P22)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from baremetal.lifecycle.model import ProvisionState
from baremetal.lifecycle.table import TABLES, derive, document, edges, positions
from baremetal.lifecycle.workflows import FAILED, MOVING, allowed_verbs

ROOT = Path(__file__).parents[3]
# The rows that are repeated under other names.
_LIKE = {
    "deploy": ("rebuild", "deploy to iscsi", "rebuild to iscsi"),
    "deploy to iscsi": ("rebuild to iscsi",),
    "deploy by clone": ("rebuild by clone",),
}
GOLDEN = ROOT / "tests/golden/transitions.md"


def read_golden() -> dict[str, dict[str, dict[str, str]]]:
    """Parse the hand-written page: title -> position -> event -> cell; some rows are repeated."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    title = ""
    events: list[str] = []
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("## "):
            title, events = line[3:], []
        elif line.startswith("|") and not line.startswith("|---"):
            head, *cells = [part.strip() for part in line.strip("|").split("|")]
            if not events:
                events = cells
                tables[title] = {}
                continue
            row = dict(zip(events, cells, strict=True))
            tables[title][head] = row
            for other in _LIKE.get(head.partition("/")[0], ()):
                own = head.partition("/")[0]
                like = {event: re.sub(f"^{own}(?=/)", other, cell) for event, cell in row.items()}
                tables[title].setdefault(head.replace(own, other), like)
    return tables


@pytest.mark.parametrize("title", TABLES)
def test_every_cell_is_as_written_by_hand(title: str) -> None:
    golden, derived = read_golden()[title], derive()[title]
    differences = [
        f"{name} / {event}: by hand {golden.get(name, {}).get(event)!r}, derived {row[event]!r}"
        for name, row in derived.items()
        for event in row
        if golden.get(name, {}).get(event) != row[event]
    ]
    assert differences == []
    assert set(golden) == set(derived)
    assert len(derived) * len(TABLES[title]) == sum(len(row) for row in golden.values())


def test_every_state_is_a_position_or_passed_through() -> None:
    seen = {server.state for server in positions().values()}
    assert seen == set(ProvisionState)


def test_every_state_has_an_exit_and_every_moving_state_a_deadline() -> None:
    """I9; I15: also every failed state names a legal next verb."""
    leaves = {before for before, _ in edges()}
    assert leaves == set(ProvisionState)
    for server in positions().values():
        if server.state in MOVING:
            assert server.run is not None
            assert server.run.deadline is not None
    for state in FAILED:
        assert allowed_verbs(state)


def test_the_documentation_is_generated_from_the_code() -> None:
    assert (ROOT / "docs/lifecycle.md").read_text() == document(), (
        "run: python -m baremetal.lifecycle.table > docs/lifecycle.md"
    )
