"""Full Debian systems with their root on iSCSI, cloned from one golden image by the shipped profile `clone`.

S1-7: initramfs-tools finds the iBFT, open-iscsi logs in, and the NIC that root hangs on stays as the firmware left it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from baremetal.client import server_path
from baremetal.lab.guest import build
from baremetal.lab.guest.iscsi_root import ISCSI_ROOT
from baremetal.lab.rack import available
from baremetal.lab.server import VirtualServer
from tests.evidence import record
from tests.lab.debian_rig import cache_folder
from tests.lab.hall import PAIR, Hall, running_hall, sh
from tests.lab.rig import STEP_S
from tests.unit.netboot.shipped import shipped

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(1800)]
LOGIN = "login: "
PROMISED_S = 90.0


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    for there, reason in (available("mixed"), build.available()):
        if not there:
            pytest.skip(reason)
    image = build.build(ISCSI_ROOT, cache_folder() / "guests")
    folder = tmp_path_factory.mktemp("debian")
    with running_hall(folder, "clone", "clone", image.disk, memory_mib=768) as hall:
        yield hall


def test_two_clones_are_two_debians_each_on_its_own_volume(hall: Hall) -> None:
    """They write different files, keep them over a power cycle, lose them by a reset, and are let in nowhere else."""
    hall.clone(*hall.both)
    keys = {sh(server, "cat /etc/ssh/ssh_host_ed25519_key.pub") for server in hall.both}
    machines = {sh(server, "cat /etc/machine-id") for server in hall.both}
    assert (len(keys), len(machines)) == (2, 2), "nothing of the golden image's own is left"
    for server in hall.both:
        assert sh(server, "hostname").strip() == server.name
        assert sh(server, "findmnt -no FSTYPE,SOURCE /").split()[0] == "ext4"
        assert sh(server, "ls /sys/class/iscsi_session").split(), "root hangs on a session"
        sh(server, f"echo {server.name} >/root/mine; sync")
        for other in hall.both:
            assert hall.lets_in(server, other) is (server is other)
    for server in hall.both:
        hall.lab.api.put(f"{server_path(server.name)}/power", {"target": "soft-off", "by_ssh": True})
        hall.lab.wait_for_power(server, "off", STEP_S)
    for server in hall.both:
        took = _login_s(hall, server)
        print(f"{server.name} ({server.boot_mode}): power-on to login prompt {took:.1f} s")
        assert sh(server, "cat /root/mine").strip() == server.name
        assert took < PROMISED_S
    reset = hall.bios
    hall.lab.ask(reset, "rebuild", method="clone", vars={"ssh_authorized_keys": PAIR.public})
    assert hall.lab.wait_for_end(reset)["provision_state"] == "active", hall.lab.story(reset)
    assert sh(reset, "ls /root/mine 2>/dev/null") == ""
    record(shipped()["clone"], "booted", "Debian cloned onto iSCSI volumes in QEMU, BIOS and UEFI")


def _login_s(hall: Hall, server: VirtualServer) -> float:
    """Switch a server on and wait for its login prompt on the serial line; return how long that took."""
    seen = len(hall.lab.console(server))
    began = time.monotonic()
    hall.lab.api.put(f"{server_path(server.name)}/power", {"target": "on"})
    while not re.search(LOGIN, hall.lab.console(server)[seen:]):
        assert time.monotonic() - began < 6 * PROMISED_S, hall.lab.console(server)[-3000:]
        time.sleep(0.2)
    return time.monotonic() - began
