"""The segments on which our machines boot: what DHCP tells whom there, and who else answers.

Owns the words for both. What is right is `netboot/dhcp/offer.py`'s, what is seen `netboot/dhcp/probe.py`'s. Asks and
listens; takes no address, and changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from baremetal.errors import BaremetalError, Refused
from baremetal.netboot.dhcp.interface import address_of
from baremetal.netboot.dhcp.offer import BIOS, X64, X64_HTTP, Client, Mode, Network, Segment, offer
from baremetal.netboot.dhcp.probe import CLIENTS, Answer, judge, probe
from baremetal.netboot.tftp import Told, ask
from baremetal.service.advice.finding import Finding

_WHO = (
    Client(arch=BIOS, ipxe=True),
    Client(arch=BIOS),
    Client(arch=X64[0]),
    Client(arch=X64_HTTP, http=True),
    Client(installer=True),
)
_BY = {
    Mode.EXTERNAL: "your DHCP server has to tell",
    Mode.PROXY: "our proxy, beside your DHCP server, tells",
    Mode.FULL: "our DHCP server tells",
}
Probe = Callable[[str], Sequence[Answer]]
Ask = Callable[[str, str], Told]


class Segments:
    """Explains and examines the segments of the settings.

    `probe` asks on an interface, which takes some seconds; `ask` asks a TFTP server for a name. `base` is what machines
    call us that are in no segment, or in one that does not say.
    """

    def __init__(
        self,
        network: Network,
        probe: Probe = lambda interface: probe(interface, CLIENTS),
        ask: Ask = ask,
        *,
        base: str = "",
    ) -> None:
        self._network = network
        self._base = base
        self._probe = probe
        self._ask = ask

    # -- what is told --

    def told(self, ip: str = "") -> list[dict[str, Any]]:
        """Say what firmware is told on the segment of an address, or where that is in none, on all of them."""
        return [
            {
                "segment": segment.name,
                "network": str(segment.network),
                "who": _BY[self._network.mode],
                "lines": [(str(client), _words(segment, client)) for client in _WHO],
            }
            for segment in self._of(ip)
        ]

    def base(self, ip: str) -> str:
        """Return what a machine of this address calls us: as its segment says, else as everybody does."""
        if not ip:
            return self._base
        address = ipaddress.ip_address(ip.partition("/")[0])
        bases = (one.base for one in self._network.segments if address in one.network)
        return next(bases, "") or self._base

    def _of(self, ip: str) -> Sequence[Segment]:
        if ip:
            address = ipaddress.ip_address(ip.partition("/")[0])
            here = [one for one in self._network.segments if address in one.network]
            if here:
                return here
        return self._network.segments

    # -- who answers --

    def examine(self) -> list[Finding]:
        """Ask on every segment that we have an interface in who answers DHCP, and judge the answers."""
        found = []
        for segment in self._network.segments:
            name = f"DHCP on {segment.name}"
            if (urlsplit(segment.base).hostname or "").startswith("127."):
                text = "machines reach us by this host's loopback only, so nobody else's DHCP matters"
                found.append(Finding(name, None, text))
            elif interface := segment.interface or _interface_of(segment):
                found += self._asked(segment, name, interface)
            else:
                text = f"we have no interface in {segment.network}: nobody can be asked from here"
                found.append(Finding(name, None, text, fix="run `baremetal doctor` of a service that has"))
        return found

    def examine_tftp(self) -> list[Finding]:
        """Ask every TFTP server that firmware is sent to, ours or the operator's, for the loaders it is sent for."""
        found: dict[str, Finding] = {}
        for segment in self._network.segments:
            if not (urlsplit(segment.base).hostname or "").startswith("127."):
                for finding in self._tftp(segment):
                    found.setdefault(finding.what, finding)
        return list(found.values())

    def _tftp(self, segment: Segment) -> Iterator[Finding]:
        name, server = f"TFTP on {segment.name}", segment.next_server
        # Where DHCP is not ours, machines may bring iPXE and need no TFTP.
        bad = False if self._network.mode is not Mode.EXTERNAL else None
        wanted = list(dict.fromkeys((segment.loader_bios, segment.loader_uefi)))
        there = []
        for loader in wanted:
            told = self._ask(server, loader)
            if told.there is None:
                sent = f"{server} is where firmware is sent for {' and '.join(wanted)}"
                yield Finding(
                    name,
                    bad,
                    f"{sent}, and no TFTP is heard there: {told.why}",
                    fix='set [tftp] listen = "0.0.0.0:69", or next_server to the TFTP server that has them',
                )
                return
            if told.there:
                there.append(loader)
                continue
            text = f"{server} does not serve {loader}: {told.why}"
            yield Finding(name, bad, text, "BM202", "put it there; see `loaders` for where it comes from")
        if there:
            yield Finding(name, True, f"{server} serves {' and '.join(there)}")

    def _asked(self, segment: Segment, name: str, interface: str) -> list[Finding]:
        try:
            answers = self._probe(interface)
        except Refused as error:  # only worth knowing: not every installation may look
            return [Finding(name, None, error.what, error.code, error.fix or "")]
        except BaremetalError as error:
            return [Finding(name, False, str(error), error.code, error.fix or "")]
        ours = [address for address in (address_of(interface), segment.next_server) if address]
        wrong = judge(answers, segment, self._network.mode, ours)
        if wrong:
            return [
                Finding(name, False, f"{one.what}{f' ({one.seen})' if one.seen else ''}", one.code, one.fix)
                for one in wrong
            ]
        others = sorted({answer.server for answer in answers if answer.server not in ours})
        text = f"{', '.join(others)} answers as it should" if others else "nobody but us answers"
        return [Finding(name, True, f"{text} ({interface})")]


def _words(segment: Segment, client: Client) -> str:
    told = offer(segment, client)
    if told is None:
        return "nothing: it would read a file name as a second preseed"
    return told.file if "://" in told.file else f"{told.file} by TFTP from {told.next_server}"


def _interface_of(segment: Segment) -> str:
    """Return the interface whose address lies in a segment, "" where there is none."""
    for _, name in socket.if_nameindex():
        address = address_of(name)
        if address is not None and ipaddress.IPv4Address(address) in segment.network:
            return name
    return ""
