"""A run is told in the order of what happened, whenever it was written down."""

from __future__ import annotations

from datetime import timedelta

from baremetal.engine.observations import Observation
from baremetal.lifecycle.model import Verb
from baremetal.service.timeline import Timeline
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, ask, new, submit


def test_what_was_seen_before_a_decision_is_told_before_it() -> None:
    store = Store.open("sqlite://", Secrets.ephemeral())
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    submit(store, record.id, ask(Verb.ABORT), NOW + timedelta(seconds=2))
    seen = Observation(NOW + timedelta(seconds=1), record.id, record.name, 1, "kernel", "kernel fetched", {})
    store.observe([seen])
    told = Timeline(store).tell(record.name, 1)["marks"]
    assert [mark["note"].partition(" ")[0] for mark in told] == ["deploy", "kernel", "aborted"]
    assert [mark["took_s"] for mark in told] == [0.0, 1.0, 1.0]
    store.close()
