"""Data disks beside a system, on a real tgtd: made with it, shown beside it, gone with it (S4-7, S4-8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.storage.base import Lun
from tests.integration.hall import BASE, MIB, Hall
from tests.integration.hall import diskless as diskless  # a fixture
from tests.integration.hall import hall as hall  # a fixture
from tests.integration.hall import shared_service as shared_service  # a fixture

TARGET = f"{BASE}:r1.main"


@pytest.fixture
def games(diskless: Hall, tmp_path: Path) -> Hall:
    """A second golden image, which is no system."""
    image = tmp_path / "games.raw"
    image.write_bytes(b"games" * 1000)
    diskless.service.post("/v1/volumes", {"name": "games", "path": str(image)}, 201)
    return diskless


def test_made_with_the_system_and_shown_beside_it(games: Hall) -> None:
    """S4-7, S4-8: a clone of a golden image and an empty one; the system is the first LUN, then its seed, then they."""
    games.deploy(vars={"data_disks": "games,scratch:2M"})
    games.boot_first()
    assert games.rest()["provision_state"] == "active"
    (system,) = [name for name, one in games.volumes().items() if one["role"] == "system"]
    data = sorted(name for name, one in games.volumes().items() if one["role"] == "data")
    assert data == [f"{system}-d1", f"{system}-d2"]
    assert (games.folder / data[0] / "disk.img").read_bytes()[:5000] == b"games" * 1000
    assert (games.folder / data[1] / "disk.img").stat().st_size == 2 * MIB
    assert games.targets()[TARGET].luns == (
        Lun(1, f"{games.folder}/{system}/disk.img"),
        Lun(2, f"{games.folder}/{system}/seed.img", writable=False),
        Lun(3, f"{games.folder}/{data[0]}/disk.img"),
        Lun(4, f"{games.folder}/{data[1]}/disk.img"),
    )
    assert games.service.api.delete("/v1/volumes/games").status_code == 409, "it is in use"


def test_a_reset_brings_them_back_to_golden_with_the_system(games: Hall) -> None:
    """S4-9: all of a host's disks, and the old ones go once the new ones are proven."""
    games.deploy(vars={"data_disks": "games"})
    games.boot_first()
    games.rest()
    before = {name for name in games.volumes() if name.startswith("bm-")}
    (data,) = [name for name in before if name.endswith("-d1")]
    with (games.folder / data / "disk.img").open("r+b") as file:
        file.write(b"saved")
    games.service.post("/v1/servers/r1/rebuild", {"method": "clone"})
    games.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    games.boot_first()
    games.rest()
    after = {name for name in games.volumes() if name.startswith("bm-")}
    assert (len(after), before & after) == (2, set())
    (data,) = [name for name in after if name.endswith("-d1")]
    assert (games.folder / data / "disk.img").read_bytes()[:5] == b"games"
    games.daemon.restart()
    assert games.service.post("/v1/storage/nas/restore", status=200)["served"] == ["r1"]
    assert len(games.targets()[TARGET].luns) == 3
    games.service.post("/v1/servers/r1/release")
    games.rest()
    assert set(games.volumes()) == {"golden-tiny", "golden-games"}
    assert games.service.api.delete("/v1/volumes/games").status_code == 204


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("nothing", "no golden image 'nothing'"),
        ("games,games", "the same name"),
        ("scratch:much", "is not a size"),
        ("../x:2M", "volume name"),
        (",".join(f"d{at}:2M" for at in range(9)), "more than 8"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(games: Hall, words: str, what: str) -> None:
    refused = games.service.post(
        "/v1/servers/r1/deploy", {"profile": "clone", "vars": {"data_disks": words}}, 422
    )
    assert what in refused["message"]
    assert {name for name in games.volumes() if name.startswith("bm-")} == set()
