"""What `print-config` writes, in the servers it is written for: they tell every kind of machine what ours would.

S4-2 (ISC dhcpd) and Kea, run on a segment of the test's own; pains 8 and 9.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baremetal.netboot.dhcp.offer import LPXELINUX, PATH_PREFIX, Host, Mode, Network
from baremetal.netboot.dhcp.probe import judge, probe
from baremetal.service.advice.print_config import Site, text
from tests.integration.segment import INTERFACE, may_make_segments
from tests.integration.segment import Segment as Place
from tests.integration.test_dhcp import BASE, R1, ROUTER_AT, SYSTEM, TOLD, US, ask, segment, take, until
from tests.programs import Program, unpacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not may_make_segments(), reason="needs root and network namespaces"),
]

NEAR = segment(loader_bios=LPXELINUX)  # option 210 comes with it
SITE = Site(Network(Mode.EXTERNAL, (NEAR,)), is_placed=True, hosts=(R1, Host("r2", "52:54:00:77:00:02")))


@contextmanager
def serving(place: Place, program: Program, *words: str, **env: str) -> Iterator[None]:
    place.add("router", f"{ROUTER_AT}/24")
    command = place.command("router", program.path, *words)
    with subprocess.Popen(
        command, env={**program.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        try:
            until(lambda: _listens(place) or child.poll() is not None, 30)
            assert child.poll() is None, child.stdout.read() if child.stdout else ""
            time.sleep(0.2)
            yield
        finally:
            child.terminate()


def _listens(place: Place) -> bool:
    done = subprocess.run(
        place.command("router", "cat", "/proc/net/udp"),
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return ":0043 " in done.stdout


def check_what_it_tells(place: Place) -> None:
    for client, default, vendor_class in TOLD:
        file = default.replace("undionly.kpxe", LPXELINUX)
        (offered,) = ask(place, client)
        assert offered.file == file, str(client)
        if client.http:
            assert offered.vendor_class == vendor_class
        elif file and "://" not in file:
            assert offered.next_server == US, str(client)
        wanted = f"{BASE}/".encode() if file == LPXELINUX else None
        assert offered.options.get(PATH_PREFIX) == wanted, str(client)
        assert offered.your == "10.77.0.11", "the address kept for this MAC"
    answer = take(place, SYSTEM, offered)
    assert answer is not None
    assert answer.your == "10.77.0.11"
    answers = place.run("machine", lambda: probe(INTERFACE, seconds=4.0))
    assert {answer.server for answer in answers} == {ROUTER_AT}
    assert judge(answers, NEAR, Mode.EXTERNAL) == []


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as place:
        place.add("machine")
        yield place


def test_isc_dhcpd(place: Place, tmp_path: Path) -> None:
    dhcpd = unpacked("isc-dhcp-server", "usr/sbin/dhcpd")
    settings, leases = tmp_path / "dhcpd.conf", tmp_path / "leases"
    settings.write_text(text("isc", SITE))
    leases.touch()
    files = ("-cf", str(settings), "-lf", str(leases), "-pf", str(tmp_path / "pid"))
    with serving(place, dhcpd, "-4", "-f", "-d", *files, INTERFACE):
        check_what_it_tells(place)


def test_kea(place: Place, tmp_path: Path) -> None:
    kea = unpacked("kea-dhcp4-server", "usr/sbin/kea-dhcp4")
    settings = json.loads(text("kea", SITE).partition("\n")[2])
    settings["Dhcp4"]["lease-database"]["persist"] = False  # its cleaner is not at its place when unpacked
    file = tmp_path / "kea.conf"
    file.write_text(json.dumps(settings))
    places = {
        "KEA_LOCKFILE_DIR": str(tmp_path),
        "KEA_PIDFILE_DIR": str(tmp_path),
        "KEA_LOGGER_DESTINATION": "stdout",
    }
    with serving(place, kea, "-c", str(file), **places):
        check_what_it_tells(place)
