"""Logs of runs: replaced by name, capped per run."""

from __future__ import annotations

import pytest

from baremetal.errors import Refused, Unknown
from baremetal.lifecycle.model import Verb
from baremetal.store.runs import LOG_CAP, LOG_NAMES
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, ask, live, new, submit


def deploying(store: Store) -> str:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    return record.id


def test_a_log_is_kept_and_replaced_by_name(store: Store) -> None:
    server_id = deploying(store)
    assert store.add_log(server_id, 1, "anaconda.log", b"one", NOW) == 3
    assert store.add_log(server_id, 1, "storage.log", b"\x00\xff", NOW) == 5
    assert store.add_log(server_id, 1, "anaconda.log", b"longer", NOW) == 8
    logs = store.logs(server_id, 1)
    assert [(log.name, log.content) for log in logs] == [
        ("anaconda.log", b"longer"),
        ("storage.log", b"\x00\xff"),
    ]
    assert logs[0].at == NOW
    assert store.logs(server_id, 2) == []


def test_a_run_holds_one_mebibyte_and_keeps_the_end(store: Store) -> None:
    server_id = deploying(store)
    store.add_log(server_id, 1, "a", b"a" * 1000, NOW)
    content = b"beginning" + b"x" * LOG_CAP + b"the reason"
    assert store.add_log(server_id, 1, "b", content, NOW) == LOG_CAP
    assert store.add_log(server_id, 1, "c", b"more", NOW) == LOG_CAP
    kept = {log.name: log.content for log in store.logs(server_id)}
    assert len(kept["b"]) == LOG_CAP - 1000
    assert kept["b"].endswith(b"the reason")
    assert (kept["a"], kept["c"]) == (b"a" * 1000, b"")


def test_a_run_has_so_many_logs_and_no_more(store: Store) -> None:
    server_id = deploying(store)
    for number in range(LOG_NAMES):
        store.add_log(server_id, 1, f"log{number}", b"", NOW)
    with pytest.raises(Refused):
        store.add_log(server_id, 1, "one more", b"", NOW)
    store.add_log(server_id, 1, "log0", b"again", NOW)


def test_only_a_run_has_logs(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    with pytest.raises(Unknown):
        store.add_log(record.id, 1, "anaconda.log", b"", NOW)
    with pytest.raises(Unknown):
        store.add_log("0" * 32, 1, "anaconda.log", b"", NOW)


def test_runs_are_numbered_and_listed(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    at = NOW
    for verb in (Verb.DEPLOY, Verb.RELEASE, Verb.DEPLOY):
        at = list(live(store, record.id, verb, at))[-1]
    assert [(run.number, run.verb, run.outcome) for run in store.runs(record.id)] == [
        (1, "deploy", "active"),
        (2, "release", "available"),
        (3, "deploy", "active"),
    ]
    assert store.run(record.id, 4) is None
    store.add_log(record.id, 1, "late.log", b"a log may come after the run's end", at)
