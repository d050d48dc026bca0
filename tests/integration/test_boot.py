"""The boot app over a real socket: a machine's whole way, and everything that must not open a window."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.conftest import MAC, Service, running

BOOT = "b00t-1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1hZGVVcEtleUZvclRlc3RzT25seTAwMDAwMDAwMDA root@r1"
DISKS = [{"name": "vda", "serial": "S1", "size": 10**10, "rotational": False}]


def started(service: Service, callback: str, **more: object) -> tuple[int, str]:
    fields = {"boot_id": BOOT, "macs": [MAC], "disks": DISKS, "disk": "vda", **more}
    answer = service.machine.post(f"{callback}/install-started", json=fields)
    return answer.status_code, answer.text


def test_a_machine_on_its_whole_way(service: Service) -> None:
    """Pain 11: what it fetches, its stages and its logs are on the timeline while it installs; S2-8: so is its end."""
    service.enrol()
    number = service.deploy_until_window()
    assert [what for what, _ in service.chassis["r1"].log] == ["on"]
    script = service.script()
    assert script.startswith("#!ipxe")
    assert f"/media/_r1.{number}/test/vmlinuz" in script
    assert "callback" not in script
    assert service.machine.get(f"/media/_r1.{number}/test/vmlinuz").content == b"kernel"
    answer, callback = service.tokens(script)
    assert service.machine.get(answer).status_code == 200, "installers fetch twice"
    assert started(service, callback) == (200, "go")
    assert started(service, callback) == (200, "go"), "the same boot asks again"
    server = service.get("/v1/servers/r1")
    assert server["run"]["go"]["disk"] == "vda"
    form = {"boot_id": BOOT, "stage": "packages", "percent": "40"}
    assert service.machine.post(f"{callback}/progress", data=form).status_code == 200
    told = f"cmdline: inst.ks={answer} quiet; {callback}/progress\n"
    assert service.machine.put(f"{callback}/log/anaconda.log", content=told.encode()).status_code == 200
    done = {"boot_id": BOOT, "ssh_host_keys": json.dumps([KEY]), "addresses": '["10.0.0.5"]'}
    reply = service.machine.get(f"{callback}/install-complete", params=done)
    assert (reply.status_code, reply.text) == (200, "ok")
    server = service.wait("r1", lambda server: server["provision_state"] == "active")
    assert (server["profile"], server["deployed_run"], server["run"]) == ("test", number, None)
    # An accepted signal repeated after the end still hears 200, but never "go".
    assert service.machine.get(f"{callback}/install-complete", params=done).status_code == 200
    assert started(service, callback) == (404, "not found")
    assert service.machine.get(answer).status_code == 404
    assert "boots its disk" in service.script()
    run = service.app.store.run(server["id"], number)
    assert run is not None
    assert (run.boot_id, run.disk, run.addresses, run.ssh_host_keys) == (BOOT, "vda", ("10.0.0.5",), (KEY,))
    time.sleep(0.8)
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    for word in (
        "kernel test/vmlinuz fetched",
        "ks.cfg fetched",
        "boot script served",
        f"go: run {number}",
        "40 %",
    ):
        assert any(word in note for note in notes), (word, notes)
    tell = service.get("/v1/servers/r1/timeline")
    assert (tell["outcome"], tell["disk"]) == ("active", "vda")
    (log,) = service.get("/v1/servers/r1/logs")["logs"]
    assert log["text"].endswith(
        "/answer/***/ks.cfg quiet; " + callback.rpartition("/")[0] + "/***/progress\n"
    )


@pytest.mark.parametrize("body", [None, "null", "{}"])
def test_a_rebuild_repeats_what_is_deployed_and_tokens_stay_secret(
    service: Service, body: str | None
) -> None:
    service.enrol()
    service.post("/v1/servers/r1/deploy", {"profile": "test", "vars": {"timezone": "Europe/Rome"}})
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    answer, callback = service.tokens(service.script())
    paths = ["/v1/events", "/v1/servers/r1/explain", "/v1/servers/r1/render", "/v1/servers/r1", "/metrics"]
    said = [service.api.get(path).text for path in paths]
    assert started(service, callback) == (200, "go")
    assert service.machine.get(f"{callback}/install-complete", params={"boot_id": BOOT}).text == "ok"
    service.wait("r1", lambda server: server["provision_state"] == "active")
    said += [service.api.get(path).text for path in ("/v1/events", "/v1/servers/r1/timeline")]
    for url in (answer, callback):
        token = urlsplit(url).path.split("/")[2]
        assert not any(token in text for text in said)
    plan = service.post("/v1/servers/r1/plan", {}, 200)
    assert (plan["verb"], plan["disk"]["chosen"]) == ("rebuild", "vda")
    kind = {"content-type": "application/json"} if body is not None else {}
    asked = service.api.post("/v1/servers/r1/rebuild", content=body, headers=kind)
    assert asked.status_code == 202, asked.text
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    record = service.app.store.server("r1")
    assert record.life.run is not None
    run = service.app.store.run(record.id, record.life.run.number)
    assert run is not None
    frozen = service.app.store.frozen(record.id, run.number)
    assert (run.profile, frozen["variables"]["timezone"]) == ("test", "Europe/Rome")


def test_a_rack_that_asks_at_once_is_counted_one_by_one(service: Service) -> None:
    """Requests that gather are committed together; three scripts per netboot are three, whoever asks beside (I3)."""
    macs = {f"r{number}": f"52:54:00:00:01:{number:02x}" for number in range(8)}
    for name, mac in macs.items():
        service.enrol(name, mac)
        service.deploy_until_window(name)
    asked = [(name, mac) for _ in range(6) for name, mac in macs.items()]
    with ThreadPoolExecutor(24) as threads:
        scripts = list(threads.map(lambda one: (one[0], service.script(one[1])), asked))
    for name in macs:
        served = [text for who, text in scripts if who == name and "/answer/" in text]
        assert len(served) == 3
        assert all(f"/media/_{name}." in text for text in served), "each hears its own"
        notes = [event["note"] for event in service.get(f"/v1/servers/{name}/events")["events"]]
        assert len([note for note in notes if note.startswith("boot script served")]) == 3


def test_everything_out_of_its_window_boots_its_disk(service: Service) -> None:
    """Pain 2: nothing but an open run is ever given an installer, whatever firmware asks for."""
    assert "unknown machine" in service.script("52:54:00:99:99:99")
    service.enrol()
    assert "nothing to install" in service.script()
    service.deploy_until_window()
    service.post("/v1/servers/r1/abort")
    assert "initrd" not in service.script()
    service.wait("r1", lambda server: server["provision_state"] == "deploy failed")
    assert "nothing to install" in service.script()
    assert "52:54:00:99:99:99" in [stranger["mac"] for stranger in service.get("/v1/unknown")["unknown"]]


def test_the_founding_systems_names_give_the_same_answer(service: Service) -> None:
    service.enrol()
    hexed, hyphens = MAC.replace(":", ""), MAC.replace(":", "-")
    want = service.script()
    for path in (f"/boot/mac-{hexed}.ipxe", f"/ipxe/cfg/mac-{hexed}.ipxe.cfg", f"/{hyphens}.ipxe"):
        assert service.machine.get(path).text == want, path
    assert service.machine.get("/boot/mac-525400999999.ipxe").status_code == 404
    assert "unknown machine" in service.machine.get("/52-54-00-99-99-99.ipxe").text
    first = service.machine.get("/boot.ipxe").text
    assert service.machine.get("/default.ipxe").text == first == service.machine.get("/ipxe/boot.ipxe").text
    assert f"{service.boot_url}/ipxe?mac=" in first


def test_the_debian_installer_gets_an_empty_second_preseed(service: Service) -> None:
    agent = {"user-agent": "debian-installer"}
    for path in ("/boot.ipxe", f"/ipxe?mac={MAC}"):
        answer = service.machine.get(path, headers=agent)
        assert (answer.status_code, answer.text) == (200, "")


def test_scripts_are_served_three_times_and_head_does_not_count(service: Service) -> None:
    """Pain 2: a machine that boots in circles is given its installer three times, and its disk from then on."""
    service.enrol()
    service.deploy_until_window()
    for _ in range(5):
        assert service.machine.head("/ipxe", params={"mac": MAC}).status_code == 404
    assert ["inst.ks=" in service.script() for _ in range(4)] == [True, True, True, False]


def test_head_is_no_signal(service: Service) -> None:
    service.enrol()
    service.deploy_until_window()
    answer, callback = service.tokens(service.script())
    params = {"boot_id": BOOT}
    assert service.machine.head(f"{callback}/install-started", params=params).status_code == 404
    assert service.machine.head(answer).status_code == 200
    assert service.get("/v1/servers/r1")["run"]["go"] is None


def test_a_boot_script_after_go_fails_the_run(service: Service) -> None:
    """Pain 2: a second installer is not started; the run says why."""
    service.enrol()
    service.deploy_until_window()
    _, callback = service.tokens(service.script())
    assert started(service, callback) == (200, "go")
    assert "inst.ks=" not in service.script()
    server = service.get("/v1/servers/r1")
    assert server["provision_state"] == "deploy failed"
    assert "BM405" in server["last_error"]
    assert service.machine.get(f"{callback}/install-complete", params={"boot_id": BOOT}).status_code == 404


def test_after_go_the_answer_file_is_for_the_one_that_asked(service: Service) -> None:
    service.enrol()
    service.deploy_until_window()
    answer, callback = service.tokens(service.script())
    there = {"x-forwarded-for": "10.9.9.9, 127.0.0.1"}
    assert service.machine.get(answer, headers=there).status_code == 200, "before go an address is only noted"
    reply = service.machine.post(f"{callback}/install-started", headers=there, json={"boot_id": BOOT})
    assert reply.text == "go"
    assert service.get("/v1/servers/r1")["run"]["go"]["address"] == "10.9.9.9"
    assert service.machine.get(answer, headers=there).status_code == 200
    assert service.machine.get(answer).status_code == 404


def test_strict_source_wants_one_address_throughout(tmp_path: Path) -> None:
    with running(tmp_path, more="[security]\nstrict_source = true\n") as strict:
        strict.enrol()
        strict.deploy_until_window()
        answer, callback = strict.tokens(strict.script())
        there = {"x-forwarded-for": "10.9.9.9"}
        assert strict.machine.get(answer, headers=there).status_code == 404
        started_there = strict.machine.post(
            f"{callback}/install-started", headers=there, json={"boot_id": BOOT}
        )
        assert started_there.status_code == 409
        assert started(strict, callback) == (200, "go")


def test_go_is_refused_to_another_machine_and_waits_in_maintenance(service: Service) -> None:
    service.enrol(uuid="564d4ac8-1f3b-4d2f-9c59-3a5f8f7b2f10", serial="SN-1")
    service.deploy_until_window()
    _, callback = service.tokens(service.script())
    for wrong in (
        {"macs": ["52:54:00:00:00:77"]},
        {"uuid": "00000000-1f3b-4d2f-9c59-3a5f8f7b2f10"},
        {"serial": "SN-2"},
        {"disk": "vda; rm -rf /"},
        {"boot_id": ""},
    ):
        assert started(service, callback, **wrong) == (409, "refused"), wrong
    service.post("/v1/servers/r1/maintenance", {"on": True})
    assert started(service, callback) == (503, "wait")
    service.post("/v1/servers/r1/maintenance", {"on": False})
    swapped = "c84a4d56-3b1f-2f4d-9c59-3a5f8f7b2f10"
    assert started(service, callback, uuid=swapped, serial="SN-1") == (200, "go")


def test_two_byte_orders_and_unknown_fields_are_no_reason_to_refuse(service: Service) -> None:
    service.enrol()
    service.deploy_until_window()
    _, callback = service.tokens(service.script())
    fields = {"boot_id": BOOT, "macs": json.dumps([MAC, "00:00:00:00:00:00"]), "vendor_extra": "x"}
    answer = service.machine.post(f"{callback}/install-started", data=fields)
    assert (answer.status_code, answer.text) == (200, "go")


def test_forgeries_get_one_uniform_not_found(service: Service) -> None:
    service.enrol()
    service.deploy_until_window()
    answer, callback = service.tokens(service.script())
    fetch = urlsplit(answer).path.split("/")[2]
    genuine = urlsplit(callback).path.split("/")[2]
    flipped = ("A" if genuine[5] != "A" else "B").join((genuine[:5], genuine[6:]))
    paths = [
        "/answer/nonsense/ks.cfg",
        f"/answer/{genuine}/ks.cfg",
        f"/answer/{fetch}/other.cfg",
        f"/callback/{fetch}/install-complete",
        f"/callback/{flipped}/install-complete",
        f"/callback/{genuine}/no-such-signal",
        "/callback/x/install-started",
        "/nothing",
        "/media/",
        "/",
    ]
    replies = {(service.machine.get(path).status_code, service.machine.get(path).text) for path in paths}
    assert replies == {(404, "not found")}
    server = service.get("/v1/servers/r1")
    assert server["run"]["go"] is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{" * 100, 409),
        (b"[" * 40000, 409),
        (b'{"disks": ' + b"[" * 30 + b"]" * 30 + b"}", 409),
        (b"\xff\xfe=\x00", 409),
        (b"a" * 70000, 413),
        (b"&".join(b"a%d=1" % n for n in range(500)), 409),
    ],
)
def test_malformed_call_backs_are_refused(service: Service, body: bytes, status: int) -> None:
    service.enrol()
    service.deploy_until_window()
    _, callback = service.tokens(service.script())
    answer = service.machine.post(f"{callback}/install-started", content=body)
    assert answer.status_code == status
    assert service.get("/v1/servers/r1")["run"]["go"] is None


def test_a_render_error_is_local_boot_with_its_reason_on_record(service: Service) -> None:
    service.enrol()
    number = service.deploy_until_window()
    record = service.app.store.server("r1")
    broken = json.loads(json.dumps(service.app.store.frozen(record.id, number)))
    broken["templates"]["texts"]["loaders/install.ipxe.j2"] = "#!ipxe\n{{ nowhere }}\n"
    broken["templates"]["digest"] = "0" * 64
    with service.app.store._db.write() as connection:
        connection.driver.execute("UPDATE frozen SET text = ? WHERE run = ?", (json.dumps(broken), number))
    assert "could not be rendered" in service.script()
    assert service.get("/v1/servers/r1")["run"]["step"] == "script"
    time.sleep(0.8)
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    assert any("BM203" in note for note in notes)


def test_a_database_fault_makes_machines_wait(fresh: Service) -> None:
    fresh.enrol()
    fresh.deploy_until_window()
    answer, callback = fresh.tokens(fresh.script())
    fresh.app.store.close()
    assert "asking again" in fresh.script()
    assert fresh.machine.get(answer).status_code == 503
    assert started(fresh, callback) == (503, "wait")
    assert fresh.machine.get("/boot.ipxe").status_code == 200
    assert fresh.api.get("/healthz").status_code == 503


def test_media_has_ranges_and_no_way_out(service: Service) -> None:
    media = service.folder / "data" / "media"
    (media / "test" / "tree").mkdir()
    (media / "test" / "secret").symlink_to("/etc/passwd")
    (media / "test" / "inside").symlink_to(media / "test" / "vmlinuz")
    (service.folder / "data" / "media-not").write_text("x")
    whole = service.machine.get("/media/test/initrd.img")
    assert len(whole.content) == 16384
    part = service.machine.get("/media/test/initrd.img", headers={"range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, bytes(range(256)))
    assert service.machine.get("/media/test/inside").content == b"kernel"
    for path in (
        "test/secret",
        "test/tree",
        "test/",
        "test",
        "test/../../control.token",
        "../control.token",
        "test/.x",
    ):
        assert service.machine.get(f"/media/{path}").status_code == 404, path
    raw = raw_request(
        service, b"GET /media/test/..%2f..%2fcontrol.token HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert b" 404 " in raw.split(b"\r\n")[0]


def test_half_a_header_does_not_hold_a_connection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baremetal.web.protocol.HEAD_S", 0.5)
    began = time.monotonic()
    assert raw_request(service, b"GET /boot.ipxe HTTP/1.1\r\nHost:") == b""
    assert time.monotonic() - began < 5
    assert raw_request(service, b"GET /" + b"a" * 3_000_000) == b""


def test_a_body_that_never_comes_is_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baremetal.web.limits.BODY_S", 0.5)
    service.enrol()
    service.deploy_until_window()
    _, callback = service.tokens(service.script())
    path = urlsplit(callback).path.encode()
    reply = raw_request(
        service, b"POST " + path + b"/progress HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    )
    assert b" 503 " in reply.split(b"\r\n")[0]


def raw_request(service: Service, data: bytes) -> bytes:
    parts = urlsplit(service.boot_url)
    received = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as sock:
        try:
            sock.sendall(data)
            while chunk := sock.recv(65536):
                received += chunk
                if b"\r\n\r\n" in received:
                    break
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received
