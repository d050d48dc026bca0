"""DHCP packets read and written, and the judgement of who answers, on packets recorded from dnsmasq 2.90 and ISC
dhcpd 4.4.3 (S0-12: two servers, wrong next-server; pains 8 and 9).
"""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import BaremetalError, Invalid
from baremetal.netboot.dhcp.offer import Client, Mode, Segment
from baremetal.netboot.dhcp.packet import FILE, KIND, OVERLOAD, Kind, Packet, decode, discover, request
from baremetal.netboot.dhcp.probe import Answer, Finding, Wire, judge, made_up_mac
from tests.unit.netboot.network import segment

RECORDED = Path(__file__).parent / "recorded"
BIOS, UEFI, HTTP, IPXE = Client(arch=0), Client(arch=7), Client(arch=16, http=True), Client(arch=7, ipxe=True)
US, OTHER = "10.77.0.1", "10.77.0.254"
MAC = "52:54:00:77:00:01"


def recorded(name: str) -> Packet:
    return decode(bytes.fromhex((RECORDED / f"{name}.hex").read_text()))


def here(**more: object) -> Segment:
    base = f"http://{US}:8080"
    return segment(
        **{
            "network": ipaddress.IPv4Network("10.77.0.0/24"),
            "base": base,
            "next_server": US,
            "script": f"{base}/boot.ipxe",
            **more,
        }
    )


# ---- packets


def test_recorded_offers_are_read() -> None:
    offer = recorded("dnsmasq_router_pxelinux_bios")
    assert (offer.kind, offer.mac, offer.is_reply) == (Kind.OFFER, MAC, True)
    assert (offer.server, offer.next_server, offer.file) == (OTHER, "10.77.0.66", "pxelinux.0")
    assert offer.boot_file == "", "it stands in option 67, which was asked for"
    assert offer.your.startswith("10.77.0.2")
    proxy = recorded("dnsmasq_proxy_bios")
    assert (proxy.server, proxy.your, proxy.file) == (US, "", "undionly.kpxe")
    assert proxy.vendor_class == "PXEClient"
    http = recorded("isc_http")
    assert (http.file, http.vendor_class) == (f"http://{US}:8080/loaders/ipxe.efi", "HTTPClient")


@pytest.mark.parametrize("client", [Client(), Client(installer=True), BIOS, UEFI, HTTP, IPXE], ids=str)
def test_what_is_asked_survives_the_wire(client: Client) -> None:
    asked = discover(client, MAC, 0x12345678, relay="10.9.0.1")
    heard = decode(asked.encode())
    assert len(asked.encode()) >= 300
    assert dataclasses.replace(heard, options={}) == dataclasses.replace(asked, options={})
    assert {**heard.options} == {KIND: b"\x01", **asked.options}
    offered = recorded("isc_uefi")
    wanted = decode(request(client, offered).encode())
    assert wanted.options[50] == bytes((10, 77, 0, 11))
    assert wanted.options[54] == offered.options[54]


def test_options_in_the_fields_for_names_and_long_options() -> None:
    """RFC 2131 §4.1 (overload) and RFC 3396 (one option in parts)."""
    long = bytes(range(1, 200)) * 2
    data = bytearray(Packet(Kind.OFFER, 1, MAC, is_reply=True, options={OVERLOAD: b"\3", 43: long}).encode())
    data[108 : 108 + 10] = bytes((FILE, 8)) + b"ipxe.efi"
    data[44 : 44 + 7] = bytes((66, 5)) + b"other"
    read = decode(bytes(data))
    assert read.options[43] == long
    assert (read.file, read.options[66], read.boot_file, read.name) == ("ipxe.efi", b"other", "", "")


@given(st.binary(max_size=700))
def test_anything_at_all_is_a_packet_or_refused(data: bytes) -> None:
    whole = recorded("dnsmasq_proxy_bios").encode()
    for packet in (data, whole[:240] + data, data[:240].ljust(236, b"\1") + whole[236:]):
        try:
            assert isinstance(decode(packet), Packet)
        except Invalid:
            pass


# ---- judgement


def answer(client: Client, name: str, **more: object) -> Answer:
    packet = recorded(name)
    return dataclasses.replace(Answer.of(client, packet, packet.server), **more)  # type: ignore[arg-type]


def whats(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.what) for finding in found]


def test_a_good_pair_of_router_and_proxy_is_left_alone() -> None:
    router = answer(BIOS, "dnsmasq_router_pxelinux_bios", file="", option_67="", next_server=OTHER)
    ours = answer(BIOS, "dnsmasq_proxy_bios")
    assert judge([router, ours], here(), Mode.PROXY, ours=(US,)) == []
    assert ours.vendor_data.startswith("060103"), "what a proxy tells PXE in option 43"


def test_a_router_that_names_a_file_beside_our_proxy() -> None:
    (found,) = judge([answer(BIOS, "dnsmasq_router_pxelinux_bios")], here(), Mode.PROXY, ours=(US,))
    assert found.code == "BM302"
    assert found.what == f"{OTHER} names a boot file of its own, which machines may take instead of ours"
    assert "next-server 10.77.0.66 file pxelinux.0" in found.seen
    assert found.fix


def test_a_router_that_calls_itself_pxe_beside_our_proxy() -> None:
    quiet = answer(BIOS, "dnsmasq_router_pxelinux_bios", file="", vendor_class="PXEClient")
    (found,) = judge([quiet], here(), Mode.PROXY, ours=(US,))
    assert "option 60" in found.what


def test_any_other_server_beside_our_full_one() -> None:
    (found,) = judge([answer(Client(), "isc_uefi")], here(), Mode.FULL, ours=(US,))
    assert (found.code, found.server) == ("BM302", OTHER)


def test_two_strangers_that_give_addresses() -> None:
    two = [answer(UEFI, "isc_uefi"), answer(UEFI, "isc_uefi", server="10.77.0.253")]
    assert ("BM302", "2 DHCP servers give addresses on rack1: machines take whichever is first") in whats(
        judge(two, here(), Mode.EXTERNAL)
    )


def test_nobody_gives_addresses() -> None:
    for mode in (Mode.EXTERNAL, Mode.PROXY):
        assert whats(judge([], here(), mode)) == [("BM301", "no DHCP server gives addresses on rack1")]
    assert judge([], here(), Mode.FULL, ours=(US,)) == [], "ours is not heard from its own host"


@pytest.mark.parametrize(
    ("client", "name", "more", "says"),
    [
        (UEFI, "isc_uefi", {}, None),
        (HTTP, "isc_http", {}, None),
        (Client(), "isc_uefi", {"file": ""}, None),
        (UEFI, "isc_uefi", {"next_server": "10.77.0.66"}, "sends x86-64 UEFI to another TFTP server than ours"),
        (UEFI, "isc_uefi", {"file": "pxelinux.0"}, "tells x86-64 UEFI another boot file than ours"),
        (UEFI, "isc_uefi", {"file": ""}, "tells x86-64 UEFI no boot file"),
        (IPXE, "isc_uefi", {}, "gives iPXE a loader again, so that it starts itself for ever"),
        (HTTP, "isc_http", {"vendor_class": ""}, "does not say option 60 = HTTPClient"),
        (Client(installer=True), "isc_uefi", {}, "sends the Debian installer a file name"),
    ],
)  # fmt: skip
def test_what_somebody_elses_server_says(
    client: Client, name: str, more: dict[str, object], says: str | None
) -> None:
    """S0-12 (wrong next-server), S3-1; pain 9 (iPXE given to iPXE)."""
    found = judge([answer(client, name, **more)], here(), Mode.EXTERNAL)
    if says is None:
        assert found == []
    else:
        (one,) = found
        assert one.what.startswith(f"{OTHER} {says}")
        assert one.fix


def test_the_probe_is_nobodys_machine() -> None:
    assert made_up_mac("52:54:00:12:34:56") == "02:bd:00:12:34:56"
    assert made_up_mac("") == "02:bd:00:00:00:01"


def test_a_probe_on_an_interface_that_is_not_there() -> None:
    with pytest.raises(BaremetalError) as caught:
        Wire("nosuch0")
    assert caught.value.code == "BM304"
