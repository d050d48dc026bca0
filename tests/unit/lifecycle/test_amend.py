"""Amending a value: as `dataclasses.replace` does it, for every class that is amended."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, fields, replace

import pytest

from baremetal.lifecycle.amend import amend
from baremetal.lifecycle.model import Server
from baremetal.lifecycle.table import positions


@pytest.mark.parametrize("name", positions())
def test_a_copy_is_what_replace_makes(name: str) -> None:
    server = positions()[name]
    assert amend(server) == server
    assert amend(server, generation=9, last_error="why") == replace(server, generation=9, last_error="why")
    if server.run is not None:
        changes = {"step": 3, "trouble": "some", "deadline": None}
        made = amend(server.run, **changes)
        assert made == replace(server.run, **changes)  # type: ignore[arg-type]
        assert hash(made) == hash(replace(server.run, **changes))  # type: ignore[arg-type]
        assert [getattr(made, one.name) for one in fields(made) if one.name not in changes] == [
            getattr(server.run, one.name) for one in fields(made) if one.name not in changes
        ]


def test_the_original_stays_and_the_copy_is_frozen() -> None:
    server = Server("r1")
    made = amend(server, fence=1)
    assert (server.fence, made.fence) == (0, 1)
    with pytest.raises(FrozenInstanceError):
        made.fence = 2  # type: ignore[misc]


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="no field 'fenced'"):
        amend(Server("r1"), fenced=1)


def test_a_value_that_checks_itself_is_not_amended() -> None:
    @dataclass(frozen=True, slots=True)
    class Checked:
        size: int

        def __post_init__(self) -> None:
            assert self.size > 0

    with pytest.raises(TypeError, match="checks itself"):
        amend(Checked(1), size=2)
