"""TFTP on the wire: requests read, options agreed on, answers written.

RFC 1350 with the options of RFC 2347 (form), 2348 (blksize), 2349 (tsize, timeout) and 7440 (windowsize). Owns the
bytes. Deliberately unknown: sockets, time, what a name means, the order in which packets go (transfer.py).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

PORT = 69
DATA, ACK, ERROR, OACK = 3, 4, 5, 6
HEADER = struct.Struct("!HH")
DEFAULT_BLOCK = 512
_MODES = ("octet", "netascii")


class Opcode(IntEnum):
    """What may come to the well-known port."""

    RRQ = 1
    WRQ = 2


class Fault(IntEnum):
    """RFC 1350's error codes, as far as we send or read them; 8 is RFC 2347's."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS = 2
    ILLEGAL = 4
    OPTION = 8


class Malformed(ValueError):
    """A request that is none; says why."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A request as it came: the name in bytes, options by lower-case name, both as the client wrote them."""

    opcode: Opcode
    name: bytes
    mode: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed on. `wait_s` None: the client left the time-out to us. `accepted` goes into the OACK."""

    block_size: int = DEFAULT_BLOCK
    window: int = 1
    wait_s: float | None = None
    accepted: Mapping[str, int] | None = None


def is_request(data: bytes) -> bool:
    """Tell requests from everything else that strays to the well-known port and deserves no answer."""
    return data[:2] in (b"\x00\x01", b"\x00\x02")


def read_request(data: bytes) -> Wish:
    """Take a request apart. Options without a value, and repeated ones, are passed over. Raises Malformed."""
    opcode = Opcode(HEADER.unpack_from(data + b"\x00\x00")[0])
    fields = data[2:].split(b"\x00")
    if len(fields) < 3:
        raise Malformed("the request is cut off")
    name, mode = fields[0], fields[1].decode("latin-1").lower()
    if mode not in _MODES:
        raise Malformed("the mode is neither octet nor netascii")
    options: dict[str, str] = {}
    # The last field is what follows the last zero byte: nothing, or something cut off.
    words = [field.decode("latin-1") for field in fields[2:-1]]
    for key, value in zip(words[::2], words[1::2], strict=False):
        if key:  # some pad their requests with zero bytes
            options.setdefault(key.lower(), value)
    return Wish(opcode, name, mode, options)


def agree(options: Mapping[str, str], *, size: int, max_block: int, max_window: int) -> Terms:
    """Choose the terms of a transfer. Options that we do not know, or with values that cannot be, count as not sent."""
    accepted: dict[str, int] = {}
    block, window, wait_s = DEFAULT_BLOCK, 1, None
    for key, text in options.items():
        if not (text.isascii() and text.isdigit() and len(text) <= 20):
            continue
        value = int(text)
        if key == "blksize" and value >= 8:
            block = accepted[key] = min(value, max_block)
        elif key == "windowsize" and 1 <= value <= 65535:
            window = accepted[key] = min(value, max_window)
        elif key == "timeout" and 1 <= value <= 255:
            wait_s, accepted[key] = float(value), value
        elif key == "tsize":
            accepted[key] = size
    return Terms(block, window, wait_s, accepted or None)


def option_ack(accepted: Mapping[str, int]) -> bytes:
    """Write an OACK."""
    return b"\x00\x06" + b"".join(f"{key}\0{value}\0".encode() for key, value in accepted.items())


def said_size(packet: bytes) -> int | None:
    """Read the size from an OACK; None where it says none."""
    words = [word.decode("latin-1") for word in packet[2:].split(b"\0")]
    said = {key.lower(): value for key, value in zip(words[::2], words[1::2], strict=False)}
    size = said.get("tsize", "")
    return int(size) if size.isascii() and size.isdigit() and len(size) <= 20 else None


def error(code: Fault, text: str) -> bytes:
    """Write an ERROR; `text` is for people who read the machine's screen."""
    return HEADER.pack(ERROR, code) + text.encode("ascii", "replace") + b"\x00"
