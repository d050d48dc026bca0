"""An iSCSI initiator that only knocks: it logs in to a target, by CHAP where asked, and says what it was told.

Enough of RFC 3720 (10.12, 10.13, 11.1) to ask who is let in. Independent of what serves and of what boots.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct

SUCCESS = (0, 0)
NOT_FOUND = (2, 3)
HUNG_UP = (-1, -1)
UNPROVEN = (-2, -2)  # it let us in, and is not who it should be


def knock(
    portal: tuple[str, int], target: str, initiator: str, user: str = "", password: str = "", back: str = ""
) -> tuple[int, int]:
    """Log in and return the status class and detail of the last answer; (0, 0) is a session, closed at once.

    With `back` the target is asked to prove itself by this password, and UNPROVEN is that it did not.
    Raises OSError where nothing answers, and AssertionError for what is no iSCSI.
    """
    with socket.create_connection(portal, timeout=10) as wire:
        try:
            return _log_in(wire, target, initiator, user, password, back)
        except (EOFError, ConnectionError):
            return HUNG_UP


def _log_in(
    wire: socket.socket, target: str, initiator: str, user: str, password: str, back: str
) -> tuple[int, int]:
    said = {"InitiatorName": initiator, "TargetName": target, "SessionType": "Normal"}
    status, heard = _ask(wire, said | {"AuthMethod": "CHAP,None" if user else "None"}, stage=0, to=1)
    if status != SUCCESS or heard.get("AuthMethod") != "CHAP":
        return status
    status, heard = _ask(wire, {"CHAP_A": "5"}, stage=0)
    if status != SUCCESS:
        return status
    challenge = bytes.fromhex(heard["CHAP_C"].removeprefix("0x"))
    answer = {"CHAP_N": user, "CHAP_R": _prove(int(heard["CHAP_I"]), password, challenge)}
    ours = secrets.token_bytes(16)
    if back:
        answer |= {"CHAP_I": "7", "CHAP_C": f"0x{ours.hex()}"}
    status, heard = _ask(wire, answer, stage=0, to=1)
    if back and status == SUCCESS and heard.get("CHAP_R", "").lower() != _prove(7, back, ours):
        return UNPROVEN
    return status


def _prove(number: int, password: str, challenge: bytes) -> str:
    return f"0x{hashlib.md5(bytes([number]) + password.encode() + challenge).hexdigest()}"


def _ask(
    wire: socket.socket, keys: dict[str, str], *, stage: int, to: int | None = None
) -> tuple[tuple[int, int], dict[str, str]]:
    text = "".join(f"{key}={value}\0" for key, value in keys.items()).encode()
    flags = stage << 2 | (0x80 | to if to is not None else 0)
    head = struct.pack(">BBBBI8sI20s", 0x43, flags, 0, 0, len(text), b"\x40\0\0\x3d\0\0\0\0", 1, b"\0" * 20)
    wire.sendall(head.ljust(48, b"\0") + text.ljust(-(-len(text) // 4) * 4, b"\0"))
    answer = _read(wire, 48)
    assert answer[0] & 0x3F == 0x23, "no login response"
    length = int.from_bytes(answer[5:8], "big")
    body = _read(wire, -(-length // 4) * 4)[:length]
    found = dict(part.split("=", 1) for part in body.decode().split("\0") if part)
    return (answer[36], answer[37]), found


def _read(wire: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = wire.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
