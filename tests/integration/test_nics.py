"""A machine tries each of its NICs in turn, IPv4 and IPv6, and its installer asks DHCP once more: it stays one server.

S3-7. Over the boot app's own socket; the DHCP side is `unit/service/test_dhcp.py`.
"""

from __future__ import annotations

import json
import time
from typing import Any

from baremetal.netboot.lookup import swap_uuid
from tests.integration.conftest import MAC, Service

SECOND, THIRD, SWITCHED = "52:54:00:00:00:02", "52:54:00:00:00:03", "52:54:00:00:00:04"
UUID = "b8945908-d6a6-41a9-8e5d-c5a1d5c0f00d"
DISKS = [{"name": "vda", "serial": "S1", "size": 10**10, "rotational": False}]


def ask(service: Service, mac: str, address: str, **told: str) -> str:
    there = {"x-forwarded-for": address}
    return service.machine.get("/ipxe", params={"mac": mac, **told}, headers=there).text


def events(service: Service) -> list[dict[str, Any]]:
    time.sleep(0.8)
    found: list[dict[str, Any]] = service.get("/v1/events")["events"]
    return found


def test_every_nic_of_a_machine_is_one_server(service: Service) -> None:
    """S3-7: a second NIC that is enrolled, and a third that only the UUID tells, by IPv4 and by IPv6.

    Pain 18: the installer is sent to the NIC that netbooted, not to the first of the list.
    """
    service.enrol(macs=[MAC, SECOND], uuid=UUID)
    number = service.deploy_until_window()
    before = service.get("/v1/events")["events"][-1]["id"]
    asked = [
        (SECOND, "10.0.0.5", {}),
        (MAC, "fd77::5", {}),
        (THIRD, "fd77::6", {"uuid": swap_uuid(UUID)}),
    ]
    for mac, address, told in asked:
        script = ask(service, mac, address, **told)
        assert f"/media/_r1.{number}/" in script, mac
        assert f" BOOTIF=01-{mac.replace(':', '-')} " in script
    assert service.get("/v1/unknown")["unknown"] == []
    seen = [event for event in events(service) if event["id"] > before]
    assert {event["server"] for event in seen} == {"r1"}
    assert {event["run"] for event in seen} == {number}
    notes = [event["note"] for event in seen]
    for _, address, _ in asked:
        assert any(note.startswith(f"boot script served to {address}") for note in notes), (address, notes)
    assert [server["name"] for server in service.get("/v1/servers")["servers"]] == ["r1"]


def test_grub_is_told_the_nic_that_it_asked_by(service: Service) -> None:
    """Pain 18."""
    service.enrol(macs=[MAC, SECOND])
    service.deploy_until_window()
    config = service.machine.get(f"/grub/mac/{SECOND}.cfg").text
    assert f" BOOTIF=01-{SECOND.replace(':', '-')} " in config


def test_the_installers_second_lease_is_the_same_run(service: Service) -> None:
    """S3-7: firmware had one address, the installer has another, and reports all of its NICs."""
    service.enrol()
    number = service.deploy_until_window()
    answer, callback = service.tokens(ask(service, MAC, "10.0.0.5"))
    there = {"x-forwarded-for": "10.0.0.77"}
    assert service.machine.get(answer, headers=there).status_code == 200
    form = {"boot_id": "b", "macs": json.dumps([SWITCHED, MAC]), "disks": json.dumps(DISKS), "disk": "vda"}
    go = service.machine.post(f"{callback}/install-started", headers=there, data=form)
    assert (go.status_code, go.text) == (200, "go")
    server = service.get("/v1/servers/r1")
    assert (server["provision_state"], server["run"]["number"]) == ("wait call-back", number)
    assert {event["server"] for event in events(service) if event["run"] == number} == {"r1"}
    assert service.get("/v1/unknown")["unknown"] == []


def test_a_nic_that_nobody_enrolled_is_shown_as_part_of_its_machine(service: Service) -> None:
    """S3-7, pain 17: an inspection saw it there, so it is no new server; a real stranger is."""
    folder = service.folder / "data/media/ramdisk"
    folder.mkdir(exist_ok=True)
    for name in ("vmlinuz", "initrd.img"):
        (folder / name).write_bytes(b"a RAM system")
    service.enrol()
    service.post("/v1/servers/r1/manage")
    service.wait("r1", lambda server: server["provision_state"] == "manageable")
    service.post("/v1/servers/r1/inspect")
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    script = service.script()
    url = next(word for word in script.split() if word.startswith("bm.script=")).removeprefix("bm.script=")
    lines = service.machine.get(url).text.splitlines()
    callback = next(line for line in lines if line.startswith("BM_CALLBACK=")).partition("=")[2].strip("'")
    nics = [{"name": f"eth{number}", "mac": mac} for number, mac in enumerate((MAC, SWITCHED))]
    form = {"boot_id": "b", "macs": [MAC, SWITCHED], "disks": DISKS, "inventory": {"nics": nics}}
    assert service.machine.post(f"{callback}/inspect-complete", json=form).text == "ok"
    for mac in (SWITCHED, "52:54:00:99:99:99"):
        assert "unknown machine" in ask(service, mac, "10.0.0.5"), "what is not enrolled is never installed"
    until = time.monotonic() + 20
    while len(found := service.get("/v1/unknown")["unknown"]) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert {one["mac"]: one["server"] for one in found} == {SWITCHED: "r1", "52:54:00:99:99:99": None}


def test_what_every_board_of_a_maker_says_makes_no_stranger_a_server(service: Service) -> None:
    """A board that was never given a number says the maker's placeholder, as its neighbour does."""
    told = {"uuid": "03000200-0400-0500-0006-000700080009", "serial": "Default string"}
    service.enrol(**told)
    number = service.deploy_until_window()
    assert "unknown machine" in ask(service, THIRD, "10.0.0.6", **told)
    assert f"/media/_r1.{number}/" in ask(service, MAC, "10.0.0.5", **told)
    found = [one for one in service.get("/v1/unknown")["unknown"] if one["mac"] == THIRD]
    assert [(one["uuid"] or "", one["serial"] or "") for one in found] == [("", "")]
