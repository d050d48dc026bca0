"""What stands on storage hosts, as it is written down: before it is made, and until it is gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from baremetal.errors import Conflict
from baremetal.store.records import DoorRecord, VolumeRecord
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW

SERVER = "a" * 32
IQN = "iqn.2026-01.test:r1"
GOLDEN = VolumeRecord("g1", "nas", "golden-a", "golden", 5 << 40, NOW, ready=True)
MINE = VolumeRecord("v1", "nas", "bm-r1-aaaaaa-7", "system", 0, NOW, server_id="a" * 32, run=7, origin="g1")


def test_a_volume_is_wanted_stands_and_goes(store: Store) -> None:
    assert store.volumes() == []
    assert [store.want_volume(one) for one in (MINE, GOLDEN)] == [MINE, GOLDEN]
    assert store.want_volume(replace(MINE, id="v2")) == MINE, "an earlier row stands"
    assert store.volumes() == [GOLDEN, MINE]
    assert store.volumes(server_id=MINE.server_id) == [MINE]
    assert store.volumes(server_id="b" * 32) == []
    store.volume_stands("v1", 20 << 30)
    whole = replace(MINE, ready=True, size=20 << 30)
    assert store.volumes(server_id=MINE.server_id) == [whole]
    assert store.want_volume(MINE) == whole
    store.volume_gone("v1")
    store.volume_gone("v1")
    assert store.volumes() == [GOLDEN]


@pytest.mark.parametrize("other", [{"server_id": "b" * 32}, {"run": 8}, {"role": "data"}], ids=str)
def test_a_name_is_one_volumes_alone(store: Store, other: dict[str, object]) -> None:
    store.want_volume(MINE)
    with pytest.raises(Conflict):
        store.want_volume(replace(MINE, id="v2", **other))  # type: ignore[arg-type]
    assert store.volumes() == [MINE]
    elsewhere = replace(MINE, id="v2", storage="other", **other)  # type: ignore[arg-type]
    assert store.want_volume(elsewhere) == elsewhere


def test_a_servers_target_and_its_secret(store: Store) -> None:
    door = DoorRecord(SERVER, "nas", f"{IQN}.main", IQN, "v1", ("u", "secret-1"), NOW)
    assert store.doors(door.server_id) == []
    store.save_door(door)
    assert store.doors(door.server_id) == [door]
    renewed = replace(door, volume_id="v2", secrets=("u2", "secret-2"))
    store.save_door(renewed)
    assert store.doors(door.server_id) == [renewed]
    with pytest.raises(Conflict):
        store.save_door(replace(door, server_id="b" * 32))
    other = replace(door, target=f"{IQN}.other", at=NOW + timedelta(seconds=1))
    store.save_door(other)
    assert store.doors(SERVER) == [other, renewed], "the newest first"
    assert store.doors() == [other, renewed]
    assert store.door_owner("nas", f"{IQN}.main") == SERVER
    assert store.reseal_doors() == 2
    assert store.doors(SERVER) == [other, renewed]
    store.drop_door(other)
    store.drop_door(other)
    assert store.doors(SERVER) == [renewed]
    store.drop_door(renewed)
    assert store.doors(SERVER) == []
