"""What `docs/booting.md` calls proven: each behaviour is in its table once, by files that are there and cite it."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
TESTS = TOP / "tests"
SEEDS = {
    *(f"S0-{number}" for number in range(1, 13)),
    *(f"S1-{number}" for number in range(1, 8)),
    *(f"S2-{number}" for number in range(1, 9)),
    *(f"S3-{number}" for number in range(1, 8)),
    *(f"S4-{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 17)),
}
PAINS = {f"pain {number}" for number in (2, 3, 8, 9, 11, 13, 16, 17, 18, 20)}
_SEED = re.compile(r"\bS[0-4]-\d+\b")
_PAIN = re.compile(r"\b[Pp]ains? (\d+)(?: and (\d+))?")
_ROW = re.compile(r"^\| (S\d-\d+|\d+) \|", re.MULTILINE)
_FILE = re.compile(r"`([a-z_]+/[a-z_/]+\.py)(?:::(test_[a-z0-9_]+))?`")


def cited(text: str) -> set[str]:
    found = set(_SEED.findall(text))
    return found | {f"pain {number}" for pair in _PAIN.findall(text) for number in pair if number}


@lru_cache
def docstrings(file: Path) -> str:
    """All of a test file's docstrings; a comment or a string that happens to say it proves nothing."""
    nodes = (
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Module)
        or (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"))
    )
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def rows() -> list[tuple[str, str]]:
    """The rows of both tables: what each is about, and its whole text."""
    page = (TOP / "docs/booting.md").read_text().partition("## Where each behaviour is proven\n")[2]
    found = []
    for line in page.splitlines():
        if (about := _ROW.match(line)) is not None:
            found.append((about[1] if about[1].startswith("S") else f"pain {about[1]}", line))
    return found


@pytest.mark.slow
def test_every_behaviour_is_cited_by_a_test() -> None:
    everywhere = set().union(*(cited(docstrings(file)) for file in TESTS.rglob("test_*.py")))
    assert (SEEDS | PAINS) - everywhere == set()


def test_every_behaviour_is_in_the_table_once() -> None:
    about = [one for one, _ in rows()]
    assert sorted(about) == sorted(SEEDS | PAINS)


def test_every_row_names_tests_that_are_there_and_cite_it() -> None:
    for about, line in rows():
        named = _FILE.findall(line)
        assert named, f"{about}: no test is named"
        for path, test in named:
            file = TESTS / path
            assert file.is_file(), f"{about}: there is no tests/{path}"
            assert not test or f"def {test}(" in file.read_text(), f"{about}: no {test} in {path}"
            assert about in cited(docstrings(file)), f"{about} is not cited in tests/{path}"


def test_what_a_citation_is() -> None:
    assert cited("S0-1, S3-1 (H3C); pains 8 and 9, and pain 18. Pain 2: x") == {
        "S0-1", "S3-1", "pain 8", "pain 9", "pain 18", "pain 2",
    }  # fmt: skip
    assert cited("AS0-1 painting 3, no pain") == set()
