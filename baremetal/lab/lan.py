"""The one thing that QEMU's user network leaves unsaid: that nobody else will make a DHCP offer.

iPXE waits three seconds for a second offer (a proxyDHCP server's) unless the first one says there will be none. This
listens on a machine's virtual network and repeats QEMU's own offer with that said (option 175: priority 1, no-pxedhcp).
Without it a machine boots all the same, three seconds later. Owns the frames; knows nothing of boot files or machines.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

_ETHERNET, _IP, _UDP, _BOOTP = 14, 20, 8, 236
_COOKIE = b"\x63\x82\x53\x63"
_SERVER_PORT, _CLIENT_PORT = 67, 68
_OFFER, _ACK = 2, 5
_IPXE = bytes((175, 7, 1, 1, 1, 176, 1, 1, 0))
_LONGEST = 1 << 17


class LanListener:
    """One machine's network, as a stream of length-prefixed frames (QEMU's `socket` back end)."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def listen(self) -> bool:
        """Deal with the frames that are there; say whether there is more to come: not after the lease is given."""
        try:
            data = self._socket.recv(_LONGEST)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._buffer += data
        if not data or len(self._buffer) > _LONGEST:
            return False
        for frame in self._frames():
            kind = dhcp_answer(frame)
            if kind == _ACK:
                return False
            if kind == _OFFER:
                again = say_no_other_offer(frame)
                self._socket.send(len(again).to_bytes(4, "big") + again)
        return True

    def close(self) -> None:
        self._socket.close()

    def _frames(self) -> Iterator[bytes]:
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < 4 + length:
                return
            frame = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            yield frame


def dhcp_answer(frame: bytes) -> int | None:
    """Return the message type of a DHCP server's answer (RFC 2131); None for any other frame."""
    options_at = _ETHERNET + _IP + _UDP + _BOOTP + len(_COOKIE)
    if len(frame) < options_at or frame[12:15] != b"\x08\x00\x45" or frame[23] != 17:
        return None
    udp = _ETHERNET + _IP
    ports = (int.from_bytes(frame[udp : udp + 2], "big"), int.from_bytes(frame[udp + 2 : udp + 4], "big"))
    if ports != (_SERVER_PORT, _CLIENT_PORT) or frame[options_at - len(_COOKIE) : options_at] != _COOKIE:
        return None
    place = _find_option(frame, options_at, 53)
    return frame[place + 2] if place is not None and place + 2 < len(frame) else None


def say_no_other_offer(frame: bytes) -> bytes:
    """Return the offer with iPXE's option 175 added and its lengths and check sums made right."""
    options_at = _ETHERNET + _IP + _UDP + _BOOTP + len(_COOKIE)
    end = _find_option(frame, options_at, 255)
    datagram = bytearray(frame[_ETHERNET:end]) + _IPXE + b"\xff"
    datagram[2:4] = len(datagram).to_bytes(2, "big")
    datagram[10:12] = bytes(2)
    datagram[10:12] = _check_sum(datagram[:_IP]).to_bytes(2, "big")
    datagram[_IP + 4 : _IP + 6] = (len(datagram) - _IP).to_bytes(2, "big")
    datagram[_IP + 6 : _IP + 8] = bytes(2)  # UDP over IPv4 may go without (RFC 768)
    return frame[:_ETHERNET] + bytes(datagram)


def _find_option(frame: bytes, at: int, wanted: int) -> int | None:
    while at + 1 < len(frame) and frame[at] not in (wanted, 255):
        at += 1 if frame[at] == 0 else 2 + frame[at + 1]
    return at if at < len(frame) and frame[at] == wanted else None


def _check_sum(header: bytes | bytearray) -> int:
    total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, len(header), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
