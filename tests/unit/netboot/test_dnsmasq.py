"""dnsmasq's settings: whole, as golden text that dnsmasq itself accepts; what its log means; and what is refused.

Cites the founding systems: S4-1 (the file and its order of tests), S2-2 (DHCP alone, `port=0`), S3-1 and S4-14
(next-server, file name, routers, DNS, broadcast per network), S4-15 (no duplicate address).
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from baremetal.errors import Invalid
from baremetal.netboot.dhcp import dnsmasq
from baremetal.netboot.dhcp.offer import Client, Host, Mode, Offer, Segment, offer
from baremetal.netboot.dhcp.sightings import Reader, Seen, SeenKind
from tests.unit.netboot.network import FAR, HOSTS, RACK2, network, segment

GOLDEN = Path(__file__).parents[2] / "golden" / "dnsmasq"
TEXTS = {f"{mode}.conf": dnsmasq.config(network(mode)) for mode in Mode} | {"hosts": dnsmasq.hosts(HOSTS)[0]}


@pytest.mark.parametrize("name", TEXTS)
def test_whole_files(name: str) -> None:
    """UPDATE_GOLDEN=yes writes them, for a person to read the difference."""
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(TEXTS[name])
    assert TEXTS[name] == (GOLDEN / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_dnsmasq_itself_accepts_them(mode: Mode, tmp_path: Path) -> None:
    program = shutil.which("dnsmasq", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        pytest.skip("dnsmasq is not installed")
    file = tmp_path / "dnsmasq.conf"
    file.write_text(TEXTS[f"{mode}.conf"])
    done = subprocess.run(
        [program, "--test", f"--conf-file={file}"], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "dnsmasq: syntax check OK.")


def test_ipxe_is_recognised_before_its_architecture() -> None:
    """Pain 9 (ipxe/ipxe#908 and others): no line gives a loader to what already is iPXE."""
    for mode in Mode:
        lines = TEXTS[f"{mode}.conf"].splitlines()
        for line in lines:
            if line.startswith(("dhcp-boot=", "pxe-service=")):
                assert ("tag:firmware" in line) != ("tag:ipxe" in line)
                assert ("boot.ipxe" in line) == ("tag:ipxe" in line)
        assert "tag-if=set:firmware,tag:!ipxe,tag:!installer" in lines
        assert "dhcp-match=set:ipxe,175" in lines
        assert "dhcp-userclass=set:ipxe,iPXE" in lines


def test_no_dns_and_no_tftp_of_dnsmasqs() -> None:
    for mode in (Mode.PROXY, Mode.FULL):
        assert "port=0" in TEXTS[f"{mode}.conf"].splitlines()
        assert "tftp" not in re.sub("#.*", "", TEXTS[f"{mode}.conf"])
        assert "dhcp-authoritative" not in re.sub("#.*", "", TEXTS[f"{mode}.conf"])


@pytest.mark.parametrize(
    "more",
    [
        {"name": "a,b"},
        {"name": "a\nport=53"},
        {"script": "http://h/boot.ipxe,evil"},
        {"loader_uefi": 'ipxe.efi"'},
        {"routers": ("10.0.1.1\ndhcp-script=/bin/sh",)},
        {"interface": "eth1\n"},
        {"dns_servers": ("1.1.1.1 2.2.2.2",)},
        {"script": "http://10.0.0.1/" + "x" * 120},
        {"base": "http://" + "a" * 100 + ".example"},
    ],
)
def test_what_would_be_read_as_something_else_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        segment(**more)
    assert caught.value.code == "BM306"


def test_a_proxy_refuses_names_that_dnsmasq_would_change() -> None:
    odd = network(Mode.PROXY)
    with pytest.raises(Invalid, match="without a dot"):
        dnsmasq.config(
            type(odd)(Mode.PROXY, (segment(script="http://boot/start"),), lease_file="/x", hosts_file="/y")
        )
    with pytest.raises(Invalid, match="not a path"):
        dnsmasq.config(type(odd)(Mode.PROXY, (segment(),), lease_file="/x\nport=53"))


def test_a_mac_or_address_given_twice_does_not_keep_dnsmasq_from_starting() -> None:
    """S4-15, and openwrt/openwrt#21362 among the pains."""
    twice = (
        Host("b", "52:54:00:00:00:02", "10.0.1.11"),
        Host("a", "52:54:00:00:00:01", "10.0.1.11"),
        Host("c", "52:54:00:00:00:01", "10.0.1.13"),
        Host("a.other.example", "52:54:00:00:00:05", "10.0.1.15"),
        Host("under_score", "52:54:00:00:00:06", "10.0.1.16"),
    )
    text, left_out = dnsmasq.hosts(twice)
    assert text.splitlines() == [
        "52:54:00:00:00:01,10.0.1.11,a",
        "52:54:00:00:00:05,10.0.1.15",
        "52:54:00:00:00:06,10.0.1.16",
    ]
    assert [host.name for host in left_out] == ["b", "c"]
    for bad in (Host("x", "52:54:00:00:00:0", "10.0.0.1"), Host("x", "52:54:00:00:00:01", "10.0.0.1,id:*")):
        with pytest.raises(Invalid) as caught:
            dnsmasq.hosts([bad])
        assert (caught.value.code, caught.value.server) == ("BM306", "x")


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        (Client(), None),
        (Client(installer=True), None),
        (Client(arch=0, installer=True), None),
        (Client(arch=6), None),
        (Client(arch=0), Offer("undionly.kpxe", "10.0.1.2")),
        (Client(arch=7), Offer("ipxe.efi", "10.0.1.2")),
        (Client(arch=9), Offer("ipxe.efi", "10.0.1.2")),
        (Client(arch=11), Offer("ipxe-arm64.efi", "10.0.1.2")),
        (Client(arch=16), Offer("http://10.0.1.2:8080/loaders/ipxe.efi", "", "HTTPClient")),
        (Client(arch=7, http=True), Offer("http://10.0.1.2:8080/loaders/ipxe.efi", "", "HTTPClient")),
        (Client(arch=19, http=True), Offer("http://10.0.1.2:8080/loaders/ipxe-arm64.efi", "", "HTTPClient")),
        (Client(arch=7, ipxe=True), Offer("http://10.0.1.2:8080/boot.ipxe", "10.0.1.2")),
    ],
    ids=repr,
)
def test_who_is_told_what(client: Client, wanted: Offer | None) -> None:
    assert offer(segment(), client) == wanted


def test_a_segment_may_have_a_loader_of_its_own() -> None:
    """Secure Boot on one rack only: its firmware takes the signed shim."""
    rack2 = Segment(**RACK2)
    assert offer(rack2, Client(arch=7)) == Offer("shimx64.efi", "10.0.2.2")
    assert offer(rack2, Client(arch=0)) == Offer("undionly.kpxe", "10.0.2.2")
    assert "dhcp-boot=tag:rack2,tag:firmware,tag:x64,tag:!http,shimx64.efi,,10.0.2.2" in TEXTS["full.conf"]


def test_a_relay_outside_its_segment_is_told_to_dnsmasq() -> None:
    far = Segment(**{**FAR, "relay": "172.16.0.1", "routers": ()})
    text = dnsmasq.config(type(network(Mode.FULL))(Mode.FULL, (far,)))
    assert "shared-network=172.16.0.1,10.9.0.50" in text
    assert "dhcp-option=tag:far,option:router\n" in text, "it is nobody's router there"
    assert ipaddress.IPv4Address(FAR["relay"]) in FAR["network"]
    assert "dhcp-option=tag:far,option:router,10.9.0.1" in TEXTS["full.conf"]


# ---- the log, recorded from dnsmasq 2.90

LOG = """\
dnsmasq[23784]: started, version 2.90 DNS disabled
dnsmasq-dhcp[23784]: DHCP, IP range 10.9.0.100 -- 10.9.0.110, lease time 45m
dnsmasq-dhcp[23784]: 3091328268 available DHCP range: 10.9.0.100 -- 10.9.0.110
dnsmasq-dhcp[23784]: 3091328268 vendor class: PXEClient:Arch:00007:UNDI:003010
dnsmasq-dhcp[23784]: 3091328268 DHCPDISCOVER(br0) 52:54:00:00:00:01 
dnsmasq-dhcp[23784]: 3091328268 tags: s0, known, br0
dnsmasq-dhcp[23784]: 3091328268 DHCPOFFER(br0) 10.9.0.50 52:54:00:00:00:01 
dnsmasq-dhcp[23784]: 3091328268 requested options: 1:netmask, 3:router, 6:dns-server, 12:hostname, 
dnsmasq-dhcp[23784]: 3091328268 bootfile name: ipxe.efi
dnsmasq-dhcp[23784]: 3091328268 next server: 10.9.0.1
dnsmasq-dhcp[23784]: 3091328268 sent size:  1 option: 53 message-type  2
dnsmasq-dhcp[23784]: 3091328268 sent size: 30 option: 67 bootfile-name  ipxe.efi
dnsmasq-dhcp[23784]: 7 available DHCP range: 10.9.0.100 -- 10.9.0.110
dnsmasq-dhcp[23784]: 7 available DHCP range: 10.9.1.100 -- 10.9.1.110
dnsmasq-dhcp[23784]: 7 vendor class: udhcp 1.35.0
dnsmasq-dhcp[23784]: 7 DHCPREQUEST(br0) 10.9.0.51 52:54:00:00:00:02 
dnsmasq-dhcp[23784]: 7 DHCPNAK(br0) 10.9.0.51 52:54:00:00:00:02 wrong network
dnsmasq-dhcp[23784]: 3091328268 available DHCP range: 10.9.0.100 -- 10.9.0.110
dnsmasq-dhcp[23784]: 3091328268 vendor class: PXEClient:Arch:00007:UNDI:003010
dnsmasq-dhcp[23784]: no address range available for DHCP request via br0
dnsmasq-dhcp[23784]: not using configured address 10.9.0.50 because it is leased to 52:54:00:00:00:09
nonsense
"""  # noqa: W291


def test_the_log_becomes_sightings() -> None:
    reader = Reader()
    seen = [found for line in LOG.splitlines() for found in reader.read(line)] + list(reader.flush())
    uefi = "PXEClient:Arch:00007:UNDI:003010"
    assert seen == [
        Seen(SeenKind.ASKED, "52:54:00:00:00:01", "", "br0", uefi, arch=7),
        Seen(SeenKind.OFFERED, "52:54:00:00:00:01", "10.9.0.50", "br0", uefi, arch=7, file="ipxe.efi"),
        Seen(SeenKind.WANTED, "52:54:00:00:00:02", "10.9.0.51", "br0", "udhcp 1.35.0"),
        Seen(SeenKind.REFUSED, "52:54:00:00:00:02", "10.9.0.51", "br0", "udhcp 1.35.0", note="wrong network"),
        Seen(SeenKind.ELSEWHERE, "52:54:00:00:00:01", "", "br0", uefi, arch=7),
        Seen(
            SeenKind.UNSERVED,
            note="no address range available for DHCP request via br0",
        ),
    ]
    assert list(reader.flush()) == []


def test_a_transaction_without_an_offer_of_ours_says_nothing() -> None:
    reader = Reader()
    for _ in range(2):
        assert not list(reader.read("dnsmasq-dhcp: 5 available DHCP range: 10.9.0.100 -- 10.9.0.110"))
        assert not list(reader.read("dnsmasq-dhcp: 5 vendor class: MSFT 5.0"))
    assert not list(reader.flush())
