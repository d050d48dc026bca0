"""What the machines' side does with a name that nobody has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from baremetal.engine.observations import Observations
from baremetal.lifecycle.model import Fetch, Signal
from baremetal.netboot.tokens import TokenMint
from baremetal.service.boot.boot import Boot
from baremetal.service.boot.callbacks import Word
from baremetal.service.boot.news import News
from baremetal.service.recipe import Kitchen
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, new


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store.open("sqlite://", Secrets.ephemeral())
    yield opened
    opened.close()


def test_a_machine_with_a_strange_reference_costs_one_look(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These run on the event loop: the nearest of ten thousand names is nothing to look for there."""

    def slow(*_: object, **__: object) -> list[str]:
        raise AssertionError("all names were compared")

    monkeypatch.setattr("baremetal.store.servers.get_close_matches", slow)
    store.add_servers([new(1)], NOW)
    observations = Observations(store, now)
    no_engine = cast(Any, None)
    boot = Boot(store, no_engine, observations, Kitchen(TokenMint(b"s" * 32), ""), now=now)
    before = store.last_history_id()
    for stranger in ("r11", "r1"):
        boot.fetched(stranger, 1, Fetch.KERNEL, "vmlinuz", "192.0.2.1")
    assert boot.signal("0" * 32, 1, Signal.PROGRESS, News(), "192.0.2.1") is Word.GONE
    observations.flush()
    assert store.last_history_id() == before
