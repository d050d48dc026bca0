"""A network interface of this host as DHCP needs it: there, up, with an IPv4 address, and its port free.

Owns the questions to the kernel, and the words for what is wrong. Changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from baremetal.errors import Refused, Unavailable

_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFHWADDR = 0x8913, 0x8915, 0x8927
_IFF_UP = 1
_NEED = "run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE (baremetal print-config systemd)"


def index_of(name: str) -> int | None:
    """Return the kernel's number for an interface, which changes when it is removed and made again; None: not there."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def address_of(name: str) -> str | None:
    """Return the first IPv4 address of an interface; None where it has none."""
    answer = _ask(name, _SIOCGIFADDR)
    return socket.inet_ntoa(answer[20:24]) if answer else None


def mac_of(name: str) -> str | None:
    """Return the hardware address of an interface."""
    answer = _ask(name, _SIOCGIFHWADDR)
    return answer[18:24].hex(":") if answer else None


def is_up(name: str) -> bool:
    """Whether an interface is switched on."""
    answer = _ask(name, _SIOCGIFFLAGS)
    return bool(answer and struct.unpack_from("=H", answer, 16)[0] & _IFF_UP)


def own_address() -> str:
    """Return the address that this host has towards the outside; connecting a datagram socket sends nothing."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def check(name: str, *ports: int) -> None:
    """Check that DHCP can be served on an interface. Raises Unavailable (BM303, BM304), Refused (BM305)."""
    if index_of(name) is None:
        there = ", ".join(sorted(other for _, other in socket.if_nameindex()))
        raise Unavailable(
            f"there is no interface {name}",
            code="BM304",
            seen=f"there are {there}",
            fix="correct [dhcp] interface",
        )
    if not is_up(name):
        raise Unavailable(
            f"interface {name} is down", code="BM304", fix=f"switch it on (ip link set {name} up)"
        )
    if address_of(name) is None:
        raise Unavailable(
            f"interface {name} has no IPv4 address, so that no machine could be answered on it",
            code="BM304",
            fix=f"give it one (ip address add … dev {name})",
        )
    for port in ports:
        _check_port(name, port)


def _check_port(name: str, port: int) -> None:
    """Bind as a DHCP server would, alone: dnsmasq shares the port with whoever else lets it be shared."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
            sock.bind(("0.0.0.0", port))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise Refused(
                    f"DHCP may not be served by this user: {error.strerror}", code="BM305", fix=_NEED
                ) from error
            holder = port_holder(port)
            raise Unavailable(
                f"UDP port {port} on {name} is in use",
                code="BM303",
                seen=holder or error.strerror,
                fix=f"stop what uses it (ss -lunp 'sport = :{port}'), or set [dhcp] mode",
            ) from error


def port_holder(port: int) -> str:
    """Name the program that listens on a UDP port, as far as we may look; empty where it is not found."""
    inodes = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*") if inodes else ():
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in inodes:
                process = descriptor.parents[1]
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _ask(name: str, question: int) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            return fcntl.ioctl(sock, question, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return None
