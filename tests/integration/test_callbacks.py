"""Call-backs that come at the same time: committed together, decided and answered each by itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from baremetal.engine.engine import Engine
from baremetal.lifecycle.decision import Decision
from baremetal.lifecycle.model import Go, Signal
from baremetal.service.boot.callbacks import Call, Word
from baremetal.service.boot.machine import Machine
from baremetal.service.boot.news import read_news
from baremetal.store.connection import Connection
from tests.integration.conftest import Service

NAMES = ("r0", "r1", "r2", "r3")


def mac(name: str) -> str:
    return f"52:54:00:00:02:0{name[1:]}"


def rack(service: Service, *names: str) -> dict[str, Call]:
    """Deploy servers until their machines may netboot; returns how each asks for go."""
    calls = {}
    for name in names:
        service.enrol(name, mac(name))
        number = service.deploy_until_window(name)
        news = read_news({"boot_id": f"boot-{name}", "macs": [mac(name)], "disk": "vda"})
        server_id = service.app.store.server(name).id
        calls[name] = Call(server_id, number, Signal.INSTALL_STARTED, news, "10.0.0.5")
    return calls


def go(service: Service, name: str) -> Go | None:
    run = service.app.store.server(name).life.run
    return run.go if run is not None else None


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One item for each commit of this thread."""
    made: list[None] = []
    honest, here = Connection.commit, threading.get_ident()

    def commit(connection: Connection) -> None:
        honest(connection)
        if threading.get_ident() == here:
            made.append(None)

    monkeypatch.setattr(Connection, "commit", commit)
    return made


def test_a_batch_is_one_commit_and_each_hears_its_own_word(service: Service, commits: list[None]) -> None:
    calls = rack(service, *NAMES)
    boot = service.app.boot_answers
    strange = read_news({"boot_id": "boot-x", "macs": ["52:54:00:99:99:99"], "disk": "vda"})
    commits.clear()
    told = {
        calls["r0"]: Word.GO,
        replace(calls["r1"], news=strange): Word.REFUSED,
        replace(calls["r1"], server_id="0" * 32): Word.GONE,
        replace(calls["r0"], signal=Signal.PROGRESS): Word.OK,
        replace(calls["r1"], run=calls["r1"].run + 1): Word.GONE,
        calls["r2"]: Word.GO,
        replace(calls["r3"], signal=Signal.INSTALL_COMPLETE): Word.REFUSED,
        replace(calls["r0"], address="10.0.0.6"): Word.GO,
    }
    assert boot.hear(list(told)) == list(told.values())
    assert len(commits) == 1
    first = go(service, "r0")
    assert first is not None
    assert (first.boot_id, first.address) == ("boot-r0", "10.0.0.5"), (
        "repeated for the same boot, not given anew"
    )
    assert go(service, "r1") is None
    assert go(service, "r3") is None
    # The second of two boots was rebooted in between; its run fails, and its neighbour's does not.
    other = read_news({"boot_id": "another", "macs": [mac("r0")], "disk": "vda"})
    assert boot.hear([replace(calls["r0"], news=other), calls["r3"]]) == [Word.REFUSED, Word.GO]
    assert (
        "BM405"
        in service.wait("r0", lambda server: server["provision_state"] == "deploy failed")["last_error"]
    )
    assert go(service, "r3") is not None


def test_one_that_breaks_undoes_nothing_of_the_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = rack(service, "r0", "r1", "r2")
    honest = Engine.submit

    def submit(self: Engine, server_id: str, *words: Any, **more: Any) -> Decision:
        decision = honest(self, server_id, *words, **more)
        if server_id == calls["r1"].server_id:
            raise ZeroDivisionError("planted")
        return decision

    monkeypatch.setattr(Engine, "submit", submit)
    assert service.app.boot_answers.hear(list(calls.values())) == [Word.GO, Word.WAIT, Word.GO]
    for name in ("r0", "r2"):
        events = service.get(f"/v1/servers/{name}/events")["events"]
        assert len([event for event in events if event["note"].startswith("go: run")]) == 1
    monkeypatch.undo()
    assert service.app.boot_answers.hear([calls["r1"]]) == [Word.GO], "it asks again, and hears the same"


def test_what_could_not_be_committed_is_sent_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = rack(service, "r0", "r1")
    honest, here = Connection.commit, threading.get_ident()

    def broken(connection: Connection) -> None:
        if threading.get_ident() == here:
            raise sqlite3.OperationalError("disk I/O error")
        honest(connection)

    monkeypatch.setattr(Connection, "commit", broken)
    assert service.app.boot_answers.hear(list(calls.values())) == [Word.WAIT, Word.WAIT]
    assert service.app.boot_answers.hear([calls["r0"]]) == [Word.WAIT]
    monkeypatch.undo()
    assert (go(service, "r0"), go(service, "r1")) == (None, None)
    assert service.app.boot_answers.hear(list(calls.values())) == [Word.GO, Word.GO]


def test_a_rack_that_calls_at_once_is_heard_one_by_one(service: Service) -> None:
    """Over HTTP: each hears its own word, forgeries among them too, and every signal is in the history once."""
    paths = {}
    for name in rack(service, *NAMES):
        _, paths[name] = service.tokens(service.script(mac(name)))

    def call(one: tuple[str, int]) -> tuple[int, str]:
        name, number = one
        fields: Mapping[str, Any] = {"boot_id": f"boot-{name}", "macs": [mac(name)], "disk": "vda"}
        if number == 0:
            answer = service.machine.post(f"{paths[name]}/install-started", json=fields)
        elif number == 1:
            answer = service.machine.post(f"{paths[name][:-4]}AAAA/progress", json=fields)
        elif number == 2:
            answer = service.machine.post(f"{paths[name]}/progress", content=b"{")
        else:
            answer = service.machine.post(
                f"{paths[name]}/progress", json={**fields, "stage": f"stage {number}"}
            )
        return answer.status_code, answer.text

    asked = [(name, number) for number in range(8) for name in NAMES]
    with ThreadPoolExecutor(24) as threads:
        heard = list(threads.map(call, asked))
    right = {0: (200, "go"), 1: (404, "not found"), 2: (409, "refused")}
    assert heard == [right.get(number, (200, "ok")) for _, number in asked]
    for name in NAMES:
        notes = [event["note"] for event in service.get(f"/v1/servers/{name}/events")["events"]]
        for number in range(3, 8):
            assert len([note for note in notes if note.startswith(f"stage {number}")]) == 1, notes


def test_a_rack_that_calls_while_the_database_is_away_is_told_when_to_call_again(fresh: Service) -> None:
    fresh.enrol()
    fresh.deploy_until_window()
    _, callback = fresh.tokens(fresh.script())
    fresh.app.store.close()
    fields = {"boot_id": "boot", "disk": "vda"}
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: fresh.machine.post(f"{callback}/install-started", json=fields), range(8))
        )
    told = {(one.status_code, one.text, one.headers.get("retry-after")) for one in answers}
    assert told == {(503, "wait", "5")}


def test_a_script_that_was_not_committed_is_not_kept_for_those_who_ask_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: GRUB asks again soon, and must not get from memory what nobody has counted."""
    rack(service, "r0", "r1")
    boot = service.app.boot_answers
    machines = [
        Machine.by_name(
            f"grub.cfg-01-{mac(name).replace(':', '-')}", "10.0.0.5", service.boot_url, http=False
        )
        for name in ("r0", "r1")
    ]
    looks = [boot.look(machine) for machine in machines if machine is not None]
    honest, here = Connection.commit, threading.get_ident()

    def broken(connection: Connection) -> None:
        if threading.get_ident() == here:
            raise sqlite3.OperationalError("database or disk is full")
        honest(connection)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "commit", broken)
        told = boot.settle(looks)
    assert not any("vmlinuz" in text for text in told)
    again = [boot.look(look.machine) for look in looks]
    assert [look.commits for look in again] == [True, True]
    assert all("vmlinuz" in text for text in boot.settle(again))
    assert [boot.look(look.machine).commits for look in looks] == [False, False], "now it is"
