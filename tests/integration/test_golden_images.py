"""Golden images: imported, promoted, listed, kept while clones of them live; on a real tgtd."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.hall import MIB, Hall
from tests.integration.hall import diskless as diskless  # a fixture
from tests.integration.hall import hall as hall  # a fixture
from tests.integration.hall import shared_service as shared_service  # a fixture


def test_a_golden_image_in_use_cannot_be_deleted(diskless: Hall) -> None:
    diskless.deploy()
    answer = diskless.service.api.delete("/v1/volumes/tiny")
    assert answer.status_code == 409
    assert answer.json()["code"] == "BM807"
    assert "golden-tiny" in diskless.volumes()


def test_a_servers_volume_cannot_be_deleted_while_it_is_under_care(diskless: Hall) -> None:
    """I21."""
    diskless.deploy()
    (name,) = [one for one in diskless.volumes() if one.startswith("bm-")]
    assert diskless.service.api.delete(f"/v1/volumes/{name}").status_code == 409
    assert (diskless.folder / name / "disk.img").exists()


def test_promoted_and_cloned_again(diskless: Hall) -> None:
    """S4-10: a server's own volume becomes a golden image; not while it runs."""
    diskless.make_active()
    (name,) = [one for one in diskless.volumes() if one.startswith("bm-")]
    (diskless.folder / name / "disk.img").write_bytes(b"changed" * 1000)
    busy = diskless.service.post("/v1/volumes", {"name": "better", "server": "r1"}, 409)
    assert "not off" in busy["message"]
    put = diskless.service.api.put("/v1/servers/r1/power", json={"target": "off"})
    assert put.status_code == 200, put.text
    made = diskless.service.post("/v1/volumes", {"name": "better", "server": "r1"}, 201)
    assert made["name"] == "golden-better"
    assert (diskless.folder / "golden-better" / "disk.img").read_bytes()[:7] == b"changed"


def test_images_that_are_none(hall: Hall, tmp_path: Path) -> None:
    data = hall.service.app.config.data_dir
    for path in (str(tmp_path / "nowhere"), str(tmp_path), "tiny.raw", str(data / "secret.key"), ""):
        answer = hall.service.api.post("/v1/volumes", json={"name": "bad", "path": path})
        assert answer.status_code == 422, path
    for name in ("", "A", "a/b", "..", "a" * 60):
        assert hall.service.api.post("/v1/volumes", json={"name": name, "path": "/x"}).status_code == 422, (
            name
        )
    os.mkfifo(tmp_path / "pipe")
    answer = hall.service.api.post("/v1/volumes", json={"name": "bad", "path": str(tmp_path / "pipe")})
    assert answer.status_code == 422, "and nobody waits for its other end"
    secret = data / "secret.key"
    image = tmp_path / "leads-on.qcow2"
    backing = ["-b", str(secret), "-F", "raw"]
    subprocess.run(["qemu-img", "create", "-f", "qcow2", *backing, str(image)], check=True, timeout=60)
    answer = hall.service.api.post("/v1/volumes", json={"name": "bad", "path": str(image)})
    assert answer.status_code == 422
    assert "leads to another file" in answer.text
    assert set(hall.volumes()) == {"golden-tiny"}


def test_an_import_that_broke_off_is_made_anew(
    hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never found as done: what stands there is of another try."""
    one, other = tmp_path / "one.raw", tmp_path / "other.raw"
    one.write_bytes(b"1" * 4096)
    other.write_bytes(b"2" * 8192)
    from baremetal.errors import Unavailable

    def away(*_: object) -> None:
        raise Unavailable("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(hall.service.app.store, "volume_stands", away)
        hall.service.post("/v1/volumes", {"name": "twice", "path": str(one)}, 503)
    assert hall.volumes()["golden-twice"]["ready"] is False
    made = hall.service.post("/v1/volumes", {"name": "twice", "path": str(other)}, 201)
    assert made["size"] == 8192
    assert (hall.folder / "golden-twice" / "disk.img").read_bytes() == b"2" * 8192


def test_a_qcow2_image_is_converted(hall: Hall, tmp_path: Path) -> None:
    """S2-8."""
    raw, packed = tmp_path / "a.raw", tmp_path / "a.qcow2"
    raw.write_bytes(b"system" * 100_000)
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", "-c", str(raw), str(packed)], check=True, timeout=60
    )
    made = hall.service.post("/v1/volumes", {"name": "packed", "path": str(packed)}, 201)
    image = (hall.folder / "golden-packed" / "disk.img").read_bytes()
    assert image.startswith(b"system" * 100_000)
    assert made["size"] == len(image)


def test_a_thousand_volumes_are_listed_within_half_a_second(hall: Hall) -> None:
    from datetime import UTC, datetime

    from baremetal.store.records import VolumeRecord

    store, at = hall.service.app.store, datetime.now(UTC)
    golden = hall.folder / "golden-tiny"
    for number in range(1000):
        name = f"golden-{number:04d}"
        record = VolumeRecord(f"{number:032x}", "nas", name, "golden", MIB, at, ready=True)
        store.want_volume(record)
        (hall.folder / name).mkdir()
        (hall.folder / name / "disk.img").write_bytes(b"")
        tag = {"volume": record.id, "server": "", "run": 0, "origin": None}
        (hall.folder / name / "tag.json").write_text(json.dumps(tag))
    try:
        best = 9.0
        for _ in range(3):
            began = time.monotonic()
            listed = hall.volumes()
            best = min(best, time.monotonic() - began)
        assert len(listed) == 1001
        assert [one for one in listed.values() if one["problem"]] == []
        assert best < 0.5
    finally:
        for number in range(1000):
            store.volume_gone(f"{number:032x}")
            folder = hall.folder / f"golden-{number:04d}"
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    assert golden.is_dir()


def test_an_image_is_edited_by_changing_a_clone_of_it_and_promoting_that(diskless: Hall) -> None:
    """S4-10: the next version is what new clones and resets are made of; older clones live on meanwhile."""
    diskless.make_active()
    (name,) = [one for one in diskless.volumes() if one.startswith("bm-")]
    with (diskless.folder / name / "disk.img").open("r+b") as file:
        file.write(b"edited")
    assert diskless.service.api.put("/v1/servers/r1/power", json={"target": "off"}).status_code == 200
    edited = {"name": "tiny", "server": "r1"}
    assert diskless.service.post("/v1/volumes", edited, 409)["code"] == "BM805"
    assert diskless.service.post("/v1/volumes", edited | {"replace": True}, 201)["name"] == "golden-tiny-v2"
    assert diskless.service.api.delete("/v1/volumes/tiny").status_code == 409, "r1 is a clone of it"
    diskless.service.post("/v1/servers/r1/rebuild", {"method": "clone"})
    diskless.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    diskless.boot_first()
    assert diskless.rest()["provision_state"] == "active"
    (clone,) = [one for name, one in diskless.volumes().items() if name.startswith("bm-")]
    assert clone["origin"] == "golden-tiny-v2"
    assert (diskless.folder / clone["name"] / "disk.img").read_bytes()[:6] == b"edited"
    assert diskless.service.api.delete("/v1/volumes/tiny").status_code == 204
    assert diskless.service.api.delete("/v1/volumes/tiny-v2").status_code == 409
    plan = diskless.service.post(
        "/v1/servers/r1/plan", {"profile": "clone", "vars": {"golden": "tiny-v2"}}, 200
    )
    assert plan["volume"]["image"] == "tiny-v2"
