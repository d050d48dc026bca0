"""Answers IPv6 router solicitations with "I am here, and nobody's router", so that iPXE does not wait 13 s for one.

dnsmasq does it only where the interface has an IPv6 address beside its link-local one, which interfaces for
provisioning seldom have. The advertisement (RFC 4861 §4.2) names no prefix and has lifetime 0: no machine takes an
address or a route from it. Owns one raw socket and one thread; changes nothing on the interface.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from pathlib import Path
from typing import Final

from baremetal import telemetry

log = telemetry.logger(__name__)

_SOLICITATION: Final = 133
# Type, code, check sum (the kernel's), hop limit, flags, lifetime, reachable time, retransmission time: all unsaid.
_ADVERTISEMENT: Final = struct.pack("!BBHBBHII", 134, 0, 0, 0, 0, 0, 0, 0)
_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_ICMP6_FILTER: Final = 1
_TICK_S = 0.5


def has_global_address(interface: str) -> bool:
    """Whether an interface has an IPv6 address that dnsmasq would advertise for."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines():
            address, _, _, scope, _, name = line.split()
            if name == interface and scope != "20" and not address.startswith("fe80"):
                return True
    return False


class Advertiser:
    """Answers on one interface from `start` until `stop`. Raises OSError where the kernel refuses the socket."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._index = socket.if_nametoindex(interface)
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        try:
            self._prepare()
        except OSError:
            self._socket.close()
            raise

    def _prepare(self) -> None:
        sock, index = self._socket, self._index
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface.encode() + b"\0")
        # Receivers drop what did not come with 255: it could have been routed (RFC 4861 §6.1.2).
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        group = socket.inet_pton(socket.AF_INET6, _ALL_ROUTERS) + struct.pack("@I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        blocked = [0xFFFFFFFF] * 8
        blocked[_SOLICITATION >> 5] &= ~(1 << (_SOLICITATION & 31)) & 0xFFFFFFFF
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("@8I", *blocked))

    def start(self) -> None:
        """Begin to answer."""
        self._thread = threading.Thread(target=self._serve, name="dhcp-advertiser", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and let go of the socket. Idempotent."""
        self._halt.set()
        if self._thread is not None:
            self._thread.join(_TICK_S * 4)
        self._socket.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not self._halt.is_set():
                if not selector.select(_TICK_S):
                    continue
                try:
                    self._socket.recv(2048)
                    self._socket.sendto(_ADVERTISEMENT, (_ALL_NODES, 0, 0, self._index))
                except OSError as error:  # no link-local address yet, or the interface is going
                    log.debug(
                        "router solicitation not answered", interface=self._interface, why=error.strerror
                    )
                    self._halt.wait(_TICK_S)
