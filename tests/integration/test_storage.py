"""Diskless servers through the API, on a real tgtd: what is made, by which names, who is let in, and what is refused.

The machine is played by the test: it fetches its script, reads its seed, and calls home. On real firmware the same is
done in tests/lab/test_volumes.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from baremetal.lifecycle.model import BootDevice
from baremetal.service.boot.machine import Machine
from baremetal.sim.bootflags import BootFlagBytes
from tests.integration.conftest import MAC
from tests.integration.hall import BASE, Hall, settings_of
from tests.integration.hall import diskless as diskless  # a fixture
from tests.integration.hall import hall as hall  # a fixture
from tests.integration.hall import shared_service as shared_service  # a fixture


def test_a_clone_from_golden_image_to_active_and_back(diskless: Hall) -> None:
    """S0-4, S0-6, S0-9, S1-3, S4-9: the volume, its names and its script; release takes all of it away."""
    hall = diskless
    run = hall.deploy()
    (name,) = [one for one in hall.volumes() if one.startswith("bm-")]
    volume = hall.volumes()[name]
    assert (volume["server"], volume["run"], volume["origin"], volume["ready"]) == (
        "r1",
        run,
        "golden-tiny",
        True,
    )
    assert (hall.folder / name / "disk.img").read_bytes()[:6000] == b"golden" * 1000
    said = hall.settings()
    assert said["initiator-iqn"] == f"{BASE}:r1"
    assert said["root-path"] == f"iscsi:127.0.0.1::{hall.daemon.port}:1:{BASE}:r1.main"
    assert said["keep-san"] == "1"
    assert hall.knock()
    hall.boot_first()
    shown = hall.service.wait("r1", lambda server: server["provision_state"] == "active")
    assert shown["deployed_run"] == run
    assert hall.knock(), "an active diskless server gets its volume whenever it asks (I7)"
    hall.service.post("/v1/servers/r1/release")
    assert hall.rest()["provision_state"] == "available"
    assert set(hall.volumes()) == {"golden-tiny"}
    assert hall.targets() == {}
    assert "sanboot" not in hall.script()


def test_a_gateway_for_a_storage_network_that_has_none(diskless: Hall) -> None:
    """S0-10: by quirk, in each script that leads to the volume."""
    diskless.make_active()
    assert "gateway" not in diskless.script()
    answer = diskless.service.api.patch("/v1/servers/r1", json={"quirks": ["san_gateway=portal"]})
    assert answer.status_code == 200, answer.text
    before, _, after = diskless.script().partition("set netX/gateway 127.0.0.1\n")
    assert "sanboot" in after
    assert "sanboot" not in before


def test_the_boot_device_is_pxe_for_good_from_the_power_on_to_the_release(diskless: Hall) -> None:
    """I6."""

    def flags() -> BootFlagBytes:
        bmc = diskless.service.bmcs["r1"]
        return BootFlagBytes.decode(bmc.options.read(5, bmc.knobs, bmc.clock())[2:])

    diskless.make_active()
    assert (flags().valid, flags().persistent, flags().device) == (True, True, BootDevice.PXE)
    diskless.service.post("/v1/servers/r1/release")
    diskless.rest()
    assert not flags().valid


def test_in_maintenance_it_still_gets_its_volume(diskless: Hall) -> None:
    """I7, I17."""
    diskless.make_active()
    diskless.service.post("/v1/servers/r1/maintenance", {"on": True})
    assert diskless.knock()


def test_while_the_database_is_down_it_gets_its_last_known_volume(
    diskless: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7; and a server that was released meanwhile does not."""
    diskless.make_active()
    whole = diskless.script()

    def down(*_: object, **__: object) -> Any:
        from baremetal.errors import Unavailable

        raise Unavailable("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(diskless.service.app.store, "find_boot", down)
        patch.setattr(diskless.service.app.store, "doors", down)
        assert diskless.script() == whole
        assert "sanboot" not in diskless.service.script("52:54:00:00:00:99")
    diskless.service.post("/v1/servers/r1/release")
    diskless.rest()
    with monkeypatch.context() as patch:
        patch.setattr(diskless.service.app.store, "find_boot", down)
        assert "sanboot" not in diskless.script()


def test_a_rebuild_makes_a_new_volume_and_a_new_secret_and_the_old_one_goes_after_the_proof(
    diskless: Hall,
) -> None:
    diskless.make_active()
    (old,) = [name for name in diskless.volumes() if name.startswith("bm-")]
    secret = diskless.settings()["password"]
    (diskless.folder / old / "disk.img").write_bytes(b"written since")
    diskless.service.post("/v1/servers/r1/rebuild", {"method": "clone"})
    diskless.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    assert old in diskless.volumes(), "until the new one is proven"
    assert diskless.settings()["password"] != secret
    (new,) = set(diskless.volumes()) - {old, "golden-tiny"}
    assert diskless.targets()[f"{BASE}:r1.main"].luns[0].path == str(diskless.folder / new / "disk.img")
    diskless.boot_first()
    diskless.service.wait("r1", lambda server: server["provision_state"] == "active")
    assert set(diskless.volumes()) == {new, "golden-tiny"}
    assert (diskless.folder / new / "disk.img").read_bytes()[:6] == b"golden"


def test_aborted_before_its_first_boot_it_can_be_deployed_again(diskless: Hall) -> None:
    diskless.deploy()
    diskless.service.post("/v1/servers/r1/abort")
    assert diskless.rest()["provision_state"] == "deploy failed"
    assert "sanboot" not in diskless.script()
    diskless.make_active()
    assert len(diskless.volumes()) == 2, "what the aborted run left went when the next one was proven"


def test_a_forged_or_foreign_first_boot_moves_nothing(diskless: Hall) -> None:
    diskless.deploy()
    answer = diskless.service.machine.post("/callback/forged/first-boot", data={"boot_id": "b1"})
    assert answer.status_code == 404
    assert diskless.service.get("/v1/servers/r1")["provision_state"] == "wait call-back"


def test_no_chap_secret_is_shown_anywhere_but_in_the_boot_script(diskless: Hall) -> None:
    """I23."""
    diskless.make_active()
    secret = diskless.settings()["password"]
    for path in ("/v1/servers/r1", "/v1/servers/r1/events", "/v1/servers/r1/explain", "/v1/volumes", "/v1/storage/nas",
                 "/v1/events", "/v1/servers/r1/timeline"):  # fmt: skip
        assert secret not in diskless.service.api.get(path).text, path
    assert "sanboot" in diskless.service.api.get("/v1/servers/r1/explain").text
    store = diskless.service.app.store
    (door,) = store.doors(diskless.service.get("/v1/servers/r1")["id"])
    assert door.secrets[1] == secret
    assert secret not in repr(door)


def test_people_see_the_volume_that_an_installer_will_be_given(hall: Hall) -> None:
    """S0-10: plan and render before the run, explain within it: what the script will say, but for the secret."""
    service = hall.service
    media = service.app.config.media_dir / "onto"
    media.mkdir()
    for name in ("vmlinuz", "initrd.img", "image.raw"):
        (media / name).write_bytes(b"a file")
    service.enrol(boot_target="iscsi", vars={"volume_size": "4M"})
    plan = service.post("/v1/servers/r1/plan", {"profile": "onto"}, 200)
    rendered = service.get("/v1/servers/r1/render", profile="onto")
    service.post("/v1/servers/r1/deploy", {"profile": "onto"})
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    explained = service.get("/v1/servers/r1/explain")["paths"][0]["script"]
    during = service.get("/v1/servers/r1/render")
    for told in (
        plan["files"][0]["text"],
        rendered["files"][0]["text"],
        explained,
        during["files"][0]["text"],
    ):
        assert f"set root-path iscsi:127.0.0.1::{hall.daemon.port}:1:{BASE}:r1.main" in told
        assert "set password masked" in told
    real = hall.settings()
    assert real["initiator-iqn"] == f"{BASE}:r1"
    assert real["password"] not in explained


def test_a_script_that_is_asked_for_while_its_run_ends_is_that_of_the_volume(diskless: Hall) -> None:
    """I7: the machine was looked up in the run, and is answered after it; active, it hears of nothing else."""
    diskless.deploy()
    whole = diskless.script()
    boot = diskless.service.app.boot_answers
    look = boot.look(Machine(mac=MAC, address="192.0.2.7", base=diskless.service.boot_url))
    assert look.commits
    diskless.boot_first()
    server = diskless.service.wait("r1", lambda server: server["provision_state"] == "active")
    (text,) = boot.settle([look])
    assert server["run"] is None
    assert settings_of(text) == settings_of(whole)
    assert "sanboot" in text


def test_a_rebuild_that_fails_before_the_target_is_touched_leaves_the_old_system(diskless: Hall) -> None:
    """I7: the volume that it had is still served and still its own; the next deploy replaces it once that is proven."""
    run = diskless.make_active()
    before, script = diskless.targets(), diskless.script()
    server = diskless.service.get("/v1/servers/r1")
    taken = diskless.folder / f"bm-r1-{server['id'][:6]}-{run + 1}"
    taken.mkdir()
    diskless.service.post("/v1/servers/r1/rebuild", {"profile": "clone"})
    shown = diskless.rest()
    assert (shown["provision_state"], shown["deployed_run"]) == ("deploy failed", run)
    assert "BM805" in shown["last_error"]
    assert diskless.targets() == before
    assert diskless.script().splitlines()[3:] == script.splitlines()[3:]
    assert diskless.knock()
    taken.rmdir()
    diskless.make_active()
    assert len(diskless.volumes()) == 2


def test_what_stands_in_the_way_of_a_deploy_is_said_before_it_begins(diskless: Hall) -> None:
    service = diskless.service
    for body, code in (
        ({"profile": "clone", "vars": {"golden": "tinny"}}, "BM810"),
        ({"profile": "clone", "vars": {"storage": "nass"}}, "BM809"),
        ({"profile": "clone", "boot_target": "disk"}, "BM505"),
        ({"profile": "test"}, "BM505"),  # an installer onto a volume of which nobody said how large
        ({"profile": "test", "vars": {"volume_size": "much"}}, "BM505"),
        ({"profile": "test", "method": "clone"}, "BM505"),
    ):
        answer = service.api.post("/v1/servers/r1/deploy", json=body)
        assert answer.json()["code"] == code, answer.text
    assert service.get("/v1/servers/r1")["provision_state"] == "available"
    plan = service.post("/v1/servers/r1/plan", {"profile": "clone"}, 200)
    assert plan["ok"], plan["problems"]
    assert plan["volume"]["image"] == "tiny"
    assert plan["volume"]["target"] == f"{BASE}:r1.main"
    assert [step["name"] for step in plan["steps"]][:4] == ["volume", "off", "serve", "pxe"]
    assert set(diskless.volumes()) == {"golden-tiny"}


def test_a_mac_that_is_replaced_leaves_the_server_its_volume(diskless: Hall) -> None:
    """Names by the server's name do not change with its NIC; the script is found by the new one."""
    diskless.make_active()
    answer = diskless.service.api.patch("/v1/servers/r1", json={"macs": ["52:54:00:00:00:77"]})
    assert answer.status_code == 200, answer.text
    assert "sanboot" in diskless.service.script("52:54:00:00:00:77")
    assert "sanboot" not in diskless.service.script(MAC)


def test_names_by_the_mac_follow_when_a_nic_is_replaced(hall: Hall) -> None:
    """S0-6, S1-5: the volume stays, its names are new; not while the system runs, for it lives on the old ones."""
    names = {"target": "{base}:{mac_hex}.{system}", "initiator": "{base}:{hostname}-{mac}"}
    service, old, new = hall.service, f"{BASE}:525400000001.main", f"{BASE}:525400000077.main"
    service.post("/v1/storage", {"name": "by-mac", **hall.facts(**names, folder=str(hall.folder))}, 201)
    image = hall.folder.parent / "tiny.raw"
    service.post("/v1/volumes", {"name": "mine", "path": str(image), "storage": "by-mac"}, 201)
    service.enrol(boot_target="iscsi", vars={"storage": "by-mac", "golden": "mine"})
    hall.make_active()
    try:
        assert set(hall.targets()) == {old}
        body = {"macs": ["52:54:00:00:00:77"]}
        assert service.api.patch("/v1/servers/r1", json=body).status_code == 409, "it runs"
        assert service.api.put("/v1/servers/r1/power", json={"target": "off"}).status_code == 200
        assert service.api.patch("/v1/servers/r1", json=body).status_code == 200
        assert set(hall.targets()) == {new}
        assert hall.targets()[new].initiators == (f"{BASE}:r1-52:54:00:00:00:77",)
        assert f"{BASE}:525400000077.main" in service.script("52:54:00:00:00:77")
        service.post("/v1/servers/r1/release")
        assert hall.rest()["provision_state"] == "available"
        assert hall.targets() == {}
    finally:
        service.api.delete("/v1/servers/r1?force=true")
        for name in sorted(name for name, one in hall.volumes().items() if one["storage"] == "by-mac"):
            assert service.api.delete(f"/v1/volumes/{name}?storage=by-mac").status_code == 204
        assert service.api.delete("/v1/storage/by-mac").status_code == 204
