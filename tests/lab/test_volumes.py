"""Diskless servers by the real service: cloned from a golden image, booted from their volumes by real firmware.

S0-6, S0-9, S1-3, S4-9: two servers without disks, one BIOS and one UEFI, live through all these tests.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from baremetal.client import server_path
from baremetal.errors import Conflict, Refused
from tests.lab.hall import BASE, PAIR, Hall, running_hall, sh
from tests.lab.rig import STEP_S

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with running_hall(tmp_path_factory.mktemp("hall"), "tiny-clone", "tiny") as hall:
        yield hall


def test_two_clones_of_one_golden_image_are_two_systems(hall: Hall) -> None:
    """Deployed at once; each has host keys and a name of its own; what it writes is its own, and survives its power."""
    hall.clone(*hall.both)
    keys = {sh(server, "cat /etc/ssh/ssh_host_ed25519_key.pub") for server in hall.both}
    assert len(keys) == 2, "the golden image's host keys are nobody's"
    for server in hall.both:
        assert sh(server, "hostname").strip() == server.name
        sh(server, f"echo {server.name} >/root/mine; sync")
    for server in hall.both:
        hall.lab.api.put(server_path(server.name, "power"), {"target": "off"})
        hall.lab.wait_for_power(server, "off", STEP_S)
        hall.lab.api.put(server_path(server.name, "power"), {"target": "on"})
    for server in hall.both:
        assert sh(server, "cat /root/mine").strip() == server.name
        flags = hall.lab.ipmitool(server, "chassis", "bootparam", "get", "5")
        assert "Force PXE" in flags
        assert "Options apply to all future boots" in flags, "I6: persistently, from the power-on to release"


def test_neither_can_log_in_to_the_others_target(hall: Hall) -> None:
    """The account of the one, as its own script has it, opens nothing of the other."""
    hall.are_active()
    for server in hall.both:
        for other in hall.both:
            assert hall.lets_in(server, other) is (server is other), (server.name, other.name)


def test_a_reset_brings_golden_back_and_the_old_volume_goes_once_that_is_proven(hall: Hall) -> None:
    server = hall.bios
    if hall.lab.show(server)["provision_state"] != "active":
        hall.clone(server)
    sh(server, "echo was here >/root/mine; sync")
    before = hall.names()
    hall.lab.ask(server, "rebuild", profile="tiny-clone", vars={"ssh_authorized_keys": PAIR.public})
    assert hall.lab.wait_for_end(server)["provision_state"] == "active"
    assert sh(server, "ls /root/mine 2>/dev/null") == ""
    after = hall.names()
    assert len(before - after) == len(after - before) == 1, "a new one for the old one"
    assert f"{BASE}:{server.name}.main" in hall.targets()


def test_switched_between_two_systems_through_the_api(hall: Hall) -> None:
    """S0-8, S4-5, S4-17: chosen by one request, shut down in order by SSH, switched on: the other system comes up.

    The other one has a data disk too (S4-8).
    """
    server = hall.bios
    if hall.lab.show(server)["provision_state"] != "active":
        hall.clone(server)
    path, runs = server_path(server.name), {"main": hall.lab.show(server)["deployed_run"]}
    sh(server, "echo this is main >/root/mine; sync")
    keys = {"ssh_authorized_keys": PAIR.public, "data_disks": "scratch:16M"}
    hall.lab.ask(server, "rebuild", profile="tiny-clone", system="other", vars=keys)
    ended = hall.lab.wait_for_end(server)
    assert ended["provision_state"] == "active", ended["last_error"]
    runs["other"] = ended["deployed_run"]
    assert {one["name"]: one["run"] for one in ended["systems"]} == runs
    assert sh(server, "ls /root/mine 2>/dev/null") == "", "a system of its own"
    assert {"16384 sdb", "16384 sdc"} & set(re.findall(r"\b16384 sd\w+", sh(server, "cat /proc/partitions")))
    for name in ("main", "other"):
        hall.lab.api.patch(path, {"boot": name})
        hall.lab.api.put(f"{path}/power", {"target": "soft-off", "by_ssh": True})
        hall.lab.wait_for_power(server, "off", STEP_S)
        hall.lab.api.put(f"{path}/power", {"target": "on"})
        assert sh(server, "cat /etc/baremetal/run").strip().endswith(f"/{runs[name]}"), name
        assert ("this is main" in sh(server, "cat /root/mine 2>/dev/null")) is (name == "main")
    hall.lab.api.patch(path, {"boot": "main"})
    hall.lab.api.put(f"{path}/power", {"target": "reset", "by_ssh": True})
    until = time.monotonic() + STEP_S
    while not sh(server, "cat /etc/baremetal/run").strip().endswith(f"/{runs['main']}"):
        assert time.monotonic() < until, "restarted by SSH, it boots what was chosen"
        time.sleep(1.0)


def test_a_golden_image_in_use_stays(hall: Hall) -> None:
    if not [name for name in hall.names() if name.startswith("bm-")]:
        hall.clone(hall.bios)
    with pytest.raises(Refused, match="in use"):
        hall.lab.api.delete("/v1/volumes/tiny")
    with pytest.raises(Conflict, match="already"):
        hall.lab.api.post("/v1/volumes", {"name": "tiny", "path": str(hall.lab.folder / "config.toml")})


def test_release_takes_the_volume_and_the_target_and_nothing_else(hall: Hall) -> None:
    """A foreign target and a foreign folder stay as they are."""
    hall.are_active()
    foreign = hall.volumes / "bm-somebody"
    foreign.mkdir()
    (foreign / "disk.img").write_bytes(b"not ours")
    hall.daemon.admin("--mode", "target", "--op", "new", "--tid", "77", "-T", f"{BASE}:foreign")
    hall.lab.make_available(*hall.both)
    assert hall.names() == {"golden-tiny"}
    assert hall.targets() == {f"{BASE}:foreign"}
    assert sorted(path.name for path in hall.volumes.iterdir()) == [".lock", "bm-somebody", "golden-tiny"]
    assert (foreign / "disk.img").read_bytes() == b"not ours"
    for server in hall.both:
        assert "sanboot" not in hall.script(server)


def test_installed_onto_its_volume_by_kickstart(hall: Hall) -> None:
    """S0-10: the installer finds the volume as a disk, installs onto it, and the server boots from it by itself."""
    server = hall.uefi
    hall.lab.make_available(server)
    hall.lab.ask(
        server,
        "deploy",
        profile="tiny",
        boot_target="iscsi",
        vars={"volume_size": "256M", "ssh_authorized_keys": PAIR.public},
    )
    ended = hall.lab.wait_for_end(server)
    assert ended["provision_state"] == "active", f"{ended['last_error']}\n{hall.lab.console(server)[-3000:]}"
    assert sh(server, "cat /etc/baremetal/run").strip().endswith(f"/{hall.lab.show(server)['deployed_run']}")
    assert hall.lab.tell(server)["disk"] == "sda"
    hall.lab.make_available(server)
    assert hall.names() == {"golden-tiny"}
