"""The sockets of the TFTP server, and which address of ours a client asked.

Owns socket options and address families. A host with several addresses must answer from the one that was asked, or
firmwares do not take the answer for one. Deliberately unknown: what is sent.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from typing import Any

from baremetal.errors import Unavailable

_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0

_BUFFER = 1 << 20
"""For a rack that is switched on: hundreds of requests at once, each kept until it is read. The kernel may cap it."""

Address = Any
"""What the socket module says a peer is: (host, port), for IPv6 with flow and scope."""


def bind(host: str, port: int) -> socket.socket:
    """Bind a datagram socket; `::` takes IPv4 too.

    Raises Unavailable, with BM303 for a port that is taken or privileged.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as trouble:
        raise Unavailable(
            f"the TFTP server cannot listen on {place}", seen=trouble.strerror, fix="correct its address"
        ) from trouble
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError as trouble:
        sock.close()
        raise _cannot_bind(place, port, trouble) from trouble
    return sock


def _cannot_bind(place: str, port: int, trouble: OSError) -> Unavailable:
    what = f"the TFTP server cannot listen on UDP port {port} ({place})"
    code: str | None = "BM303"
    if trouble.errno == errno.EADDRINUSE:
        fix = (
            f"stop what uses the port (ss -lunp 'sport = :{port}'; often dnsmasq, tftpd-hpa or atftpd), "
            "or choose another port"
        )
    elif trouble.errno in (errno.EACCES, errno.EPERM):
        fix = (
            "ports below 1024 need a privilege: let systemd pass the socket (ListenDatagram=69), grant "
            "CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit), or choose a higher port"
        )
    else:
        code, fix = None, "choose an address of this machine"
    return Unavailable(what, code=code, seen=trouble.strerror, fix=fix)


def prepare(sock: socket.socket) -> None:
    """Make room for many requests, and have the kernel say with each which address it was sent to."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def destination(notes: list[tuple[int, int, bytes]]) -> tuple[str | None, bool]:
    """Read the address of ours that was asked, and whether it was everybody's."""
    for level, kind, note in notes:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(note) >= 12:
            _, ours, asked = struct.unpack_from("@I4s4s", note)
            return socket.inet_ntop(socket.AF_INET, ours), ours != asked
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(note) >= 16:
            address = ipaddress.IPv6Address(note[:16])
            mapped = address.ipv4_mapped
            is_everybody = address.is_multicast or (
                mapped is not None and (mapped.is_multicast or str(mapped) == "255.255.255.255")
            )
            return plain_address(str(address)), is_everybody
    return None, False


def plain_address(host: str) -> str:
    """Write an IPv4 client of an IPv6 socket as the IPv4 address that it is."""
    if ":" not in host or "%" in host:
        return host
    address = ipaddress.IPv6Address(host)
    return str(address.ipv4_mapped or address)


def answering_socket(peer: Address, local: str | None) -> socket.socket:
    """Open the socket of one transfer: a port of its own, connected, so that only this client is heard.

    Raises OSError.
    """
    if "." in peer[0] and ":" in peer[0]:
        peer = (plain_address(peer[0]), peer[1])
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        # A path that is narrower than blocks is met by fragments, not by silence.
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
        if local is not None:
            scope = peer[3] if family == socket.AF_INET6 and len(peer) > 3 else 0
            sock.bind((local, 0, 0, scope) if family == socket.AF_INET6 else (local, 0))
        sock.connect(peer)
    except OSError:
        sock.close()
        raise
    return sock
