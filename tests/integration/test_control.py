"""The control API over a real socket: who gets in, what is refused, and how it is said."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from baremetal.config import load
from baremetal.sim.knobs import EfiPolicy, Knobs
from baremetal.wiring import build
from tests.integration.conftest import MAC, Service, enrolment, prepare, running


def test_enrol_goes_on_to_available_and_writes_nothing(service: Service) -> None:
    server = service.enrol()
    assert server["macs"] == [MAC]
    assert server["bmc"] == {"url": "sim://r1", "address": "r1", "kind": "sim"}
    assert server["allowed"] == ["manage", "deploy"]
    assert service.chassis["r1"].log == []
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    assert notes[0].startswith("enrolled")


def test_adopt_ends_in_active(service: Service) -> None:
    service.plug("r1")
    service.post("/v1/servers", enrolment(adopt=True), 201)
    server = service.wait("r1", lambda server: server["provision_state"] == "active")
    assert server["profile"] is None
    assert service.chassis["r1"].log == []


def test_no_verify_stays_in_enroll(service: Service) -> None:
    service.plug("r1")
    taken = service.post("/v1/servers", enrolment(verify=False), 201)
    assert taken["provision_state"] == "enroll"


def test_no_password_in_any_answer(service: Service) -> None:
    service.plug("r1")
    body = enrolment() | {"bmc_password": "hunter-two"}
    service.post("/v1/servers", body, 201)
    server = service.wait("r1", lambda server: server["last_error"] != "")
    assert "BM102" in server["last_error"]
    for path in ("/v1/servers", "/v1/servers/r1", "/v1/events", "/v1/doctor?name=r1"):
        assert "hunter-two" not in service.api.get(path).text


def test_a_bulk_enrolment_is_all_or_none(service: Service) -> None:
    rows = [
        enrolment("a1", "52:54:00:00:00:0a"),
        enrolment("A 2", "52:54:00:00:00:0b"),
        enrolment("a3", "nonsense"),
    ]
    answer = service.post("/v1/servers", {"servers": rows}, 422)
    assert [row["row"] for row in answer["rows"]] == [2, 3]
    assert service.get("/v1/servers")["servers"] == []


def test_csv_is_taken_as_it_is(service: Service) -> None:
    text = "name,bmc,bmc_password,mac,verify,timezone,tag:rack\nc1,sim://admin@c1,password,52:54:00:00:00:0c,no,UTC,7\n"
    answer = service.api.post("/v1/servers", content=text, headers={"content-type": "text/csv"})
    assert answer.status_code == 201, answer.text
    (server,) = answer.json()["servers"]
    assert (server["vars"], server["tags"]) == ({"timezone": "UTC"}, {"rack": "7"})


def test_duplicates_name_the_other_server(service: Service) -> None:
    service.enrol()
    answer = service.post("/v1/servers", enrolment("r2", MAC), 409)
    assert answer["code"] == "BM501"
    assert "r1" in answer["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/servers/r2/deploy", {"profile": "test"}, 404, "BM504"),
        ("/v1/servers/r1/deploy", {"profile": "tset"}, 404, "BM201"),
        ("/v1/servers/r1/deploy", {"profile": "rocky9"}, 422, "BM202"),
        ("/v1/servers/r1/deploy", {"profile": "test", "vars": {"disk": "sda"}}, 422, "BM505"),
        ("/v1/servers/r1/deploy", {}, 422, "BM505"),
        ("/v1/servers/r1/deploy", {"profil": "test"}, 422, "BM505"),
        ("/v1/servers/r1/release", {}, 409, "BM502"),
        ("/v1/servers/r1/abort", None, 409, "BM502"),
        ("/v1/bulk/deploy", {"names": ["r1", "r9"], "profile": "test"}, 404, "BM504"),
    ],
)
def test_refusals_have_codes(service: Service, path: str, body: Any, status: int, code: str) -> None:
    service.enrol()
    answer = service.post(path, body, status)
    assert answer["code"] == code, answer
    assert service.get("/v1/servers/r1")["provision_state"] == "available"


def test_did_you_mean(service: Service) -> None:
    service.enrol("rack1")
    assert service.get("/v1/servers/rak1", 404)["nearest"] == "rack1"
    assert service.post("/v1/servers/rack1/deploy", {"profile": "tset"}, 404)["nearest"] == "test"


def test_deploy_of_an_active_server_names_rebuild(service: Service) -> None:
    service.plug("r1")
    service.post("/v1/servers", enrolment(adopt=True), 201)
    service.wait("r1", lambda server: server["provision_state"] == "active")
    answer = service.post("/v1/servers/r1/deploy", {"profile": "test"}, 409)
    assert "--rebuild" in answer["message"]
    assert "rebuild" in answer["allowed"]


def test_undefined_variable_names_file_and_line(service: Service) -> None:
    """Pain 16: with the variable and the server; nothing was started."""
    service.enrol()
    text = service.template.read_text() + "# {{ rack_nmae }}\n"
    service.template.write_text(text)
    answer = service.post("/v1/servers/r1/deploy", {"profile": "test"}, 422)
    assert (answer["code"], answer["file"], answer["line"]) == (
        "BM203",
        "kickstart/test.ks.j2",
        len(text.splitlines()),
    )
    assert (answer["variable"], answer["server"]) == ("rack_nmae", "r1")
    assert service.get("/v1/servers/r1")["run"] is None
    lint = service.get("/v1/profiles/test/lint")
    assert "BM203" in [problem["code"] for problem in lint["problems"]]
    assert not lint["ok"]


def test_a_kickstart_that_would_not_parse_is_refused(service: Service) -> None:
    service.enrol()
    service.template.write_text(service.template.read_text().replace("text\n", "txet\n", 1))
    answer = service.post("/v1/servers/r1/deploy", {"profile": "test"}, 422)
    assert answer["code"] == "BM204"
    assert "txet" in answer["message"]


def test_power_and_boot_device(service: Service) -> None:
    service.enrol()
    answer = service.api.put("/v1/servers/r1/power", json={"target": "on"})
    assert answer.json() == {"name": "r1", "power_state": "on"}
    assert service.get("/v1/servers/r1/power")["power_state"] == "on"
    answer = service.api.put("/v1/servers/r1/boot-device", json={"device": "disk", "persistent": True})
    assert answer.json()["device"] == "disk"
    refused = service.api.put("/v1/servers/r1/boot-device", json={"device": "pxe", "persistent": True})
    assert refused.status_code == 409
    service.post("/v1/servers/r1/maintenance", {"on": True})
    assert service.api.put("/v1/servers/r1/power", json={"target": "off"}).status_code == 409
    assert [what for what, _ in service.chassis["r1"].log] == ["on"]
    audits = [event for event in service.get("/v1/servers/r1/events")["events"] if event["kind"] == "audit"]
    assert any(event["note"].startswith("power on by") for event in audits)


def test_a_boot_device_without_its_efi_bit_did_not_stick(service: Service) -> None:
    service.enrol(boot_mode="uefi")
    service.bmcs["r1"].knobs = Knobs(efi_policy=EfiPolicy.DROPS)
    answer = service.api.put("/v1/servers/r1/boot-device", json={"device": "pxe"})
    assert (answer.status_code, answer.json()["code"]) == (502, "BM105")
    assert "no EFI" in answer.json()["seen"]


def test_unreachable_bmc_is_504(service: Service) -> None:
    service.post("/v1/servers", enrolment("gone", verify=False), 201)
    answer = service.get("/v1/servers/gone/power", 504)
    assert answer["code"] == "BM101"


def test_set_changes_facts_and_keeps_the_password(service: Service) -> None:
    service.enrol(tags={"rack": "1", "row": "a"})
    answer = service.api.patch("/v1/servers/r1", json={"tags": {"rack": None}, "ip": "10.0.0.5/24"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["tags"], answer.json()["ip"]) == ({"row": "a"}, "10.0.0.5/24")
    assert service.get("/v1/servers/r1/power")["power_state"] == "off"
    elsewhere = service.api.patch("/v1/servers/r1", json={"bmc": "sim://admin@r7"})
    assert elsewhere.status_code == 422
    assert "password" in elsewhere.json()["message"]


def test_forget(service: Service) -> None:
    service.plug("r1")
    service.post("/v1/servers", enrolment(adopt=True), 201)
    service.wait("r1", lambda server: server["provision_state"] == "active")
    assert service.api.delete("/v1/servers/r1").status_code == 409
    assert service.api.delete("/v1/servers/r1?force=true").status_code == 204
    service.get("/v1/servers/r1", 404)


def test_plan_and_render_do_nothing_and_mask(service: Service) -> None:
    service.enrol()
    before = service.app.store.last_history_id()
    plan = service.post("/v1/servers/r1/plan", {"profile": "test"}, 200)
    assert plan["ok"], plan["problems"]
    assert [step["name"] for step in plan["steps"]] == [
        "off", "pxe", "on", "script", "started", "complete", "flip",
    ]  # fmt: skip
    assert [file["name"] for file in plan["files"]] == ["install.ipxe", "ks.cfg"]
    assert "/callback/masked" in plan["files"][1]["text"]
    rendered = service.get("/v1/servers/r1/render", profile="test")
    assert rendered["files"] == plan["files"]
    assert service.app.store.last_history_id() == before


def test_explain_says_what_a_stranger_and_a_server_boot(service: Service) -> None:
    service.enrol()
    told = service.get("/v1/servers/r1/explain")
    assert told["answer"]["kind"] == "local"
    stranger = service.get("/v1/servers/52:54:00:99:99:99/explain")
    assert "unknown machine" in stranger["answer"]["reason"]
    number = service.deploy_until_window()
    told = service.get("/v1/servers/r1/explain")
    assert told["answer"]["kind"] == "install"
    assert told["run"]["number"] == number
    assert "fetches its boot script" in told["run"]["next"]
    assert "/answer/masked/" in told["paths"][0]["script"]


def test_what_people_are_shown_names_us_as_the_servers_own_segment_does(tmp_path: Path) -> None:
    own = "http://192.0.2.1:8080"
    segment = f'\n[[dhcp.subnet]]\nrange = "192.0.2.10"\nmask = "255.255.255.0"\npublic_url = "{own}"\n'
    with running(tmp_path, more=segment) as service:
        service.enrol("here", ip="192.0.2.20/24")
        service.enrol("elsewhere", "52:54:00:00:00:02", ip="198.51.100.20/24")
        for name, base in (("here", own), ("elsewhere", service.boot_url)):
            plan = service.post(f"/v1/servers/{name}/plan", {"profile": "test"}, 200)
            rendered = service.get(f"/v1/servers/{name}/render", profile="test")
            service.deploy_until_window(name)
            script = service.get(f"/v1/servers/{name}/explain")["paths"][0]["script"]
            for text in (plan["files"][0]["text"], rendered["files"][0]["text"], script):
                assert f"{base}/answer/masked/" in text
                assert (own in text) is (base == own)


def test_explain_leaves_a_machine_to_its_disk_as_the_boot_app_does(service: Service) -> None:
    service.enrol(quirks=["local_boot=chain:http://10.0.0.1/own.ipxe"])
    script = service.get("/v1/servers/r1/explain")["paths"][0]["script"]
    assert "chain --autofree http://10.0.0.1/own.ipxe" in script
    assert script == service.script()


def test_doctor_finds_a_frozen_bmc(service: Service) -> None:
    service.plug("r1")
    service.post("/v1/servers", enrolment() | {"bmc_password": "wrong"}, 201)
    service.wait("r1", lambda server: server["last_error"] != "")
    checks = service.get("/v1/doctor", name="r1")["checks"]
    assert any(check["code"] == "BM102" and check["fix"] for check in checks)
    everything = service.get("/v1/doctor")
    assert any(check["name"] == "public URL" and check["ok"] is not False for check in everything["checks"])


def test_the_stream_resumes_where_it_was(service: Service) -> None:
    service.enrol()
    events = service.get("/v1/events")["events"]
    seen: list[int] = []
    headers = {"last-event-id": str(events[0]["id"])}
    with service.api.stream("GET", "/v1/events/stream", headers=headers, timeout=10) as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                seen.append(int(line[4:]))
                if seen[-1] == events[-1]["id"]:
                    service.post("/v1/servers/r1/maintenance", {"on": True})
            if len(seen) == len(events):
                break
    assert seen == [event["id"] for event in events[1:]] + [events[-1]["id"] + 1]


def test_tokens_and_roles(service: Service) -> None:
    service.enrol()
    made = service.post("/v1/tokens", {"name": "looker", "role": "viewer"}, 201)["token"]
    with httpx2.Client(base_url=service.control_url, trust_env=False) as anyone:
        assert anyone.get("/v1/servers").status_code == 401
        assert anyone.get("/healthz").json() == {"status": "ok"}
        viewer = {"authorization": f"Bearer {made}"}
        assert anyone.get("/v1/servers", headers=viewer).status_code == 200
        assert "baremetal_servers" in anyone.get("/metrics", headers=viewer).text
        refused = anyone.post("/v1/servers/r1/manage", headers=viewer)
        assert (refused.status_code, refused.json()["code"]) == (403, "BM603")
        assert anyone.get("/v1/servers", headers={**viewer, "host": "evil.example"}).status_code == 421
        assert service.api.delete("/v1/tokens/looker").status_code == 204
        assert anyone.get("/v1/servers", headers=viewer).status_code == 401


@pytest.mark.parametrize("path", ["/v1/servers", "/v1/servers/r1/deploy", "/v1/tokens", "/v1/bulk/deploy"])
def test_who_has_no_token_hears_so_before_the_body_has_come(service: Service, path: str) -> None:
    """Eight megabytes are announced and never sent; the answer does not wait for them, nor asks for them."""
    url = httpx2.URL(service.control_url)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 8000000\r\nExpect: 100-continue\r\n\r\n{"
    )
    with socket.create_connection((url.host, url.port or 80), timeout=30) as wire:
        wire.sendall(head.encode())
        answer = wire.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 401 "), answer
    with httpx2.Client(base_url=service.control_url, trust_env=False) as anyone:
        malformed = anyone.post(path, content="{oops", headers={"content-type": "application/json"})
    assert (malformed.status_code, malformed.json()["code"]) == (401, "BM602")


def test_a_name_of_ones_own_opens_the_control_app(tmp_path: Path) -> None:
    settings = prepare(tmp_path)
    line = 'control_hosts = ["BM.example.net"]'
    settings.write_text(settings.read_text().replace("[server]\n", f"[server]\n{line}\n", 1))
    app = build(load(settings))
    try:
        token = app.token_file.read_text().strip()
        asked = {"authorization": f"Bearer {token}"}

        async def go(host: str) -> httpx2.Response:
            transport = httpx2.ASGITransport(app=app.control)
            async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return await client.get("/v1/servers", headers=asked)

        for host in ("bm.example.net:8000", "bm.EXAMPLE.net.", "localhost"):
            assert asyncio.run(go(host)).status_code == 200, host
        refused = asyncio.run(go("bm2.example.net"))
        assert (refused.status_code, refused.json()["code"]) == (421, "BM602")
        assert "control_hosts" in refused.json()["fix"]
    finally:
        app.store.close()


@pytest.mark.parametrize("name", ["secret.key", "master.key", "proof_key", "control.token"])
def test_doctor_finds_every_secret_that_others_may_read(service: Service, name: str) -> None:
    path = service.folder / "data" / name
    assert not [check for check in service.get("/v1/doctor")["checks"] if check["name"] == "secrets"]
    path.chmod(0o640)
    try:
        (found,) = [check for check in service.get("/v1/doctor")["checks"] if check["name"] == "secrets"]
    finally:
        path.chmod(0o600)
    assert (found["ok"], found["fix"]) == (False, f"chmod 600 {path}")


def test_the_schema_is_guarded_and_whole(service: Service) -> None:
    with httpx2.Client(base_url=service.control_url, trust_env=False) as anyone:
        assert anyone.get("/openapi.json").status_code == 401
        assert anyone.get("/docs").status_code == 404
    schema = service.get("/openapi.json")
    assert "/v1/servers/{name}/deploy" in schema["paths"]


def test_limits_and_budgets_of_the_settings_hold_for_every_verb(tmp_path: Path) -> None:
    settings = "[deploy.limits]\npower_writes_per_hour = 77\n[deploy.budgets]\nensure_s = 33.0\n"
    with running(tmp_path, settings) as service:
        service.enrol()
        service.deploy_until_window()
        service.post("/v1/servers/r1/abort")
        service.wait("r1", lambda server: server["provision_state"] == "deploy failed")
        service.post("/v1/servers/r1/release")
        service.wait("r1", lambda server: server["provision_state"] == "available")
        events = [entry.event for entry in service.app.store.history(kinds=("decision",))]
    asked = {event["verb"]: event for event in events if event and event["type"] == "asked"}
    assert set(asked) == {"manage", "provide", "deploy", "abort", "release"}
    for verb in ("manage", "provide", "deploy", "release"):
        assert asked[verb]["limits"]["power_writes_per_hour"] == 77, verb
        assert asked[verb]["budgets"]["ensure_s"] == 33.0, verb
