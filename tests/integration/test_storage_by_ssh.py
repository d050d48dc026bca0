"""A storage host that is reached by SSH, through the API: its host key is shown, pinned, and the only one believed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Service
from tests.integration.hall import BASE, Hall
from tests.integration.hall import hall as hall  # a fixture
from tests.integration.hall import shared_service as shared_service  # a fixture
from tests.openssh import OpenSsh, openssh
from tests.sshd import private


def _public(service: Service) -> str:
    key = private((service.app.config.key_file.parent / "proof_key").read_text())
    return f"{key.get_name()} {key.get_base64()}"


@pytest.fixture
def daemon(hall: Hall, tmp_path: Path) -> Iterator[OpenSsh]:
    with openssh(tmp_path / "sshd", _public(hall.service)) as daemon:
        yield daemon


@pytest.fixture
def remote(hall: Hall, daemon: OpenSsh) -> Iterator[Hall]:
    """The same storage host once more, as another machine; r1's volumes are made there."""
    service = hall.service
    where = {"address": "127.0.0.1", "ssh_port": daemon.port, "ssh_user": daemon.user}
    added = service.post("/v1/storage", {"name": "far", **hall.facts(**where)}, 201)
    assert added["fingerprint"].startswith("SHA256:")
    assert service.get("/v1/storage/far")["host_key"] == daemon.host_key
    image = hall.folder.parent / "tiny.raw"
    service.post("/v1/volumes", {"name": "far", "path": str(image), "storage": "far"}, 201)
    service.enrol(boot_target="iscsi", vars={"storage": "far", "golden": "far"})
    try:
        yield hall
    finally:
        daemon.stop()
        daemon.start()
        service.api.delete("/v1/servers/r1?force=true")
        for name in sorted(name for name, one in hall.volumes().items() if one["storage"] == "far"):
            service.api.delete(f"/v1/volumes/{name}?storage=far")
        service.api.delete("/v1/storage/far")


def test_from_golden_image_to_active_and_back(remote: Hall) -> None:
    """S4-9 over SSH: the same life, on the same daemon, by commands of another machine."""
    remote.make_active()
    assert remote.knock()
    assert set(remote.targets()) == {f"{BASE}:r1.main"}
    remote.service.post("/v1/servers/r1/release")
    assert remote.rest()["provision_state"] == "available"
    assert remote.targets() == {}
    assert {name for name, one in remote.volumes().items() if one["storage"] == "far"} == {"golden-far"}


def test_while_it_is_away_the_deploy_waits_and_then_goes_on(remote: Hall, daemon: OpenSsh) -> None:
    daemon.stop()
    remote.service.post("/v1/servers/r1/deploy", {"profile": "clone"})
    shown = remote.service.wait(
        "r1", lambda server: "no SSH answer" in ((server["run"] or {}).get("trouble") or "")
    )
    assert shown["run"]["step"] == "volume"
    daemon.start()
    remote.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    remote.boot_first()
    assert remote.rest()["provision_state"] == "active"


def test_another_machine_at_its_address_changes_nothing(remote: Hall, daemon: OpenSsh) -> None:
    """Its volumes' server stays as it is, and is still sent to them (I7); the doctor says what is seen."""
    remote.make_active()
    before = remote.targets()
    old = (daemon.folder / "host_key").read_text()
    daemon.renew_host_key()
    try:
        problem = remote.service.get("/v1/storage/far")["problem"]
        assert problem["code"] == "BM802"
        assert "another host key" in problem["message"]
        assert "sanboot" in remote.script()
        assert remote.targets() == before
    finally:
        (daemon.folder / "host_key").write_text(old)
        daemon.stop()
        daemon.start()


def test_one_that_does_not_answer_is_not_added(hall: Hall, daemon: OpenSsh) -> None:
    daemon.stop()
    where = {"address": "127.0.0.1", "ssh_port": daemon.port, "ssh_user": daemon.user}
    answer = hall.service.api.post("/v1/storage", json={"name": "far", **hall.facts(**where)})
    assert answer.json()["code"] == "BM801"
    assert [one["name"] for one in hall.service.get("/v1/storage")["storage"]] == ["nas"]
