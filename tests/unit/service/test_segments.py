"""What `explain` and `doctor` say of the segments on which machines boot."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

import pytest

from baremetal.errors import Refused
from baremetal.netboot.dhcp.offer import BIOS, Client, Mode, Network, Segment
from baremetal.netboot.dhcp.probe import Answer
from baremetal.netboot.tftp import Told
from baremetal.service.advice.finding import Finding
from baremetal.service.advice.segments import Segments

SEGMENT = Segment(
    name="rack1",
    network=ipaddress.IPv4Network("10.0.0.0/24"),
    first=ipaddress.IPv4Address("10.0.0.100"),
    last=ipaddress.IPv4Address("10.0.0.199"),
    interface="rack0",
    base="http://10.0.0.2:8080",
    next_server="10.0.0.2",
    script="http://10.0.0.2:8080/boot.ipxe",
)
OTHER = replace(SEGMENT, name="rack2", network=ipaddress.IPv4Network("10.0.9.0/24"))
STRANGER = Answer(Client(arch=BIOS), "10.0.0.1", "10.0.0.50", "10.0.0.1", "pxelinux.0", "", "", "", "")


def segments(mode: Mode, answers: Sequence[Answer] = (), *more: Segment) -> Segments:
    return Segments(Network(mode, more or (SEGMENT,)), lambda interface: answers)


def test_what_dhcp_tells_is_said_for_the_segment_of_the_server() -> None:
    (told,) = segments(Mode.FULL, (), SEGMENT, OTHER).told("10.0.0.7/24")
    assert (told["segment"], told["who"]) == ("rack1", "our DHCP server tells")
    assert dict(told["lines"]) == {
        "iPXE on BIOS firmware": "http://10.0.0.2:8080/boot.ipxe",
        "BIOS firmware": "undionly.kpxe by TFTP from 10.0.0.2",
        "x86-64 UEFI": "ipxe.efi by TFTP from 10.0.0.2",
        "x86-64 UEFI HTTP boot": "http://10.0.0.2:8080/loaders/ipxe.efi",
        "the Debian installer": "nothing: it would read a file name as a second preseed",
    }
    assert len(segments(Mode.EXTERNAL, (), SEGMENT, OTHER).told("192.168.7.7/24")) == 2


def test_a_machine_calls_us_as_its_segment_does() -> None:
    both = segments(Mode.FULL, (), SEGMENT, replace(OTHER, base="http://10.0.9.2:8080"))
    assert both.base("10.0.9.7/24") == "http://10.0.9.2:8080"
    assert (both.base("192.168.7.7/24"), both.base("fd00::7"), both.base("")) == ("", "", "")


def test_a_second_server_is_named_with_what_it_says() -> None:
    (finding,) = segments(Mode.FULL, [STRANGER]).examine()
    assert (finding.ok, finding.code) == (False, "BM302")
    assert "10.0.0.1 to BIOS firmware: address 10.0.0.50" in finding.what
    assert "proxy" in finding.fix


def test_silence_is_right_where_all_of_it_is_ours_and_wrong_where_somebody_should_answer() -> None:
    (finding,) = segments(Mode.FULL).examine()
    assert (finding.ok, finding.what) == (True, "nobody but us answers (rack0)")
    (finding,) = segments(Mode.EXTERNAL).examine()
    assert (finding.ok, finding.code) == (False, "BM301")


@pytest.mark.parametrize(
    ("segment", "said"),
    [
        (replace(SEGMENT, base="http://127.0.0.1:8080"), "loopback only"),
        (replace(OTHER, interface="", relay="10.0.9.1"), "no interface in 10.0.9.0/24"),
    ],
)
def test_where_nobody_can_be_asked_nobody_is(segment: Segment, said: str) -> None:
    (finding,) = segments(Mode.EXTERNAL, [STRANGER], segment).examine()
    assert finding.ok is None
    assert said in finding.what


def test_who_may_not_look_is_told_how_he_may() -> None:
    def refuse(interface: str) -> Sequence[Answer]:
        raise Refused("may not", code="BM305", fix="run as root")

    (finding,) = Segments(Network(Mode.FULL, (SEGMENT,)), refuse).examine()
    assert (finding.ok, finding.code, finding.fix) == (None, "BM305", "run as root")


def tftp(mode: Mode, told: dict[str, Told], *more: Segment) -> list[Finding]:
    network = Network(mode, more or (SEGMENT,))
    return Segments(
        network, lambda _: (), lambda _, name: told.get(name, Told(None, why="silence"))
    ).examine_tftp()


def test_a_tftp_server_that_is_not_there_is_found_before_a_machine_finds_it() -> None:
    """The default serves no TFTP, and firmware would wait for it for a minute and give up."""
    (finding,) = tftp(Mode.FULL, {})
    assert finding.ok is False
    assert "10.0.0.2 is where firmware is sent for undionly.kpxe and ipxe.efi" in finding.what
    assert "[tftp] listen" in finding.fix
    assert tftp(Mode.EXTERNAL, {})[0].ok is None, "machines may bring iPXE"


def test_an_operators_own_tftp_server_is_asked_for_each_loader() -> None:
    missing, there = tftp(
        Mode.PROXY, {"undionly.kpxe": Told(False, why="file not found"), "ipxe.efi": Told(True, 10**6)}
    )
    assert (missing.ok, missing.what) == (False, "10.0.0.2 does not serve undionly.kpxe: file not found")
    assert (there.ok, there.what) == (True, "10.0.0.2 serves ipxe.efi")
    all_there = dict.fromkeys(("undionly.kpxe", "ipxe.efi"), Told(True))
    (said,) = tftp(Mode.FULL, all_there, SEGMENT, OTHER)
    assert said.what == "10.0.0.2 serves undionly.kpxe and ipxe.efi"
    assert tftp(Mode.FULL, {}, replace(SEGMENT, base="http://127.0.0.1:8080")) == []
