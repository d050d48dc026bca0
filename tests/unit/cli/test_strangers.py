"""What the words behind --from-unknown mean."""

from __future__ import annotations

import pytest

from baremetal.cli.strangers import Stranger, find_strangers, read_strangers
from baremetal.errors import Invalid, Unknown

A, B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
DERIVED_A, DERIVED_B = "server-52540000000a", "server-52540000000b"


@pytest.mark.parametrize(
    ("given", "words", "expected"),
    [
        ([A], ["r1"], [("r1", A)]),
        ([A], [], [(DERIVED_A, A)]),
        (["r1=52-54-00-00-00-0A"], [], [("r1", A)]),
        ([f"r1={A}", f"r2={B}"], [], [("r1", A), ("r2", B)]),
        ([A, B], [], [(DERIVED_A, A), (DERIVED_B, B)]),
        ([A], [B], [(DERIVED_A, A), (DERIVED_B, B)]),
        ([f"r1={A}"], [f"r2={B}"], [("r1", A), ("r2", B)]),
        (["52540000000A"], ["52540000000b"], [("52540000000b", A)]),
    ],
)
def test_machines_and_their_names(
    given: list[str], words: list[str], expected: list[tuple[str, str]]
) -> None:
    assert read_strangers(given, words) == [Stranger(name, mac) for name, mac in expected]


@pytest.mark.parametrize(
    ("given", "words", "complaint"),
    [
        (["r1"], [], "'r1' is no MAC"),
        (["r1=r2"], [], "'r1=r2' is no MAC"),
        (["52:54-00:00:00:0a"], [], "is no MAC"),
        ([A, B], ["r1"], "which machine is 'r1'"),
        ([A], ["r1", "r2"], "which machine is 'r1'"),
        ([f"r1={A}"], ["r2"], "which machine is 'r2'"),
        ([A, A.upper()], [], "given twice"),
        ([A, B], ["52:54:00:00:00:0c"], "without --from-unknown"),
    ],
)
def test_what_cannot_be_meant(given: list[str], words: list[str], complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        read_strangers(given, words)


def test_what_they_told_comes_in_the_order_of_the_words() -> None:
    seen = [{"mac": A, "serial": "a"}, {"mac": B, "serial": "b"}]
    told = find_strangers([Stranger("r2", B), Stranger("r1", A)], seen)
    assert [one["serial"] for one in told] == ["b", "a"]
    with pytest.raises(Unknown, match="52:54:00:00:00:0c"):
        find_strangers([Stranger("r1", A), Stranger("r3", "52:54:00:00:00:0c")], seen)
