"""Storage hosts: added, away, restarted, another's things on them, and arrays whose LUNs are made by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from baremetal.storage.host import StorageHost
from baremetal.storage.tgt import Tgt
from tests.integration.conftest import enrolment
from tests.integration.hall import BASE, HOST_KEY, MIB, Hall
from tests.integration.hall import diskless as diskless  # a fixture
from tests.integration.hall import hall as hall  # a fixture
from tests.integration.hall import shared_service as shared_service  # a fixture


def test_a_restarted_storage_host_serves_again_what_it_served(diskless: Hall) -> None:
    """S4-11: tgt forgets everything; the doctor sees it, one command mends it, and no volume is touched."""
    diskless.make_active()
    before = diskless.targets()
    diskless.daemon.restart()
    assert diskless.targets() == {}
    checks = {one["name"]: one for one in diskless.service.get("/v1/doctor")["checks"]}
    assert "storage restore nas" in checks["storage nas"]["fix"]
    assert diskless.service.get("/v1/storage/nas")["not_served"] == ["r1"]
    assert diskless.service.post("/v1/storage/nas/restore", status=200) == {"served": ["r1"], "failed": {}}
    assert diskless.targets() == before
    assert diskless.knock()
    assert diskless.service.post("/v1/storage/nas/restore", status=200) == {"served": [], "failed": {}}


def test_what_is_restored_while_it_is_released_stays_released(
    diskless: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that was listed for restoring is withdrawn before its turn comes: it is not served again."""
    diskless.make_active()
    diskless.daemon.restart()
    honest = Tgt.targets

    def release_meanwhile(tgt: Tgt) -> Any:
        there = honest(tgt)
        monkeypatch.setattr(Tgt, "targets", honest)
        listed = StorageHost.serve

        def late(host: StorageHost, *args: Any, **more: Any) -> bool:
            monkeypatch.setattr(StorageHost, "serve", listed)
            diskless.service.post("/v1/servers/r1/release")
            diskless.rest()
            return listed(host, *args, **more)

        monkeypatch.setattr(StorageHost, "serve", late)
        return there

    monkeypatch.setattr(Tgt, "targets", release_meanwhile)
    done = diskless.service.post("/v1/storage/nas/restore", status=200)
    assert (done["served"], set(done["failed"])) == ([], {"r1"})
    assert diskless.targets() == {}
    assert set(diskless.volumes()) == {"golden-tiny"}


def test_a_storage_host_that_is_known_no_more_is_said_and_not_waited_for(
    diskless: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out of the configuration while it keeps a volume: the release says so, and works once it is back."""
    diskless.make_active()
    with monkeypatch.context() as patch:
        patch.setattr(diskless.service.app.services.storage, "all", dict)
        diskless.service.post("/v1/servers/r1/release")
        server = diskless.rest()
    assert server["provision_state"] == "error"
    assert "BM809" in server["last_error"]
    assert "no storage host 'nas'" in server["last_error"]
    diskless.service.post("/v1/servers/r1/release")
    assert diskless.rest()["provision_state"] == "available"
    assert diskless.targets() == {}


def test_a_storage_host_that_is_away_is_waited_for(diskless: Hall) -> None:
    diskless.daemon.stop()
    diskless.service.post("/v1/servers/r1/deploy", {"profile": "clone"})
    shown = diskless.service.wait("r1", lambda server: "BM801" in json.dumps(server["run"]))
    assert shown["run"]["step"] == "serve"
    diskless.daemon.start()
    diskless.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    diskless.boot_first()
    diskless.service.wait("r1", lambda server: server["provision_state"] == "active")


def test_a_target_of_somebody_else_is_left_and_said(diskless: Hall, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.img"
    foreign.write_bytes(bytes(MIB))
    admin = diskless.daemon.admin
    admin("--mode", "target", "--op", "new", "--tid", "9", "-T", f"{BASE}:r1.main")
    admin("--mode", "logicalunit", "--op", "new", "--tid", "9", "--lun", "1", "-b", str(foreign))
    before = diskless.targets()
    diskless.service.post("/v1/servers/r1/deploy", {"profile": "clone"})
    shown = diskless.rest()
    assert shown["provision_state"] == "deploy failed"
    assert "BM806" in shown["last_error"]
    assert diskless.targets() == before
    admin("--mode", "target", "--op", "delete", "--force", "--tid", "9")


def test_a_volume_of_somebody_else_is_left_and_said(diskless: Hall) -> None:
    server = diskless.service.get("/v1/servers/r1")
    foreign = diskless.folder / f"bm-r1-{server['id'][:6]}-{server['runs'] + 1 if 'runs' in server else 2}"
    foreign.mkdir()
    (foreign / "disk.img").write_bytes(b"not ours")
    diskless.service.post("/v1/servers/r1/deploy", {"profile": "clone"})
    shown = diskless.rest()
    assert "BM805" in shown["last_error"]
    assert (foreign / "disk.img").read_bytes() == b"not ours"
    (foreign / "disk.img").unlink()
    foreign.rmdir()


def test_a_target_that_a_forgotten_server_left_is_said_at_once(hall: Hall) -> None:
    """Not found out by a run, again and again."""
    hall.service.enrol(boot_target="iscsi")
    hall.make_active()
    assert hall.service.api.delete("/v1/servers/r1").status_code == 409
    assert hall.service.api.delete("/v1/servers/r1?force=true").status_code == 204
    hall.service.unplug()
    hall.service.enrol(boot_target="iscsi")
    answer = hall.service.post("/v1/servers/r1/deploy", {"profile": "clone"}, 409)
    assert answer["code"] == "BM805"
    (name,) = [one for one in hall.volumes() if one.startswith("bm-")]
    assert hall.service.api.delete(f"/v1/volumes/{name}").status_code == 204
    assert hall.targets() == {}
    hall.make_active()


def test_what_a_storage_action_breaks_on_is_told_once_in_a_while(
    diskless: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I15: a fault that nobody foresaw is no reason to try without a pause."""
    store = diskless.service.app.store

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_door", broken)
        diskless.service.post("/v1/servers/r1/deploy", {"profile": "clone"})
        diskless.service.wait("r1", lambda server: "KeyError" in json.dumps(server["run"]))
        before = store.last_history_id()
        time.sleep(2.0)
        assert store.last_history_id() - before < 12
    diskless.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")


def test_one_servers_trouble_keeps_no_other_from_being_served_again(diskless: Hall) -> None:
    diskless.make_active()
    (first,) = [name for name in diskless.volumes() if name.startswith("bm-")]
    diskless.service.enrol("r2", "52:54:00:00:00:02", boot_target="iscsi")
    diskless.service.post("/v1/servers/r2/deploy", {"profile": "clone"})
    diskless.service.wait("r2", lambda server: (server["run"] or {}).get("step") == "script")
    diskless.daemon.restart()
    image = diskless.folder / first / "disk.img"
    image.rename(image.with_name("away"))
    done = diskless.service.post("/v1/storage/nas/restore", status=200)
    assert list(done["failed"]) == ["r1", "r2"], "the second is in a run, which serves it by itself"
    image.with_name("away").rename(image)
    assert diskless.service.post("/v1/storage/nas/restore", status=200)["served"] == ["r1"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"portal": "nas.example.net"}, "BM505"),
        ({"base_iqn": "org.example"}, "BM505"),
        ({"kind": "iscsi"}, "BM505"),
        ({"chap": "false"}, "BM505"),
        ({"first_lun": "1"}, "BM505"),
        ({"target": 7}, "BM505"),
        ({"folder": "/nowhere/at/all"}, "BM804"),
        ({"socket": "/nowhere/socket.0"}, "BM804"),
        ({"address": "127.0.0.1", "ssh_port": 1, "host_key": HOST_KEY}, "BM801"),
        ({"address": "127.0.0.1", "ssh_port": 1}, "BM801"),
        ({"address": "127.0.0.1", "host_key": "ssh-ed25519 AAAAB"}, "BM505"),
        ({"address": "127.0.0.1", "host_key": "AAAA"}, "BM505"),
    ],
)
def test_a_storage_host_that_cannot_be_right_is_not_added(
    hall: Hall, change: dict[str, Any], code: str
) -> None:
    answer = hall.service.api.post("/v1/storage", json={"name": "other", **hall.facts(**change)})
    assert answer.status_code in (422, 502, 504), answer.text
    assert answer.json()["code"] == code
    assert [one["name"] for one in hall.service.get("/v1/storage")["storage"]] == ["nas"]


def test_an_array_whose_luns_are_made_by_hand(hall: Hall) -> None:
    """S0-6, S0-7, S1-3, S1-4, S1-6: the exact steps; a system that is there already is adopted and booted."""
    service = hall.service
    facts = {
        "kind": "external",
        "portal": "192.0.2.5",
        "base_iqn": "iqn.2000-01.com.synology",
        "first_lun": 1,
    }
    names = {"target": "{base}:{hostname}.{system}", "initiator": "{base}:{hostname}"}
    service.post("/v1/storage", {"name": "ds918", **facts, **names}, 201)
    service.plug("r1")
    service.post("/v1/servers", enrolment(boot_target="iscsi", adopt=True), 201)
    service.wait("r1", lambda server: server["provision_state"] == "active")
    assert "sanboot" not in hall.script(), "nobody has said yet where its volume is"
    told = "\n".join(service.post("/v1/storage/ds918/steps", {"server": "r1", "size": "20G"}, 200)["steps"])
    uri = "iscsi:192.0.2.5:::1:iqn.2000-01.com.synology:r1.main"
    for words in (
        "a LUN of 20 GiB",
        "named exactly iqn.2000-01.com.synology:r1.main, and map the LUN to it as number 1",
        "the initiator iqn.2000-01.com.synology:r1 and nobody else",
        "iscsiadm -m discovery -t st -p 192.0.2.5:3260",
        "iscsiadm -m node -T iqn.2000-01.com.synology:r1.main -p 192.0.2.5:3260 -l",
        "iscsiadm -m session -P3",
        f"sanboot {uri}",
        "iscsi_target=iqn.2000-01.com.synology:r1.main iscsi_address=192.0.2.5",
        "iscsi_initiatorname=iqn.2000-01.com.synology:r1 ip=dhcp",
    ):
        assert words in told, told
    service.post("/v1/storage/ds918/steps", {"server": "r1", "system": "lab"}, 200)
    said = hall.settings()
    assert said["root-path"] == uri, "what another system would need is told, and changes nothing"
    assert f"user {said['username']}, password {said['password']}." in told
    assert service.post("/v1/storage/ds918/steps", {"server": "r1", "size": "20G"}, 200)[
        "steps"
    ] == told.split("\n")
    refused = service.post("/v1/servers/r1/rebuild", {"profile": "clone", "vars": {"storage": "ds918"}}, 422)
    assert "made by hand" in refused["message"]
    assert service.post("/v1/storage/nas/steps", {"server": "r1"}, 409)["code"] == "BM502"
    service.post("/v1/servers/r1/release")
    assert hall.rest()["provision_state"] == "available"
    service.api.delete("/v1/servers/r1")
    assert service.api.delete("/v1/storage/ds918").status_code == 204
