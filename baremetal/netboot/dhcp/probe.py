"""Finds out who answers DHCP on a segment, and judges what each answers.

Owns the asking (a packet socket: our own server does not hear it, and no running DHCP client is in the way) and the
judgement, which is a pure function of the answers. Changes nothing: it asks and never takes what it is offered.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from baremetal.errors import Invalid, Refused, Unavailable
from baremetal.netboot.dhcp.interface import index_of, mac_of
from baremetal.netboot.dhcp.offer import BIOS, HTTP, X64, X64_HTTP, Client, Mode, Segment, offer
from baremetal.netboot.dhcp.packet import FILE, IPXE, SERVER_NAME, VENDOR_DATA, Kind, Packet, decode, discover

LISTEN_S = 4.0
CLIENTS = (
    Client(),
    Client(arch=BIOS),
    Client(arch=X64[0]),
    Client(arch=X64_HTTP, http=True),
    Client(arch=X64[0], ipxe=True),
    Client(installer=True),
)
_REPEAT_S = 1.5
_ETHERTYPE_IP = 0x0800
_EVERYBODY = b"\xff" * 6


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server answered to one question. `vendor_data` (option 43) and `ipxe_data` (175) are hexadecimal."""

    client: Client
    server: str
    address: str
    next_server: str
    file: str
    vendor_class: str
    option_66: str
    option_67: str
    vendor_data: str
    ipxe_data: str = ""
    sent_by: str = ""  # the IP address the packet came from; a relay's, behind one

    @classmethod
    def of(cls, client: Client, packet: Packet, sent_by: str) -> Answer:
        """Read an offer."""
        text = {
            number: packet.options.get(number, b"").rstrip(b"\0").decode("ascii", "replace")
            for number in (SERVER_NAME, FILE)
        }
        return cls(
            client=client,
            server=packet.server or sent_by,
            address=packet.your,
            next_server=packet.next_server,
            file=packet.file,
            vendor_class=packet.vendor_class,
            option_66=text[SERVER_NAME],
            option_67=text[FILE],
            vendor_data=packet.options.get(VENDOR_DATA, b"").hex(),
            ipxe_data=packet.options.get(IPXE, b"").hex(),
            sent_by=sent_by,
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with the server it is wrong with and what to do."""

    code: str
    what: str
    server: str = ""
    seen: str = ""
    fix: str = ""


class Wire:
    """Raw UDP between the DHCP ports on one interface. Raises Refused BM305 without the right, Unavailable BM304."""

    def __init__(self, interface: str) -> None:
        if index_of(interface) is None:
            raise Unavailable(f"there is no interface {interface}", code="BM304", fix="name one (ip link)")
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETHERTYPE_IP))
        except PermissionError as error:
            raise Refused(
                "DHCP servers may not be looked for by this user",
                code="BM305",
                seen=error.strerror,
                fix="run as root, or with CAP_NET_RAW",
            ) from error
        self._interface = interface
        self._socket.bind((interface, _ETHERTYPE_IP))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, packet: Packet) -> None:
        """Broadcast a packet as a machine without an address does."""
        try:
            self._socket.sendto(
                _datagram(packet.encode()), (self._interface, _ETHERTYPE_IP, 0, 0, _EVERYBODY)
            )
        except OSError as error:
            raise Unavailable(
                f"interface {self._interface} does not send: {error.strerror}",
                code="BM304",
                fix=f"switch it on (ip link set {self._interface} up)",
            ) from error

    def replies(self, xids: Container[int], seconds: float) -> Iterator[tuple[Packet, str]]:
        """Yield the servers' packets of these transactions, and where each came from, until the time is over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return
            found = _payload(self._socket.recv(1 << 16))
            if found is None:
                continue
            try:
                packet = decode(found[0])
            except Invalid:
                continue
            if packet.is_reply and packet.xid in xids:
                yield packet, found[1]


def probe(
    interface: str,
    clients: Sequence[Client] = CLIENTS,
    *,
    seconds: float = LISTEN_S,
) -> list[Answer]:
    """Ask as each of these clients, and return every answer. Takes `seconds` for all of them together.

    The MAC is a made-up one, the same on every call from this host, so that no lease of anybody's is touched.
    """
    found: dict[tuple[Client, str], Answer] = {}
    with Wire(interface) as wire:
        asked = {secrets.randbits(32): client for client in clients}
        mac = made_up_mac(mac_of(interface) or "")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for xid, client in asked.items():
                wire.send(discover(client, mac, xid))
            until = min(deadline, time.monotonic() + _REPEAT_S)
            for packet, sent_by in wire.replies(asked, until - time.monotonic()):
                if packet.kind is Kind.OFFER:
                    answer = Answer.of(asked[packet.xid], packet, sent_by)
                    found.setdefault((answer.client, answer.server), answer)
    return list(found.values())


def made_up_mac(own: str) -> str:
    """Return a locally administered address that stands for this interface's questions alone."""
    tail = own.split(":")[-4:] if own.count(":") == 5 else ["00", "00", "00", "01"]
    return ":".join(("02", "bd", *tail))


def judge(answers: Sequence[Answer], segment: Segment, mode: Mode, ours: Sequence[str] = ()) -> list[Finding]:
    """Say what is wrong with who answers, and with what. `ours`: the addresses of our own server.

    The packet socket of `probe` is not heard by a server on the same host, so that ours is silent in its answers.
    """
    others = sorted({answer.server for answer in answers if answer.server not in ours})
    givers = sorted({answer.server for answer in answers if answer.address and answer.server not in ours})
    findings: list[Finding] = []
    if mode is Mode.FULL:
        if not others:
            return []
        told = "; ".join(_told(answer) for answer in answers if answer.server in others)[:400]
        what = f"a DHCP server that is not ours answers on {segment.name}"
        fix = 'switch it off on this segment, or set [dhcp] mode = "proxy"'
        return [Finding("BM302", what, ", ".join(others), told, fix)]
    if len(givers) > 1:
        findings.append(
            Finding(
                "BM302",
                f"{len(givers)} DHCP servers give addresses on {segment.name}: machines take whichever is first",
                ", ".join(givers),
                fix="leave one of them",
            )
        )
    if not givers:
        findings.append(
            Finding(
                "BM301",
                f"no DHCP server gives addresses on {segment.name}",
                fix='start one, or set [dhcp] mode = "full"',
            )
        )
    for answer in answers:
        if answer.server in ours:
            continue
        findings += _foreign(answer, segment) if mode is Mode.PROXY else _external(answer, segment)
    return list(dict.fromkeys(findings))


def _foreign(answer: Answer, segment: Segment) -> Iterator[Finding]:
    """Judge a server that should give addresses and leave the rest to our proxy."""
    wanted = offer(segment, answer.client)
    if answer.file and (wanted is None or answer.file != wanted.file):
        yield Finding(
            "BM302",
            f"{answer.server} names a boot file of its own, which machines may take instead of ours",
            answer.server,
            _told(answer),
            "take file name and next-server out of its settings",
        )
    elif answer.vendor_class.startswith("PXEClient"):
        yield Finding(
            "BM302",
            f"{answer.server} calls itself a PXE server (option 60), so that firmware does not ask our proxy",
            answer.server,
            _told(answer),
            "take option 60 out of its settings",
        )


def _external(answer: Answer, segment: Segment) -> Iterator[Finding]:
    """Judge a server that should say what we would."""
    wanted = offer(segment, answer.client)
    fix = "baremetal print-config writes what it needs"
    if wanted is None:
        if answer.file and answer.client.installer:
            yield Finding(
                "BM302",
                f"{answer.server} sends {answer.client} a file name, which it reads as a preseed",
                answer.server,
                _told(answer),
                "send none to vendor class d-i",
            )
        return
    if not answer.file:
        yield Finding(
            "BM301", f"{answer.server} tells {answer.client} no boot file", answer.server, _told(answer), fix
        )
    elif answer.file != wanted.file:
        loop = answer.client.ipxe and not answer.file.startswith(("http://", "https://"))
        what = (
            f"{answer.server} gives iPXE a loader again, so that it starts itself for ever"
            if loop
            else f"{answer.server} tells {answer.client} another boot file than ours"
        )
        yield Finding("BM302", what, answer.server, f"{_told(answer)}; wanted {wanted.file}", fix)
    elif "://" not in wanted.file and answer.next_server != wanted.next_server:
        yield Finding(
            "BM302",
            f"{answer.server} sends {answer.client} to another TFTP server than ours",
            answer.server,
            f"{_told(answer)}; wanted next-server {wanted.next_server}",
            fix,
        )
    elif wanted.vendor_class == HTTP and not answer.vendor_class.startswith(HTTP):
        yield Finding(
            "BM302",
            f"{answer.server} does not say option 60 = HTTPClient, so that UEFI HTTP boot ignores it",
            answer.server,
            _told(answer),
            fix,
        )


def _told(answer: Answer) -> str:
    parts = (
        ("address", answer.address),
        ("next-server", answer.next_server),
        ("file", answer.file),
        ("60", answer.vendor_class),
        ("66", answer.option_66),
        ("43", answer.vendor_data),
        ("175", answer.ipxe_data),
    )
    said = " ".join(f"{word} {value}" for word, value in parts if value)
    return f"{answer.server} to {answer.client}: {said or 'nothing'}"


def _datagram(payload: bytes, source: int = 68, target: int = 67) -> bytes:
    """Put a payload into UDP and IPv4, from nobody to everybody; UDP over IPv4 may go without a sum (RFC 768)."""
    udp = struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0x10, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    return head[:10] + struct.pack("!H", _check_sum(head)) + head[12:] + udp


def _payload(datagram: bytes) -> tuple[bytes, str] | None:
    """Return what UDP carries to port 68, and who sent it; None for anything else."""
    length = (datagram[0] & 0x0F) * 4 if datagram else 0
    if len(datagram) < length + 8 or length < 20 or datagram[0] >> 4 != 4 or datagram[9] != 17:
        return None
    source, target, size = struct.unpack_from("!HHH", datagram, length)
    if (source, target) != (67, 68):
        return None
    return datagram[length + 8 : length + size], socket.inet_ntoa(datagram[12:16])


def _check_sum(head: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
