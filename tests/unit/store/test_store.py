"""The store's core path, on a file and in memory alike."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.events import MaintenanceChanged
from baremetal.lifecycle.model import ProvisionState, Server
from baremetal.store.records import Credentials, Facts, NewServer
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/data/baremetal.db"
    opened = Store.open(url, Secrets.ephemeral())
    yield opened
    opened.close()


def new(name: str, number: int = 1) -> NewServer:
    return NewServer(
        Server(name, state=ProvisionState.AVAILABLE),
        Facts(f"ipmi://10.0.0.{number}", f"ipmi://10.0.0.{number}:623", (f"52:54:00:00:00:{number:02x}",)),
        Credentials("admin", "s3cret"),
    )


def test_a_lost_guard_writes_nothing(store: Store) -> None:
    (record,) = store.add_servers([new("r1")], NOW)
    event = MaintenanceChanged(True)
    decision = decide(record.life, event, NOW)
    assert store.commit(record.id, record.life, decision, event, NOW) is not None
    seen = store.last_history_id()
    assert store.commit(record.id, record.life, decision, event, NOW) is None
    assert store.last_history_id() == seen
    assert store.server("r1").life == decision.server
