"""What dnsmasq's log says that machines did, as values: who asked, what was offered, who took another server's offer.

Owns reading the lines (dnsmasq 2.90 with `log-dhcp`; English, for the child runs in the C locale). One packet gives
several lines that carry its transaction's number, written at once; they are one sighting or two when the packet ends,
which is when the next one begins or `flush` is called. Deliberately unknown: processes, and what a server is.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

_PREFIX = re.compile(r"dnsmasq(-dhcp)?(\[\d+\])?: ")
_LINE = re.compile(r"(?P<xid>\d+) (?P<rest>.*)")
_SAID = re.compile(
    r"(?P<word>DHCP[A-Z]+|PXE|BOOTP|NOANSWER)\((?P<interface>[^)]*)\) "
    r"(?:(?P<address>[0-9]+(?:\.[0-9]+){3}) )?(?P<mac>(?:[0-9a-f]{2}:){5}[0-9a-f]{2})(?: (?P<note>.*))?"
)
_ARCH = re.compile(r"(?:PXE|HTTP)Client:Arch:(\d{5})")
_KEPT = 512  # transactions remembered; a boot needs two or three


class SeenKind(StrEnum):
    """What was seen, in the words of the timeline."""

    ASKED = "asked for an address"
    OFFERED = "was offered an address"
    WANTED = "wants an address"
    GIVEN = "was given an address"
    REFUSED = "was refused an address"
    PROXIED = "was told what to boot"
    BOOT_SERVED = "chose what to boot"
    ELSEWHERE = "was answered by another server"
    DECLINED = "found its address in use"
    RELEASED = "gave its address back"
    UNSERVED = "asked where no range is"


_KINDS = {
    "DHCPDISCOVER": SeenKind.ASKED,
    "DHCPOFFER": SeenKind.OFFERED,
    "DHCPREQUEST": SeenKind.WANTED,
    "DHCPACK": SeenKind.GIVEN,
    "DHCPNAK": SeenKind.REFUSED,
    "DHCPDECLINE": SeenKind.DECLINED,
    "DHCPRELEASE": SeenKind.RELEASED,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that was seen of a machine. `arch` is option 93 where it told; `note` is dnsmasq's own words."""

    kind: SeenKind
    mac: str = ""
    address: str = ""
    interface: str = ""
    vendor_class: str = ""
    ipxe: bool = False
    arch: int | None = None
    file: str = ""
    note: str = ""


@dataclass(slots=True)
class _Packet:
    xid: int
    vendor_class: str = ""
    ipxe: bool = False
    file: str = ""
    is_ignored: bool = False
    said: list[re.Match[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    mac: str
    interface: str


class Reader:
    """Turns lines into sightings, in order. Holds the packet that is being told, and whom we offered something."""

    def __init__(self) -> None:
        self._packet: _Packet | None = None
        self._offered: OrderedDict[int, _Known] = OrderedDict()

    def read(self, line: str) -> Iterator[Seen]:
        """Read one line; yield what has become known by it."""
        if not (prefix := _PREFIX.match(line)):
            return
        text = line[prefix.end() :].rstrip()
        if text.startswith("no address range available"):
            yield from self.flush()
            yield Seen(SeenKind.UNSERVED, note=text)
            return
        if not (found := _LINE.match(text)):
            return
        xid, rest = int(found["xid"]), found["rest"]
        begins = rest.startswith(("available DHCP range: ", "available DHCP subnet: "))
        packet = self._packet
        if packet is None or packet.xid != xid or (begins and (packet.said or packet.vendor_class)):
            yield from self.flush()
            packet = self._packet = _Packet(xid)
        word, _, value = rest.partition(": ")
        if word == "vendor class":
            packet.vendor_class = value
        elif word == "user class":
            packet.ipxe = value.startswith("iPXE")
        elif word == "bootfile name":
            packet.file = value
        elif word == "tags":
            packet.ipxe = packet.ipxe or "ipxe" in value.split(", ")
        elif said := _SAID.match(rest):
            packet.said.append(said)
        elif (option := re.match(r"sent size: *\d+ option: *67 bootfile-name  (.*)", rest)) is not None:
            packet.file = option[1]

    def flush(self) -> Iterator[Seen]:
        """Yield what the packet told so far means: nothing more of it will come."""
        packet, self._packet = self._packet, None
        if packet is None:
            return
        if not packet.said:
            # Heard and not answered. A REQUEST that names another server is dropped without a word.
            if (known := self._offered.pop(packet.xid, None)) is not None:
                yield self._seen(packet, SeenKind.ELSEWHERE, known.mac, interface=known.interface)
            return
        for said in packet.said:
            kind = _KINDS.get(said["word"])
            note = said["note"] or ""
            if said["word"] == "PXE":
                kind = SeenKind.PROXIED if note == "proxy" else SeenKind.BOOT_SERVED
                packet.file = packet.file or ("" if note == "proxy" else note)
            if kind is None:
                continue
            if kind in (SeenKind.OFFERED, SeenKind.PROXIED):
                self._offered[packet.xid] = _Known(said["mac"], said["interface"])
                while len(self._offered) > _KEPT:
                    self._offered.popitem(last=False)
            elif kind is not SeenKind.ASKED:
                self._offered.pop(packet.xid, None)
            yield self._seen(packet, kind, said["mac"], said["address"] or "", said["interface"], note)

    def _seen(
        self,
        packet: _Packet,
        kind: SeenKind,
        mac: str,
        address: str = "",
        interface: str = "",
        note: str = "",
    ) -> Seen:
        arch = _ARCH.match(packet.vendor_class)
        told = kind in (SeenKind.OFFERED, SeenKind.GIVEN, SeenKind.PROXIED, SeenKind.BOOT_SERVED)
        return Seen(
            kind=kind,
            mac=mac,
            address=address,
            interface=interface,
            vendor_class=packet.vendor_class,
            ipxe=packet.ipxe,
            arch=int(arch[1]) if arch else None,
            file=packet.file if told else "",
            note=note,
        )
