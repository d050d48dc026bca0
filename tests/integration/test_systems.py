"""Several systems on one server's volumes, through the API: added, chosen, shown in a menu, replaced and taken away."""

from __future__ import annotations

import re

import pytest

from baremetal.drivers.keys import generate_keypair
from baremetal.errors import StorageError, StorageErrorKind
from baremetal.storage.host import StorageHost
from tests.integration.conftest import MAC, Service
from tests.integration.hall import BASE, Hall
from tests.integration.hall import diskless as diskless  # a fixture
from tests.integration.hall import hall as hall  # a fixture
from tests.integration.hall import shared_service as shared_service  # a fixture


@pytest.fixture
def two(diskless: Hall) -> Hall:
    """A server with the systems `main` and `Windows10`, of which it boots the second."""
    diskless.make_active()
    diskless.deploy(verb="rebuild", system="Windows10")
    diskless.boot_first(generate_keypair("other host").public)
    diskless.service.wait("r1", lambda server: server["provision_state"] == "active")
    return diskless


def _boots(service: Service) -> str:
    found = re.search(r"^set root-path \S+:(\S+)$", service.script(MAC), re.MULTILINE)
    assert found is not None, service.script(MAC)
    return f"{BASE}:{found[1]}"


def _systems(service: Service) -> list[tuple[str, bool]]:
    return [(one["name"], one["boots"]) for one in service.get("/v1/servers/r1")["systems"]]


def _choose(service: Service, system: str, status: int = 200) -> str:
    answer = service.api.patch("/v1/servers/r1", json={"boot": system})
    assert answer.status_code == status, answer.text
    return answer.text


def test_a_further_system_stands_beside_the_first(two: Hall) -> None:
    """S0-6, S4-5: a target per system, each with its own secret; both let this server in, and the newest is booted."""
    assert set(two.targets()) == {f"{BASE}:r1.main", f"{BASE}:r1.Windows10"}
    assert _systems(two.service) == [("Windows10", True), ("main", False)]
    assert len([name for name in two.volumes() if name.startswith("bm-")]) == 2
    assert _boots(two.service) == f"{BASE}:r1.Windows10"
    assert two.knock(target=f"{BASE}:r1.Windows10")
    assert not two.knock(target=f"{BASE}:r1.main"), "with the secret of the other"


def test_the_one_that_is_chosen_is_booted_next(two: Hall) -> None:
    """S4-5, S4-17: switched through the API, in maintenance too; nothing is written to the machine."""
    two.service.post("/v1/servers/r1/maintenance", {"on": True})
    _choose(two.service, "main")
    assert _boots(two.service) == f"{BASE}:r1.main"
    assert two.knock(), "with the secret of its own"
    assert _systems(two.service) == [("Windows10", False), ("main", True)]
    notes = [event["note"] for event in two.service.get("/v1/servers/r1/events")["events"]]
    assert any(note.startswith("boots main from now on, by ") for note in notes)
    found = two.service.get("/v1/servers/r1/ssh")
    assert len(found["host_keys"]) == 2, "what runs just now is the other one"
    _choose(two.service, "main")
    refused = _choose(two.service, "ubuntu", 409)
    assert "no such system; it has main, Windows10" in refused


def test_a_menu_offers_them_all_where_one_is_asked_for(two: Hall) -> None:
    """S0-5, S0-8: default and time-out; the chosen system first, then the others, each with its own secret."""
    assert "item" not in two.service.script(MAC)
    answer = two.service.api.patch("/v1/servers/r1", json={"vars": {"menu_timeout_s": "10"}})
    assert answer.status_code == 200, answer.text
    script = two.service.script(MAC)
    assert "item answer Boot Windows10" in script
    assert "item system-main Boot main" in script
    assert "choose --default answer --timeout 10000" in script
    first, _, second = script.partition(":system-main")
    assert f"{BASE}:r1.Windows10" in first
    assert f"{BASE}:r1.main" in second
    secrets = re.findall(r"^set password (\S+)$", script, re.MULTILINE)
    assert len(set(secrets)) == 2
    explained = two.service.api.get("/v1/servers/r1/explain").text
    assert not any(secret in explained for secret in secrets)


def test_a_rebuild_replaces_the_one_it_names_and_no_other(two: Hall) -> None:
    before = set(two.volumes())
    two.deploy(verb="rebuild", system="main")
    two.boot_first()
    two.rest()
    assert _systems(two.service) == [("Windows10", False), ("main", True)]
    gone, new = before - set(two.volumes()), set(two.volumes()) - before
    assert ([name[-2:] for name in sorted(gone)], [name[-2:] for name in sorted(new)]) == (["-2"], ["-4"])
    assert set(two.targets()) == {f"{BASE}:r1.main", f"{BASE}:r1.Windows10"}


def test_a_reset_is_of_the_system_that_it_boots(two: Hall) -> None:
    """S4-9."""
    two.service.post("/v1/servers/r1/rebuild", {"method": "clone"})
    two.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    two.boot_first()
    two.rest()
    assert _systems(two.service) == [("Windows10", True), ("main", False)]


def test_after_a_failed_rebuild_one_that_is_there_is_booted_again_and_none_is_replaced_unasked(
    two: Hall,
) -> None:
    """I21: nobody is asked to guess which system a deploy is for."""
    two.deploy(verb="rebuild", system="Windows10")
    two.service.post("/v1/servers/r1/abort")
    assert two.rest()["provision_state"] == "deploy failed"
    assert _systems(two.service) == [("main", False)]
    refused = two.service.post("/v1/servers/r1/deploy", {"profile": "clone"}, 422)
    assert "which of its systems" in refused["message"]
    assert "sanboot" not in two.script()
    _choose(two.service, "main")
    assert _boots(two.service) == f"{BASE}:r1.main"
    two.deploy(system="Windows10")
    two.boot_first()
    assert two.rest()["provision_state"] == "active"
    assert _systems(two.service) == [("Windows10", True), ("main", False)]


def test_a_choice_beside_facts_that_are_refused_is_not_made(two: Hall) -> None:
    answer = two.service.api.patch("/v1/servers/r1", json={"boot": "main", "macs": ["no MAC"]})
    assert answer.status_code == 422
    assert _systems(two.service) == [("Windows10", True), ("main", False)]


def test_release_takes_them_all(two: Hall) -> None:
    two.service.post("/v1/servers/r1/release")
    assert two.rest()["provision_state"] == "available"
    assert two.targets() == {}
    assert set(two.volumes()) == {"golden-tiny"}
    assert two.service.get("/v1/servers/r1")["systems"] == []


def _cut_off_half_way(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage host goes away once the new names are written down; the same request is made again (P5)."""

    def away(*_: object, **__: object) -> bool:
        raise StorageError("gone", StorageErrorKind.UNREACHABLE)

    body = {"macs": ["52:54:00:00:00:78"]}
    with monkeypatch.context() as patch:
        patch.setattr(StorageHost, "serve", away)
        assert hall.service.api.patch("/v1/servers/r1", json=body).status_code >= 500
    assert hall.service.api.patch("/v1/servers/r1", json=body).status_code == 200


def test_both_are_served_again_and_follow_a_new_nic(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4-11, S0-6: what holds for one system holds for each."""
    service = hall.service
    names = {"target": "{base}:{mac_hex}.{system}", "initiator": "{base}:{hostname}-{mac}"}
    service.post("/v1/storage", {"name": "by-mac", **hall.facts(**names)}, 201)
    image = hall.folder.parent / "tiny.raw"
    service.post("/v1/volumes", {"name": "mine", "path": str(image), "storage": "by-mac"}, 201)
    service.enrol(boot_target="iscsi", vars={"storage": "by-mac", "golden": "mine"})
    try:
        hall.make_active()
        hall.deploy(verb="rebuild", system="second")
        hall.boot_first()
        hall.rest()
        hall.daemon.restart()
        assert hall.targets() == {}
        assert service.post("/v1/storage/by-mac/restore", status=200)["served"] == ["r1", "r1"]
        assert service.api.put("/v1/servers/r1/power", json={"target": "off"}).status_code == 200
        body = {"macs": ["52:54:00:00:00:77"]}
        assert service.api.patch("/v1/servers/r1", json=body).status_code == 200
        assert set(hall.targets()) == {f"{BASE}:525400000077.{name}" for name in ("main", "second")}
        _cut_off_half_way(hall, monkeypatch)
        assert set(hall.targets()) == {f"{BASE}:525400000078.{name}" for name in ("main", "second")}
    finally:
        service.api.delete("/v1/servers/r1?force=true")
        for name in sorted(name for name, one in hall.volumes().items() if one["storage"] == "by-mac"):
            assert service.api.delete(f"/v1/volumes/{name}?storage=by-mac").status_code == 204
        assert service.api.delete("/v1/storage/by-mac").status_code == 204


@pytest.mark.parametrize(
    ("order", "what"),
    [
        ({"system": "no_such"}, "system 'no_such'"),
        ({"system": "-"}, "system '-'"),
        ({"system": "x" * 25}, "not 1 to 24 letters"),
        ({"system": "second", "boot_target": "disk", "profile": "test"}, "only on volumes"),
    ],
)
def test_names_that_cannot_be(diskless: Hall, order: dict[str, str], what: str) -> None:
    refused = diskless.service.post("/v1/servers/r1/deploy", {"profile": "clone", **order}, 422)
    assert what in refused["message"]


def test_a_template_that_names_no_system_has_room_for_one(hall: Hall) -> None:
    """Two systems by one target's name would be one: refused before anything is made."""
    service = hall.service
    service.post("/v1/storage", {"name": "flat", **hall.facts(target="{base}:flat.{server}")}, 201)
    image = hall.folder.parent / "tiny.raw"
    service.post("/v1/volumes", {"name": "flat", "path": str(image), "storage": "flat"}, 201)
    service.enrol(boot_target="iscsi", vars={"storage": "flat", "golden": "flat"})
    try:
        hall.make_active()
        refused = service.post("/v1/servers/r1/rebuild", {"profile": "clone", "system": "second"}, 422)
        assert "is that of its system main" in refused["message"]
    finally:
        service.api.delete("/v1/servers/r1?force=true")
        for name in sorted(name for name, one in hall.volumes().items() if one["storage"] == "flat"):
            assert service.api.delete(f"/v1/volumes/{name}?storage=flat").status_code == 204
        assert service.api.delete("/v1/storage/flat").status_code == 204
