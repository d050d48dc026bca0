"""Inspect, rescue and wipe over real sockets: what is asked, what a machine is served and may say, what is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MAC, Service, enrolment, running

BOOT = "b00t-1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1hZGVVcEtleUZvclRlc3RzT25seTAwMDAwMDAwMDA root@r1"
DISKS = [
    {"name": "sda", "serial": "S1", "size": 4 * 10**11, "rotational": False},
    {"name": "sdb", "serial": "S2", "size": 2 * 10**12, "rotational": True},
]
FOUND = {
    "cpus": 32,
    "cpu": "A fine CPU",
    "arch": "x86_64",
    "memory_mib": 131072,
    "nics": [{"name": "eth0", "mac": MAC, "speed_mbps": 10000, "link": True}],
    "bmc_address": "10.0.9.5",
    "vendor": "ACME",
    "product": "Box 9",
}


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this module's own, with a RAM system's media and an operator's key."""
    folder = tmp_path_factory.mktemp("service")
    with running(folder, more=f'\n[deploy.vars]\nssh_authorized_keys = ["{KEY}"]\n') as service:
        _put_ramdisk(folder)
        yield service


def _put_ramdisk(folder: Path) -> None:
    media = folder / "data" / "media" / "ramdisk"
    media.mkdir()
    for name in ("vmlinuz", "initrd.img"):
        (media / name).write_bytes(b"a RAM system")


def manageable(service: Service) -> None:
    service.enrol()
    service.post("/v1/servers/r1/manage")
    service.wait("r1", lambda server: server["provision_state"] == "manageable")


def adopted(service: Service) -> None:
    service.plug("r1")
    service.post("/v1/servers", enrolment(adopt=True), 201)
    service.wait("r1", lambda server: server["provision_state"] == "active")


def boot(service: Service, verb: str, **body: Any) -> str:
    """Ask for a verb and boot as its machine does; returns the call-back URL that its script holds."""
    service.post(f"/v1/servers/r1/{verb}", body)
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    script = service.script()
    url = next(word for word in script.split() if word.startswith("bm.script=")).removeprefix("bm.script=")
    text = service.machine.get(url).text
    line = next(line for line in text.splitlines() if line.startswith("BM_CALLBACK="))
    return line.removeprefix("BM_CALLBACK=").strip("'")


def say(service: Service, callback: str, signal: str, **fields: Any) -> tuple[int, str]:
    answer = service.machine.post(f"{callback}/{signal}", json={"boot_id": BOOT, "macs": [MAC], **fields})
    return answer.status_code, answer.text


def ended(service: Service, state: str) -> dict[str, Any]:
    return service.wait("r1", lambda server: server["run"] is None and server["provision_state"] == state)


def test_an_inspection_is_shown_and_known_to_plans_and_templates(service: Service) -> None:
    manageable(service)
    assert service.get("/v1/servers/r1")["inventory"] is None
    callback = boot(service, "inspect")
    assert service.get("/v1/servers/r1")["provision_state"] == "inspect wait"
    assert say(service, callback, "install-started", disk="sda")[0] == 409, "an inspection is never given go"
    assert say(service, callback, "inspect-complete", disks=DISKS, inventory=json.dumps(FOUND)) == (200, "ok")
    server = ended(service, "manageable")
    shown = server["inventory"]
    assert {name: shown[name] for name in FOUND} == FOUND
    assert [disk["serial"] for disk in shown["disks"]] == ["S1", "S2"]
    assert shown["run"] == 3
    assert [what for what, _ in service.chassis["r1"].log] == ["on", "off"]
    assert say(service, callback, "inspect-complete")[0] == 200, "an accepted signal repeated"
    service.post("/v1/servers/r1/provide")
    service.template.write_text(
        service.template.read_text().replace("text\n", "# cpus {{ inventory.cpus | ks }}\ntext\n", 1)
    )
    plan = service.post("/v1/servers/r1/plan", {"profile": "test", "vars": {"disk": "size>=1T"}}, 200)
    assert plan["disk"]["chosen"] == "sdb"
    assert "inspection" in plan["disk"]["note"]
    assert any("# cpus 32" in file["text"] for file in plan["files"])
    plan = service.post("/v1/servers/r1/plan", {"profile": "test"}, 200)
    assert plan["disk"]["chosen"] is None


@pytest.mark.parametrize(("mib", "told"), [(970, True), (131072, False), (None, False)])
def test_doctor_says_where_the_memory_is_too_small_for_installers(
    service: Service, mib: int | None, told: bool
) -> None:
    """S2-7: more than 1 GB, checked from the inventory."""
    manageable(service)
    callback = boot(service, "inspect")
    assert say(service, callback, "inspect-complete", inventory={**FOUND, "memory_mib": mib}) == (200, "ok")
    ended(service, "manageable")
    for checks in (service.get("/v1/doctor")["checks"], service.get("/v1/doctor", name="r1")["checks"]):
        found = [check for check in checks if check["name"] == "memory of r1"]
        assert [check["ok"] for check in found] == ([None] if told else [])
        assert not told or "970 MiB" in found[0]["what"]


def test_another_machine_cannot_speak_for_an_inspection(service: Service) -> None:
    manageable(service)
    callback = boot(service, "inspect")
    stranger = say(service, callback, "inspect-complete", macs=["52:54:00:00:00:77"], inventory=FOUND)
    assert stranger == (409, "refused")
    assert say(service, callback, "inspect-complete", inventory={"cpus": "many"})[0] == 409
    assert say(service, callback, "inspect-failed", stage="cpu", message="none")[0] == 200
    server = ended(service, "inspect failed")
    assert "BM404 the inspection failed: cpu: none" in server["last_error"]
    assert server["allowed"] == ["manage", "inspect"]


def test_a_wipe_names_its_disks_and_every_one_is_on_record(service: Service) -> None:
    manageable(service)
    callback = boot(service, "provide", wipe=True)
    assert service.get("/v1/servers/r1")["provision_state"] == "clean wait"
    assert say(service, callback, "wipe-started")[0] == 409, "no disk is named"
    assert say(service, callback, "wipe-complete")[0] == 409, "without go"
    assert say(service, callback, "wipe-started", disks=DISKS) == (200, "go")
    assert say(service, callback, "wipe-started", disks=DISKS) == (200, "go"), "the same boot asks again"
    assert say(service, callback, "wipe-started", disks=DISKS[:1])[0] == 409
    server = service.get("/v1/servers/r1")
    assert server["run"]["go"]["disks"] == ["sda S1", "sdb S2"]
    assert "bm.script" not in service.script(), "no second boot script after go"
    server = ended(service, "clean failed")
    assert "BM405 rebooted during wipe" in server["last_error"]
    refused = service.post("/v1/servers/r1/provide", {}, 409)
    assert "--wipe" in refused["message"]
    callback = boot(service, "provide", wipe=True)
    assert say(service, callback, "wipe-started", disks=DISKS) == (200, "go")
    assert say(service, callback, "progress", stage="sda", percent=50, message="serial S1")[0] == 200
    assert say(service, callback, "wipe-complete", message="sda serial S1 zeroed") == (200, "ok")
    server = ended(service, "available")
    assert service.chassis["r1"].is_on is False
    assert say(service, callback, "wipe-started", disks=DISKS) == (404, "not found")
    run = service.app.store.run(server["id"], 3)
    assert run is not None
    assert [disk["serial"] for disk in run.disks] == ["S1", "S2"]


def test_abort_in_the_middle_of_a_release_with_wipe(service: Service) -> None:
    adopted(service)
    callback = boot(service, "release", wipe=True)
    assert say(service, callback, "wipe-started", disks=DISKS) == (200, "go")
    service.post("/v1/servers/r1/abort")
    assert say(service, callback, "wipe-complete") == (404, "not found")
    server = ended(service, "clean failed")
    assert service.chassis["r1"].is_on is False
    assert server["deployed_run"] is None
    service.post("/v1/servers/r1/manage")
    ended(service, "manageable")


def test_rescue_answers_with_its_own_key_and_unrescue_goes_back(service: Service) -> None:
    adopted(service)
    callback = boot(service, "rescue")
    assert service.get("/v1/servers/r1")["provision_state"] == "rescue wait"
    assert say(service, callback, "wipe-started", disks=DISKS)[0] == 409
    told = say(service, callback, "rescue-started", ssh_host_keys=[KEY], addresses=["10.0.0.5"])
    assert told == (200, "ok")
    server = ended(service, "rescue")
    assert server["rescue"] == {"addresses": ["10.0.0.5"], "ssh_host_keys": [KEY]}
    assert server["allowed"] == ["release", "unrescue"]
    assert service.get("/v1/servers/r1/ssh")["host_keys"] == [KEY]
    assert "bm.script" not in service.script()
    assert service.api.delete("/v1/servers/r1").status_code == 409, "a system is on it"
    service.post("/v1/servers/r1/unrescue")
    server = ended(service, "active")
    assert server["rescue"] is None
    flags = service.bmcs["r1"].options.read(5, service.bmcs["r1"].knobs, 0.0)
    assert flags[3] >> 2 & 0x0F == 2, "boots its disk for good"
    assert service.chassis["r1"].is_on


def test_the_operators_key_is_in_the_script_and_without_one_a_rescue_is_refused(service: Service) -> None:
    adopted(service)
    answer = service.post("/v1/servers/r1/rescue", {"vars": {"ssh_authorized_keys": ""}}, 422)
    assert "nobody could log in" in answer["message"]
    service.post("/v1/servers/r1/rescue", {"vars": {"ssh_authorized_keys": KEY.replace("root@r1", "me")}})
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    told = service.get("/v1/servers/r1/render")
    assert any(KEY.replace("root@r1", "me") in file["text"] for file in told["files"])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("inspect", {}, 409),
        ("rescue", {}, 409),
        ("unrescue", {}, 409),
        ("provide", {"wipe": True}, 409),
        ("release", {"wipe": True}, 409),
        ("deploy", {"profile": "wipe"}, 422),
    ],
)
def test_what_cannot_be_asked_of_an_available_server(
    service: Service, path: str, body: dict[str, Any], status: int
) -> None:
    service.enrol()
    answer = service.post(f"/v1/servers/r1/{path}", body, status)
    if status == 409:
        assert answer["allowed"] == ["manage", "deploy"]
    assert service.get("/v1/servers/r1")["provision_state"] == "available"


def test_without_media_the_error_says_where_they_belong(fresh: Service) -> None:
    manageable(fresh)
    for verb, body in (("inspect", {}), ("provide", {"wipe": True})):
        answer = fresh.post(f"/v1/servers/r1/{verb}", body, 422)
        assert answer["code"] == "BM202"
        assert "media/ramdisk" in answer["seen"]
