"""DHCP on a segment of its own: our dnsmasq, other servers beside it, and machines that ask as firmware does.

Proves of the founding systems' behaviour: S4-1 (arch tags, iPXE by option 175, fixed addresses per MAC), S2-2 (DHCP
without DNS), S1-1 (the loop iPXE to iPXE is broken), S0-12 (two servers are noticed); pains 8 and 9.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baremetal.errors import BaremetalError, Invalid
from baremetal.netboot.dhcp import dnsmasq
from baremetal.netboot.dhcp.offer import (
    LPXELINUX,
    PATH_PREFIX,
    Client,
    Host,
    Mode,
    Network,
    Segment,
    offer,
)
from baremetal.netboot.dhcp.packet import DNS, ROUTER, Kind, Packet, decode, discover, request
from baremetal.netboot.dhcp.probe import CLIENTS, Wire, judge, probe
from baremetal.netboot.dhcp.server import DhcpServer, Status
from baremetal.netboot.dhcp.sightings import Seen, SeenKind
from tests.integration.segment import INTERFACE, may_make_segments
from tests.integration.segment import Segment as Place

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed"),
    pytest.mark.skipif(not may_make_segments(), reason="needs root and network namespaces"),
]

US, ROUTER_AT = "10.77.0.1", "10.77.0.254"
BASE = f"http://{US}:8080"
SCRIPT = f"{BASE}/boot.ipxe"
MAC = "52:54:00:77:00:01"
R1 = Host("r1", MAC, "10.77.0.11")
BIOS, UEFI, UEFI9, ARM = Client(arch=0), Client(arch=7), Client(arch=9), Client(arch=11)
HTTP, HTTP_ARM = Client(arch=16, http=True), Client(arch=19, http=True)
IPXE, IPXE_UEFI = Client(arch=0, ipxe=True), Client(arch=7, ipxe=True)
D_I, SYSTEM = Client(installer=True), Client()


def segment(**more: object) -> Segment:
    values = {
        "name": "rack1",
        "network": ipaddress.IPv4Network("10.77.0.0/24"),
        "first": ipaddress.IPv4Address("10.77.0.100"),
        "last": ipaddress.IPv4Address("10.77.0.109"),
        "interface": INTERFACE,
        "base": BASE,
        "next_server": US,
        "script": SCRIPT,
        "dns_servers": ("10.77.0.53",),
    }
    return Segment(**{**values, **more})  # type: ignore[arg-type]


FAR = {
    "name": "rack2",
    "network": ipaddress.IPv4Network("10.78.0.0/24"),
    "first": ipaddress.IPv4Address("10.78.0.100"),
    "last": ipaddress.IPv4Address("10.78.0.109"),
    "relay": "10.78.0.254",
    "base": "http://10.78.0.1:8080",
    "script": "http://10.78.0.1:8080/boot.ipxe",
    "loader_uefi": "shimx64.efi",
}


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as place:
        place.add("us", f"{US}/24")
        place.add("machine")
        yield place


class Rig:
    """Our server in its namespace, with what it saw."""

    def __init__(
        self, place: Place, folder: Path, mode: Mode, *segments: Segment, hosts: tuple[Host, ...] = ()
    ) -> None:
        self.place = place
        self.seen: list[Seen] = []
        self.statuses: list[Status] = []
        self.network = Network(
            mode,
            segments or (segment(),),
            hosts_file=str(folder / "hosts"),
            lease_file=str(folder / "leases"),
        )
        self.server = DhcpServer(
            self.network,
            hosts,
            folder=folder,
            heard=self.seen.append,
            changed=self.statuses.append,
            first_pause_s=0.1,
        )

    @contextmanager
    def running(self) -> Iterator[Rig]:
        self.place.run("us", self.server.start)
        try:
            yield self
        finally:
            self.server.stop()

    def kinds(self, mac: str = MAC) -> list[SeenKind]:
        return [seen.kind for seen in self.seen if seen.mac == mac]


def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)


def ask(
    place: Place, client: Client, mac: str = MAC, *, seconds: float = 8.0, answers: int = 1
) -> list[Packet]:
    """Broadcast a DISCOVER and return the offers, as soon as there are as many as wanted."""

    def work() -> list[Packet]:
        found = []
        packet = discover(client, mac, int.from_bytes(os.urandom(4), "big"))
        with Wire(INTERFACE) as wire:
            wire.send(packet)
            for offered, _ in wire.replies((packet.xid,), seconds):
                found.append(offered)
                if len(found) == answers:
                    break
        return found

    return place.run("machine", work)


def take(place: Place, client: Client, offered: Packet) -> Packet | None:
    """Ask for what was offered and return the answer."""

    def work() -> Packet | None:
        with Wire(INTERFACE) as wire:
            wire.send(request(client, offered))
            return next((packet for packet, _ in wire.replies((offered.xid,), 3.0)), None)

    return place.run("machine", work)


# ---- full


TOLD = [
    (BIOS, "undionly.kpxe", ""),
    (UEFI, "ipxe.efi", ""),
    (UEFI9, "ipxe.efi", ""),
    (ARM, "ipxe-arm64.efi", ""),
    (HTTP, f"{BASE}/loaders/ipxe.efi", "HTTPClient"),
    (HTTP_ARM, f"{BASE}/loaders/ipxe-arm64.efi", "HTTPClient"),
    (IPXE, SCRIPT, ""),
    (IPXE_UEFI, SCRIPT, ""),
    (D_I, "", ""),
    (SYSTEM, "", ""),
]


def test_full_tells_every_kind_of_machine_what_to_boot(place: Place, tmp_path: Path) -> None:
    """S4-1: arch tags by option 93, iPXE first, HTTP boot with option 60, no file for the Debian installer."""
    with Rig(place, tmp_path, Mode.FULL, hosts=(R1,)).running() as rig:
        for client, file, vendor_class in TOLD:
            (offered,) = ask(place, client)
            assert (offered.file, offered.vendor_class) == (file, vendor_class), str(client)
            assert offered.your == "10.77.0.11", "the address kept for this MAC"
            assert offered.next_server == US
            assert ROUTER not in offered.options, "no router was given"
            assert offered.options[DNS] == socket.inet_aton("10.77.0.53")
            wanted = offer(segment(), client)
            assert file == (wanted.file if wanted else "")
        answer = take(place, SYSTEM, offered)
        assert answer is not None
        assert (answer.kind, answer.your) == (Kind.ACK, "10.77.0.11")
        until(lambda: SeenKind.GIVEN in rig.kinds())
    by_file = {seen.file: seen for seen in rig.seen if seen.kind is SeenKind.OFFERED}
    assert by_file["ipxe.efi"].arch in (7, 9)
    assert by_file[SCRIPT].ipxe
    assert by_file["undionly.kpxe"].vendor_class.startswith("PXEClient:Arch:00000")
    assert rig.kinds()[-2:] == [SeenKind.WANTED, SeenKind.GIVEN]
    assert rig.server.status == Status(False, "stopped")


def test_lpxelinux_is_told_where_its_files_are(place: Place, tmp_path: Path) -> None:
    """Option 210 (RFC 5071) comes with it whoever is given it, and with nothing else."""
    for near in (segment(loader_bios=LPXELINUX), segment(script=LPXELINUX)):
        told = {BIOS: near.loader_bios, IPXE: near.script, UEFI: "ipxe.efi", HTTP: f"{BASE}/loaders/ipxe.efi"}
        with Rig(place, tmp_path, Mode.FULL, near, hosts=(R1,)).running():
            for client, file in told.items():
                (offered,) = ask(place, client)
                wanted = f"{BASE}/".encode() if file == LPXELINUX else None
                assert (offered.file, offered.options.get(PATH_PREFIX)) == (file, wanted), str(client)


def test_full_gives_one_machine_one_address_whatever_it_calls_itself(place: Place, tmp_path: Path) -> None:
    """S3-7: the installer's round ends with the lease that the firmware had."""
    with Rig(place, tmp_path, Mode.FULL).running():
        (first,) = ask(place, BIOS, "52:54:00:77:00:05")
        assert take(place, BIOS, first) is not None

        def with_another_id() -> Packet:
            packet = discover(SYSTEM, "52:54:00:77:00:05", 77)
            packet = Packet(
                packet.kind, 77, packet.mac, options={**packet.options, 61: b"\xff" + b"DUID" * 4}
            )
            with Wire(INTERFACE) as wire:
                wire.send(packet)
                return next(wire.replies((77,), 8.0))[0]

        assert place.run("machine", with_another_id).your == first.your


def test_full_serves_a_segment_behind_a_relay_its_own_way(place: Place, tmp_path: Path) -> None:
    place.add("relay", "10.77.0.253/24")
    place.address("relay", "10.78.0.254/24")
    ip_route = place.command("us", "ip", "route", "add", "10.78.0.0/24", "via", "10.77.0.253")
    subprocess.run(ip_route, check=True, timeout=20)
    with Rig(place, tmp_path, Mode.FULL, segment(), segment(**FAR)).running():

        def relayed() -> Packet:
            packet = discover(UEFI, MAC, 99, relay="10.78.0.254")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("10.78.0.254", 67))
                sock.settimeout(8)
                sock.sendto(packet.encode(), (US, 67))
                return decode(sock.recv(4096))

        offered = place.run("relay", relayed)
        assert ipaddress.IPv4Address(offered.your) in ipaddress.IPv4Network("10.78.0.0/24")
        assert offered.file == "shimx64.efi"
        assert offered.options[ROUTER] == socket.inet_aton("10.78.0.254"), "behind a relay it is the router"
        (near,) = ask(place, UEFI)
        assert near.file == "ipxe.efi"


def test_a_relay_with_an_address_outside_its_segment(place: Place, tmp_path: Path) -> None:
    place.add("relay", "10.77.0.253/24")
    rack = segment(**{**FAR, "relay": "10.77.0.253", "routers": ("10.78.0.9",)})
    near = segment(network=ipaddress.IPv4Network("10.77.0.0/24"), last=None)
    with Rig(place, tmp_path, Mode.FULL, rack, near).running():

        def relayed() -> Packet:
            packet = discover(BIOS, MAC, 98, relay="10.77.0.253")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("10.77.0.253", 67))
                sock.settimeout(8)
                sock.sendto(packet.encode(), (US, 67))
                return decode(sock.recv(4096))

        offered = place.run("relay", relayed)
        assert ipaddress.IPv4Address(offered.your) in ipaddress.IPv4Network("10.78.0.0/24")
        assert offered.options[ROUTER] == socket.inet_aton("10.78.0.9")


def test_only_known_servers_get_an_address_where_the_range_is_one_address(
    place: Place, tmp_path: Path
) -> None:
    alone = segment(first=ipaddress.IPv4Address("10.77.0.0"), last=None)
    with Rig(place, tmp_path, Mode.FULL, alone, hosts=(R1,)).running():
        assert ask(place, BIOS)[0].your == "10.77.0.11"
        assert ask(place, BIOS, "52:54:00:77:00:09", seconds=1.5) == []


# ---- reload, restart, and what may be in the way


def test_servers_come_and_go_without_a_restart_and_leases_stay(place: Place, tmp_path: Path) -> None:
    """S4-1, S4-12: a fixed address per MAC, added while the server runs."""
    with Rig(place, tmp_path, Mode.FULL).running() as rig:
        pid = rig.server.status.pid
        (lent,) = ask(place, SYSTEM, "52:54:00:77:00:02")
        assert take(place, SYSTEM, lent) is not None
        leases = (tmp_path / "leases").read_text()
        assert "52:54:00:77:00:02" in leases
        assert rig.server.keep_hosts((R1,)) == ()
        until(lambda: ask(place, BIOS)[0].your == "10.77.0.11")
        assert rig.server.keep_hosts(()) == ()
        until(lambda: ask(place, BIOS)[0].your != "10.77.0.11")
        assert rig.server.status.pid == pid
        assert ask(place, SYSTEM, "52:54:00:77:00:02")[0].your == lent.your
        # Other settings are another start, on the same leases.
        rig.server.configure(Network(Mode.FULL, (segment(lease_s=600),), True, *_files(tmp_path)))
        until(lambda: rig.server.status.is_running and rig.server.status.pid != pid)
        assert rig.server.status.restarts == 0, "nobody's fault"
        assert "52:54:00:77:00:02" in (tmp_path / "leases").read_text()
        assert ask(place, SYSTEM, "52:54:00:77:00:02")[0].your == lent.your


def test_settings_that_dnsmasq_refuses_leave_the_old_ones_running(place: Place, tmp_path: Path) -> None:
    with Rig(place, tmp_path, Mode.FULL, hosts=(R1,)).running() as rig:
        bad = Network(Mode.FULL, (segment(lease_s=-5),), True, *_files(tmp_path))
        with pytest.raises(Invalid) as caught:
            rig.server.configure(bad)
        assert caught.value.code == "BM306"
        assert caught.value.seen
        assert ask(place, BIOS)[0].file == "undionly.kpxe"


def _files(folder: Path) -> tuple[str, str]:
    return str(folder / "hosts"), str(folder / "leases")


def test_a_killed_dnsmasq_is_started_again(place: Place, tmp_path: Path) -> None:
    with Rig(place, tmp_path, Mode.FULL, hosts=(R1,)).running() as rig:
        pid = rig.server.status.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: rig.server.status.is_running and rig.server.status.pid != pid)
        assert rig.server.status.restarts == 1
        assert Status(False, "ended by signal 9", 1) in rig.statuses
        assert ask(place, BIOS)[0].your == "10.77.0.11"


def in_place_of_dnsmasq(folder: Path, body: str) -> str:
    """A program that accepts every setting and then does as it likes."""
    program = folder / "dnsmasq"
    program.write_text(f'#!/bin/sh\n[ "$1" = --test ] && exit 0\n{body}\n')
    program.chmod(0o755)
    return str(program)


def test_a_dnsmasq_that_ends_at_once_is_an_error_with_its_words(place: Place, tmp_path: Path) -> None:
    network = Network(Mode.FULL, (segment(),), True, *_files(tmp_path))
    for body, code, what in [
        ("echo 'dnsmasq: cannot read what I need' >&2; exit 3", "BM305", "dnsmasq ended at once with 3"),
        (
            "echo 'dnsmasq: failed to bind: Address already in use' >&2; exit 2",
            "BM303",
            "dnsmasq's port is in use",
        ),
        (
            "echo 'dnsmasq: unknown interface seg0' >&2; exit 2",
            "BM304",
            "dnsmasq cannot serve on its interface",
        ),
        (
            "echo 'dnsmasq: process is missing: Operation not permitted' >&2; exit 5",
            "BM305",
            "dnsmasq may not do",
        ),
    ]:
        server = DhcpServer(network, folder=tmp_path, program=in_place_of_dnsmasq(tmp_path, body))
        with pytest.raises(BaremetalError) as caught:
            place.run("us", server.start)
        assert caught.value.code == code
        assert caught.value.what.startswith(what)
        assert str(caught.value.seen) in body
        assert not server.status.is_running


def test_a_dnsmasq_that_keeps_ending_is_started_less_and_less_often(place: Place, tmp_path: Path) -> None:
    at: list[float] = []

    def changed(status: Status) -> None:
        if status.is_running:
            at.append(time.monotonic())
        raise ValueError("a fault of the listener's")

    network = Network(Mode.FULL, (segment(),), True, *_files(tmp_path))
    program = in_place_of_dnsmasq(tmp_path, "echo 'dnsmasq[1]: started, version 0' >&2; sleep 0.1; exit 4")
    server = DhcpServer(network, folder=tmp_path, program=program, changed=changed, first_pause_s=0.2)
    place.run("us", server.start)
    until(lambda: len(at) >= 4, 20)
    server.stop()
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert gaps[0] > 0.2
    assert gaps[1] > 0.4
    assert gaps[2] > 0.8
    assert server.status.why == "stopped"


def test_an_interface_that_goes_and_comes_back(place: Place, tmp_path: Path) -> None:
    with Rig(place, tmp_path, Mode.FULL, hosts=(R1,)).running() as rig:
        place.unplug("us")
        until(lambda: not rig.server.status.is_running)
        until(lambda: f"there is no interface {INTERFACE}" in rig.server.status.why)
        assert Status(False, f"interface {INTERFACE} is gone", 1) in rig.statuses
        place.plug("us", f"{US}/24")
        until(lambda: rig.server.status.is_running)
        assert ask(place, BIOS)[0].file == "undionly.kpxe"


@contextmanager
def holding(place: Place, port: int) -> Iterator[None]:
    sock = place.run("us", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.bind(("0.0.0.0", port))
        yield


@pytest.mark.parametrize(("mode", "port"), [(Mode.FULL, 67), (Mode.PROXY, 67), (Mode.PROXY, 4011)])
def test_a_taken_port_is_an_error_that_names_the_taker(
    place: Place, tmp_path: Path, mode: Mode, port: int
) -> None:
    rig = Rig(place, tmp_path, mode)
    with holding(place, port), pytest.raises(BaremetalError) as caught:
        place.run("us", rig.server.start)
    assert caught.value.code == "BM303"
    assert caught.value.what == f"UDP port {port} on {INTERFACE} is in use"
    assert f"(pid {os.getpid()})" in str(caught.value.seen)
    assert not rig.server.status.is_running


def test_interfaces_that_cannot_serve_are_errors_with_a_name(place: Place, tmp_path: Path) -> None:
    def error(**more: object) -> BaremetalError:
        with pytest.raises(BaremetalError) as caught:
            place.run("us", Rig(place, tmp_path, Mode.FULL, segment(**more)).server.start)
        assert caught.value.code == "BM304"
        return caught.value

    assert error(interface="eth9").what == "there is no interface eth9"
    assert INTERFACE in str(error(interface="eth9").seen)
    subprocess.run(place.command("us", "ip", "link", "add", "dum0", "type", "veth"), check=True, timeout=20)
    assert error(interface="dum0").what == "interface dum0 is down"
    subprocess.run(place.command("us", "ip", "link", "set", "dum0", "up"), check=True, timeout=20)
    assert "no IPv4 address" in error(interface="dum0").what


def test_a_missing_dnsmasq_is_an_error_that_says_what_to_install(place: Place, tmp_path: Path) -> None:
    server = DhcpServer(Network(Mode.FULL, (segment(),)), folder=tmp_path, program="no-such-dnsmasq")
    with pytest.raises(BaremetalError, match="apt-get install dnsmasq-base") as caught:
        place.run("us", server.start)
    assert caught.value.code == "BM305"


def test_an_ordinary_user_is_told_what_is_missing(place: Place) -> None:
    code = (
        "import os\nfrom baremetal.netboot.dhcp.interface import check\nfrom baremetal.errors import BaremetalError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"try:\n    check('{INTERFACE}', 67)\nexcept BaremetalError as e:\n    print(e.code, e.fix)\n"
    )
    done = subprocess.run(
        place.command("us", sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; exec({code!r})"),
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("BM305 run as root, or with CAP_NET_ADMIN")


AS_SYSTEMD_STARTS_IT = """
import ctypes, ipaddress, os, pathlib, sys, time
from baremetal.netboot.dhcp.server import DhcpServer
from baremetal.netboot.dhcp.offer import Mode, Network
from tests.integration.test_dhcp import R1, segment
sys.executable, folder = sys.argv[1], pathlib.Path(sys.argv[2])
libc = ctypes.CDLL(None)
libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
os.setgroups([]), os.setgid(65534), os.setuid(65534)
net = (10, 12, 13)  # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW
mask = sum(1 << one for one in net)
head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
assert libc.capset(head, sets) == 0
assert all(libc.prctl(47, 2, one, 0, 0) == 0 for one in net)  # PR_CAP_AMBIENT_RAISE
for mode in (Mode.PROXY, Mode.FULL):
    server = DhcpServer(Network(mode, (segment(),), True, str(folder / "hosts"), str(folder / "leases")), folder=folder)
    server.start()
    owner = os.stat(f"/proc/{server.status.pid}").st_uid
    server.keep_hosts([R1])
    time.sleep(0.3)
    print(mode, owner, server.status.is_running, flush=True)
    if mode is Mode.FULL:
        sys.stdin.read()
    server.stop()
"""


def test_an_ordinary_user_with_three_capabilities_is_enough(place: Place) -> None:
    """What the printed systemd unit grants."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no python3 that every user may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        code = f"import sys; sys.path[:0] = {sys.path!r}; exec({AS_SYSTEMD_STARTS_IT!r})"
        with subprocess.Popen(
            place.command("us", sys.executable, "-c", code, python, folder),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as service:  # fmt: skip
            assert service.stdout is not None
            said = (line.split() for line in service.stdout if "65534" in line)  # its log comes in between
            assert next(said) == ["proxy", "65534", "True"]
            assert next(said) == ["full", "65534", "True"]
            (offered,) = ask(place, BIOS)
            assert (offered.your, offered.file) == ("10.77.0.11", "undionly.kpxe")
            service.communicate("", timeout=20)
        assert service.returncode == 0


def test_dnsmasq_dies_with_whoever_started_it(place: Place, tmp_path: Path) -> None:
    code = (
        "import ipaddress, pathlib, time\n"
        "from tests.integration.test_dhcp import segment\n"
        "from baremetal.netboot.dhcp.server import DhcpServer\n"
        "from baremetal.netboot.dhcp.offer import Mode, Network\n"
        f"f = pathlib.Path({str(tmp_path)!r})\n"
        "s = DhcpServer(Network(Mode.FULL, (segment(),), True, str(f / 'hosts'), str(f / 'leases')), folder=f)\n"
        "s.start()\nprint(s.status.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen(
        place.command("us", sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; exec({code!r})"),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}/comm").read_text().strip() == "dnsmasq"
        parent.kill()
        parent.wait(10)
    until(lambda: not Path(f"/proc/{pid}").exists())


# ---- proxy, beside a router


@contextmanager
def router(place: Place, folder: Path, *more: str, address: str = ROUTER_AT) -> Iterator[None]:
    """A home router: addresses, and whatever else it is told."""
    place.add("router", f"{address}/24")
    settings = folder / "router.conf"
    settings.write_text(
        "\n".join(
            [
                "port=0", "log-facility=-", f"interface={INTERFACE}", "bind-dynamic", "no-ping",
                "user=root", "group=root", f"dhcp-leasefile={folder}/router.leases",
                "dhcp-range=10.77.0.200,10.77.0.220,255.255.255.0,10m", *more,
            ]
        )
        + "\n"
    )  # fmt: skip
    command = place.command("router", "dnsmasq", "-k", "-C", str(settings), "--pid-file=")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            assert any("sockets bound" in line for line in iter(child.stderr.readline, ""))
            yield
        finally:
            child.terminate()


def second_question(place: Place, client: Client, server: str) -> Packet:
    """UEFI asks the proxy again, at port 4011, once it has an address (PXE 2.1)."""

    def work() -> Packet:
        packet = request(client, Packet(Kind.OFFER, 4011, MAC))
        options = {number: data for number, data in packet.options.items() if number not in (50, 54)}
        packet = Packet(Kind.REQUEST, 4011, MAC, client="10.77.0.150", options=options)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.bind(("10.77.0.150", 68))
            sock.settimeout(5)
            sock.sendto(packet.encode(), (server, 4011))
            return decode(sock.recv(4096))

    return place.run("machine", work)


def test_proxy_adds_what_to_boot_to_a_routers_addresses(place: Place, tmp_path: Path) -> None:
    """Pain 8: the router keeps giving addresses; we name the loaders, whatever the firmware."""
    with router(place, tmp_path), Rig(place, tmp_path, Mode.PROXY, segment()).running() as rig:
        for client, file in [
            (BIOS, "undionly.kpxe"),
            (IPXE, SCRIPT),
            (IPXE_UEFI, SCRIPT),
            (HTTP, TOLD[4][1]),
        ]:
            by_server = {packet.server: packet for packet in ask(place, client, answers=2)}
            assert set(by_server) == {US, ROUTER_AT}
            assert by_server[ROUTER_AT].your
            assert not by_server[ROUTER_AT].file
            told = by_server[US]
            assert (told.your, told.file) == ("", file), str(client)
            assert told.vendor_class == ("HTTPClient" if client.http else "PXEClient")
            if not client.http and file != told.file:
                assert told.next_server == US
        # UEFI over TFTP is sent to port 4011 and told there.
        for client in (UEFI, UEFI9, ARM):
            told = next(packet for packet in ask(place, client, answers=2) if packet.server == US)
            assert (told.file, told.next_server) == ("", US)
        place.address("machine", "10.77.0.150/24")
        for client, file in [(UEFI, "ipxe.efi"), (UEFI9, "ipxe.efi"), (ARM, "ipxe-arm64.efi")]:
            told = second_question(place, client, US)
            assert (told.file, told.next_server, told.kind) == (file, US, Kind.ACK)
        # The installer and ordinary systems hear the router alone.
        for client in (D_I, SYSTEM):
            assert [packet.server for packet in ask(place, client, seconds=1.5, answers=2)] == [ROUTER_AT]
        until(lambda: SeenKind.PROXIED in rig.kinds())
        assert SeenKind.GIVEN not in rig.kinds()


def test_a_machine_that_takes_another_servers_address_is_seen(place: Place, tmp_path: Path) -> None:
    """S0-12: two DHCP servers answer, and the timeline says so."""
    with router(place, tmp_path), Rig(place, tmp_path, Mode.FULL, hosts=(R1,)).running() as rig:
        offers = {packet.server: packet for packet in ask(place, BIOS, answers=2)}
        assert set(offers) == {US, ROUTER_AT}
        answer = take(place, BIOS, offers[ROUTER_AT])
        assert answer is not None
        assert answer.server == ROUTER_AT
        until(lambda: SeenKind.ELSEWHERE in rig.kinds())
        assert rig.kinds() == [SeenKind.ASKED, SeenKind.OFFERED, SeenKind.ELSEWHERE]


def test_the_probe_finds_a_second_server_and_says_what_is_wrong_with_it(place: Place, tmp_path: Path) -> None:
    """S0-12, BM302: both servers are listed with what they say."""
    wrong = ("dhcp-boot=pxelinux.0,,10.77.0.66",)
    with router(place, tmp_path, *wrong), Rig(place, tmp_path, Mode.PROXY).running():
        answers = place.run("machine", lambda: probe(INTERFACE, seconds=3.0))
        assert {answer.server for answer in answers} == {US, ROUTER_AT}
        assert {answer.client for answer in answers if answer.server == ROUTER_AT} == set(CLIENTS)
        found = judge(answers, segment(), Mode.PROXY, ours=(US,))
        assert {finding.code for finding in found} == {"BM302"}
        assert all(finding.server == ROUTER_AT for finding in found)
        assert "pxelinux.0" in found[0].seen
        # From our own host our own server is not heard, and the other one is.
        answers = place.run("us", lambda: probe(INTERFACE, seconds=2.0))
        assert {answer.server for answer in answers} == {ROUTER_AT}
        assert judge(answers, segment(), Mode.FULL)[0].code == "BM302"


def test_what_we_write_for_somebody_elses_dnsmasq_does_what_ours_would(place: Place, tmp_path: Path) -> None:
    """S4-1, mode external: the printed lines, in a router's own dnsmasq."""
    lines = dnsmasq.config(Network(Mode.EXTERNAL, (segment(),))).splitlines()
    with router(place, tmp_path, *lines):
        for client, file, vendor_class in TOLD:
            (offered,) = ask(place, client)
            assert (offered.file, offered.vendor_class) == (file, vendor_class), str(client)
            assert not file or "://" in file or offered.next_server == US
        answers = place.run("machine", lambda: probe(INTERFACE, seconds=3.0))
        assert judge(answers, segment(), Mode.EXTERNAL) == []


# ---- IPv6


def solicit() -> tuple[bytes, bytes]:
    """Ask for routers as iPXE does; return the first advertisement, and the routes that the kernel has then."""
    index = socket.if_nametoindex(INTERFACE)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.settimeout(0.5)
        for _ in range(20):
            try:
                sock.sendto(bytes((133, 0, 0, 0, 0, 0, 0, 0)), ("ff02::2", 0, 0, index))
                while (heard := sock.recv(2048))[0] != 134:
                    pass
            except TimeoutError:
                continue
            except OSError:  # our own link-local address is not ready yet
                time.sleep(0.5)
                continue
            return heard, Path("/proc/thread-self/net/ipv6_route").read_bytes()
    return b"", b""


@pytest.mark.parametrize("address", ["fd77::1/64", ""], ids=["by dnsmasq", "by us"])
def test_a_router_solicitation_is_answered_by_nobodys_router(
    place: Place, tmp_path: Path, address: str
) -> None:
    """iPXE waits 13 s for this on links without a router."""
    if address:
        place.address("us", address)
    with Rig(place, tmp_path, Mode.FULL).running():
        heard, routes = place.run("machine", solicit)
        assert heard[:1] == b"\x86"
        assert heard[6:8] == b"\0\0", "lifetime 0: nobody's router"
        assert (len(heard) > 16) == bool(address), "dnsmasq names its prefix, we name none"
        gateways = [line.split()[4] for line in routes.decode().splitlines()]
        assert set(gateways) == {"0" * 32}, "no route through us"


def test_no_advertisement_where_it_is_not_wanted(place: Place, tmp_path: Path) -> None:
    with Rig(place, tmp_path, Mode.PROXY).running():

        def quiet() -> bool:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
                index = socket.if_nametoindex(INTERFACE)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                deadline = time.monotonic() + 4
                sent = 0
                while time.monotonic() < deadline:
                    sock.settimeout(0.5)
                    try:
                        sock.sendto(bytes((133, 0, 0, 0, 0, 0, 0, 0)), ("ff02::2", 0, 0, index))
                        sent += 1
                        if sock.recv(2048)[0] == 134:
                            return False
                    except OSError:
                        time.sleep(0.3)
                return sent > 1

        assert place.run("machine", quiet)
