"""The stored form of lives and events: nothing is lost, and old and new forms are read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from baremetal.errors import Unavailable
from baremetal.lifecycle.events import Event
from baremetal.lifecycle.model import BootTarget, Budgets, ProvisionState, Server
from baremetal.lifecycle.table import TABLES, positions
from baremetal.store.codec import decode_event, decode_life, encode_event, encode_life

st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(
    timedelta, st.timedeltas(timedelta(0), timedelta(days=3650)).filter(lambda span: span >= timedelta(0))
)


def through(server: Server) -> Server:
    return decode_life(encode_life(server), server.generation, server.fence)


@pytest.mark.parametrize("name", positions())
def test_every_position_survives(name: str) -> None:
    server = positions()[name]
    assert through(server) == server
    for events in TABLES.values():
        for make in events.values():
            event = make(server)
            assert decode_event(json.loads(json.dumps(encode_event(event)))) == event


@given(st.from_type(Server))
def test_any_life_survives(server: Server) -> None:
    assert through(server) == server


@given(st.one_of(*(st.from_type(kind) for kind in get_args(Event))))
def test_any_event_survives(event: Event) -> None:
    assert decode_event(json.loads(json.dumps(encode_event(event)))) == event


@given(st.from_type(Server))
def test_types_survive_too(server: Server) -> None:
    """A StrEnum equals its string, so equality alone would not notice a string in its place."""
    _assert_same_types(server, through(server))


def _assert_same_types(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Struct):
        for name in one.__struct_fields__:
            _assert_same_types(getattr(one, name), getattr(other, name))
    elif isinstance(one, tuple):
        for first, second in zip(one, other, strict=True):
            _assert_same_types(first, second)


def test_the_columns_have_the_last_word_on_generation_and_fence() -> None:
    server = Server("r1", generation=3, fence=4)
    assert decode_life(encode_life(server), 5, 6) == replace(server, generation=5, fence=6)


def test_a_form_from_before_an_upgrade_is_read() -> None:
    document = json.loads(encode_life(positions()["deploy/complete"]))
    del document["power_writes"], document["run"]["budgets"]["proof_s"]
    document["colour"] = "red"
    document["run"]["limits"]["dances"] = 7
    server = decode_life(json.dumps(document), 0, 0)
    assert server.run is not None
    assert server.power_writes == ()
    assert server.run.budgets.proof_s == Budgets().proof_s


def test_defaults_are_written_out() -> None:
    """A default that an upgrade changes must not change a run under way."""
    document = json.loads(encode_life(positions()["deploy/complete"]))
    assert document["run"]["budgets"]["install_s"] == Budgets().install_s


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "levitating"},
        {"name": None, "state": 7},
        {"run": {"number": 1}},
        {"run": {"started": "soon"}},
    ],
)
def test_a_form_from_a_newer_version_is_refused_in_words(wrong: dict[str, Any]) -> None:
    document = {**json.loads(encode_life(Server("r1"))), **wrong}
    with pytest.raises(Unavailable, match="newer version"):
        decode_life(json.dumps(document), 0, 0)


def test_an_event_of_a_newer_version_is_refused_in_words() -> None:
    with pytest.raises(Unavailable, match="does not know"):
        decode_event({"type": "levitated"})


def test_a_life_of_before_there_were_systems_has_the_one_that_it_boots() -> None:
    """I7, I21: what an earlier version deployed onto a volume is kept beside a further system, as `main`."""
    life = Server("r1", ProvisionState.ACTIVE, deployed=3, target=BootTarget.ISCSI, volumes=(3,))
    on_disk = Server("r1", ProvisionState.ACTIVE, deployed=3)
    for server, systems in ((life, (("main", 3),)), (on_disk, ())):
        text = encode_life(server).replace('"systems":[],', "")
        assert "systems" not in text
        assert decode_life(text, 0, 0).systems == systems
