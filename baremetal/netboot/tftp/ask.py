"""Asks a TFTP server whether it has a file, as firmware would, and takes nothing: for `baremetal doctor`.

Owns one request and the reading of its answer. Deliberately unknown: whose server it is, and what the file is for.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from baremetal.netboot.tftp.packets import DATA, ERROR, HEADER, OACK, PORT, Fault, error, said_size

_WAIT_S = 1.0
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Told:
    """What a server said. `there` None: nobody answered. `size` None: it did not say how many bytes."""

    there: bool | None
    size: int | None = None
    why: str = ""


def ask(host: str, name: str, port: int = PORT, wait_s: float = _WAIT_S) -> Told:
    """Ask for a file, with its size (RFC 2349), and decline it. Never raises: what goes wrong is a reason."""
    request = b"\x00\x01" + name.encode("ascii", "replace") + b"\x00octet\x00tsize\x000\x00"
    why = f"no answer within {_TRIES * wait_s:g} s"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(wait_s)
            for _ in range(_TRIES):
                # not connected: the answer comes from another port (RFC 1350 §4)
                sock.sendto(request, (host, port))
                try:
                    data, peer = sock.recvfrom(2048)
                except TimeoutError:
                    continue
                if peer[0] != host or len(data) < HEADER.size:
                    continue
                return _read(data, sock, peer)
    except OSError as trouble:
        why = trouble.strerror or str(trouble)
    return Told(None, why=why)


def _read(data: bytes, sock: socket.socket, peer: tuple[str, int]) -> Told:
    kind, code = HEADER.unpack_from(data)
    if kind == ERROR:
        text = data[HEADER.size :].partition(b"\0")[0].decode("latin-1")
        text = "".join(char for char in text[:80] if " " <= char <= "~")
        return Told(False, why=text or ("file not found" if code == Fault.NOT_FOUND else f"error {code}"))
    sock.sendto(error(Fault.OPTION, "only asked whether it is there"), peer)
    if kind == OACK:
        return Told(True, said_size(data))
    return Told(True) if kind == DATA else Told(None, why="its answer is no TFTP")
