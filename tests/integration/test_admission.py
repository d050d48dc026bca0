"""A bulk deploy with room for few: the others wait in the database, through a restart, and begin in their order."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from baremetal.cli.app import main
from baremetal.errors import Refused
from baremetal.service.deploys.deploys import Order
from tests.integration.conftest import Runner, Service, connect, prepare, running

# No machine answers: each run is over when its boot window is.
SHORT = "\n[deploy.budgets]\nboot_s = 1.0\n[deploy.limits]\nnetboot_attempts = 1\n"


def enrol(service: Service, many: int) -> list[str]:
    names = [f"r{number}" for number in range(1, many + 1)]
    for number, name in enumerate(names, 1):
        service.enrol(name, f"52:54:00:00:01:{number:02x}")
    return names


def bulk(service: Service, names: list[str]) -> list[dict[str, Any]]:
    asked = {"profile": "test", "names": names}
    told: list[dict[str, Any]] = service.post("/v1/bulk/deploy", asked)["servers"]
    return told


def begun(service: Service, names: list[str]) -> list[datetime]:
    """Return when each server's deploy began, in the order of the names."""
    times = []
    for name in names:
        events = service.get(f"/v1/servers/{name}/events")["events"]
        began = [one for one in events if one["to_state"] == "deploying" and one["from_state"] == "available"]
        assert len(began) == 1
        times.append(datetime.fromisoformat(began[0]["at"]))
    return times


def ended(server: dict[str, Any]) -> bool:
    return str(server["provision_state"]) == "deploy failed"


def test_no_more_at_once_than_there_is_room_for(tmp_path: Path) -> None:
    with running(tmp_path, more=SHORT, deploy="max_concurrent = 2") as service:
        names = enrol(service, 5)
        told = bulk(service, names)
        assert [(one["run"], one["waiting"]) for one in told] == [
            (2, None),
            (2, None),
            (2, 1),
            (2, 2),
            (2, 3),
        ]
        waiting = service.get("/v1/servers/r5")
        assert waiting["provision_state"] == "available"
        assert waiting["allowed"] == ["abort"]
        assert (waiting["waiting"]["verb"], waiting["waiting"]["place"]) == ("deploy", 3)
        for verb, body in (("deploy", {"profile": "test"}), ("manage", None)):
            refused = service.post(f"/v1/servers/r5/{verb}", body, 409)
            assert "waits for its turn" in str(refused)

        most, servers = 0, service.get("/v1/servers")["servers"]
        while not all(ended(server) for server in servers):
            most = max(most, sum(server["run"] is not None for server in servers))
            servers = service.get("/v1/servers")["servers"]
        assert most == 2
        assert begun(service, names) == sorted(begun(service, names))


def test_who_waits_survives_a_restart_and_can_be_given_up(tmp_path: Path) -> None:
    settings = prepare(tmp_path, deploy="max_concurrent = 1")
    first = Runner(settings)
    first.begin()
    service = connect(tmp_path, first)
    names = enrol(service, 4)
    bulk(service, names)
    service.post("/v1/servers/r3/maintenance", {"on": True})
    service.close()
    first.end()

    second = Runner(settings)
    second.begin()
    again = connect(tmp_path, second)
    try:
        assert [again.get(f"/v1/servers/{name}")["waiting"]["place"] for name in names[1:]] == [1, 2, 3]
        assert again.post("/v1/servers/r2/abort")["server"]["waiting"] is None
        last = again.get("/v1/servers/r2/events", newest=True, limit=1)["events"][-1]
        assert last["note"].startswith("given up by ")
        assert again.get("/v1/servers/r2")["provision_state"] == "available"
        again.post("/v1/servers/r1/abort")
        # r3 keeps its place in maintenance, and lets r4 pass
        again.wait("r4", lambda server: server["run"] is not None)
        assert again.get("/v1/servers/r3")["waiting"]["place"] == 1
        again.post("/v1/servers/r4/abort")
        again.wait("r4", lambda server: server["run"] is None)
        again.post("/v1/servers/r3/maintenance", {"on": False})
        assert again.wait("r3", lambda server: server["run"] is not None)["run"]["profile"] == "test"
    finally:
        again.close()
        second.end()
        service.unplug()


def test_what_is_asked_twice_at_once_begins_once(tmp_path: Path) -> None:
    """P2, P14: both pass the checks before either begins, as two impatient clients' requests do."""
    with running(tmp_path, deploy="max_concurrent = 1") as service:
        enrol(service, 1)
        deploys = service.app.services.deploys
        record = service.app.store.server("r1")
        order = Order(verb="deploy", profile="test")
        ready = [deploys._prepare(record, order, by) for by in ("a", "b")]
        assert deploys._submit(ready[0])["run"] == 2
        with pytest.raises(Refused, match="quicker"):
            deploys._submit(ready[1])
        assert service.app.store.first_waiting() is None


def test_beginnings_are_kept_apart(tmp_path: Path) -> None:
    with running(tmp_path, more=SHORT, deploy="power_on_stagger_s = 0.5") as service:
        names = enrol(service, 4)
        bulk(service, names)
        for name in names:
            service.wait(name, ended)
        times = begun(service, names)
        gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
        assert min(gaps) >= 0.5


def test_the_command_line_watches_those_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, more=SHORT, deploy="max_concurrent = 1") as service:
        enrol(service, 3)
        monkeypatch.setenv("BAREMETAL_URL", service.control_url)
        monkeypatch.setenv("BAREMETAL_TOKEN", service.app.token_file.read_text().strip())
        assert main(["deploy", "r1", "--profile", "test", "--no-wait"]) == 0
        assert main(["deploy", "r2", "--profile", "test", "--no-wait"]) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[-1] == "r2: deploy of test waits for its turn, next"
        assert main(["list", "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out)[1]["waiting"]["place"] == 1
        # given up once: its run's number is used again, and what was said of it is not this one's end
        assert main(["deploy", "r3", "--profile", "test", "--no-wait"]) == 0
        assert main(["abort", "r3"]) == 0
        assert main(["deploy", "r3", "--profile", "test", "--max-failures", "1"]) == 1
        out = capsys.readouterr().out
        assert "power on" in out
        assert "r3: deploy failed" in out
        assert "not begun" not in out
        assert service.get("/v1/servers/r2")["provision_state"] == "deploy failed"
