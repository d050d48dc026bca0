"""A deployed system that is asked by SSH to end, through the API; the machine's sshd is played by the test (S4-17)."""

from __future__ import annotations

import pytest

from baremetal.drivers.keys import generate_keypair
from tests.integration.conftest import Service
from tests.integration.hall import HOST, Hall
from tests.integration.hall import diskless as diskless  # a fixture
from tests.integration.hall import hall as hall  # a fixture
from tests.integration.hall import shared_service as shared_service  # a fixture
from tests.sshd import sshd

PATH = "/v1/servers/r1/power"
ANSWERS = {"poweroff": b"poweroff\n", "reboot": b"reboot\n"}


def _own_key(service: Service) -> str:
    return (service.app.config.key_file.parent / "proof_key").read_text()


@pytest.mark.parametrize(("target", "asked"), [("soft-off", "poweroff"), ("reset", "reboot")])
def test_it_is_asked_once_with_the_key_of_the_proof(diskless: Hall, target: str, asked: str) -> None:
    """The host key is the one that the deploy reported; the BMC hears nothing, and the history tells who asked."""
    service = diskless.service
    diskless.make_active()
    writes = service.bmcs["r1"].requests["chassis-control"]
    with sshd(host=HOST.private, accepts=_own_key(service), answers=ANSWERS) as (port, command):
        service.api.patch("/v1/servers/r1", json={"vars": {"ssh_address": f"127.0.0.1:{port}"}})
        answer = service.api.put(PATH, json={"target": target, "by_ssh": True})
        assert answer.status_code == 200, answer.text
        assert command.asked == [asked]
    assert service.bmcs["r1"].requests["chassis-control"] == writes
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    assert any(note.startswith(f"power {target} by SSH by ") for note in notes)


def test_whichever_of_its_systems_runs_is_the_one_that_is_asked(diskless: Hall) -> None:
    """The chosen one and the other alike, each by its own host key."""
    service, other = diskless.service, generate_keypair("other host")
    diskless.make_active()
    diskless.deploy(verb="rebuild", system="other")
    diskless.boot_first(other.public)
    diskless.rest()
    for host in (HOST, other):
        with sshd(host=host.private, accepts=_own_key(service), answers=ANSWERS) as (port, command):
            service.api.patch("/v1/servers/r1", json={"vars": {"ssh_address": f"127.0.0.1:{port}"}})
            answer = service.api.put(PATH, json={"target": "soft-off", "by_ssh": True})
            assert answer.status_code == 200, answer.text
            assert command.asked == ["poweroff"]


def test_what_cannot_be_asked_is_refused(diskless: Hall) -> None:
    """Before a deploy, in maintenance, of a system that cannot, of a stranger, and for a word that is no such thing."""
    service = diskless.service

    def ask(target: str = "soft-off") -> tuple[int, str]:
        answer = service.api.put(PATH, json={"target": target, "by_ssh": True})
        return answer.status_code, answer.text

    status, text = ask()
    assert (status, "nothing that was deployed here runs" in text) == (409, True)
    diskless.make_active()
    assert ask("off")[0] == 422
    with sshd(host=HOST.private, accepts=_own_key(service)) as (port, _):
        service.api.patch("/v1/servers/r1", json={"vars": {"ssh_address": f"127.0.0.1:{port}"}})
        status, text = ask()
        assert (status, "its system does not do that" in text) == (409, True)
        service.post("/v1/servers/r1/maintenance", {"on": True})
        assert ask()[0] == 409
        service.post("/v1/servers/r1/maintenance", {"on": False})
    with sshd(accepts=_own_key(service), answers=ANSWERS) as (port, command):
        service.api.patch("/v1/servers/r1", json={"vars": {"ssh_address": f"127.0.0.1:{port}"}})
        status, text = ask()
        assert (status, "BM406" in text or "host key" in text) == (502, True)
        assert command.asked == []
