"""Tokens of a run: who may fetch its answer file, who may call back.

Owns their form and their check. A token is

    base64url( HMAC-SHA256(key of the purpose, payload) || payload )
    payload = varint(run number) || server id in UTF-8

without padding: the 256-bit code comes first, the scope behind it in the clear, so that a request is led to
its server and run by one look-up and no table of tokens is kept. Nothing is stored: a token is derived again
whenever it is needed. Deliberately unknown here: whether the run is still open, which is the caller's question
(a genuine token of a closed run gets the same uniform 404 as a forged one). Server ids must never be used
twice, or an old token would open a new server.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from baremetal.errors import Invalid

MASKED: Final = "masked"
_LONGEST: Final = 256
_CODE: Final = hashlib.sha256().digest_size
_FORM = re.compile(rf"[A-Za-z0-9_-]{{44,{_LONGEST}}}\Z")
_IN_URL = re.compile(r"(/(?:answer|callback)/)[A-Za-z0-9_%-]{16,}")


class Purpose(StrEnum):
    """What a token opens. One never opens the other."""

    FETCH = "fetch"
    CALLBACK = "callback"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a genuine token was made for."""

    server_id: str
    run: int
    purpose: Purpose


class TokenMint:
    """Makes and opens tokens. Of several master keys (after a rotation) the first makes, every one opens."""

    __slots__ = ("_keys",)

    def __init__(self, keys: bytes | Sequence[bytes]) -> None:
        masters = (keys,) if isinstance(keys, bytes) else tuple(keys)
        if not masters or any(len(master) < 32 for master in masters):
            raise Invalid("a master key for tokens has at least 32 bytes")
        self._keys = {
            purpose: tuple(
                hmac.digest(master, b"baremetal token 1 " + purpose.value.encode(), "sha256")
                for master in masters
            )
            for purpose in Purpose
        }

    def __repr__(self) -> str:
        return "TokenMint(…)"

    def mint(self, server_id: str, run: int, purpose: Purpose) -> str:
        """Derive the token of one server, run and purpose; the same answer every time."""
        if not server_id or run < 0:
            raise Invalid("a token needs a server id and a run number")
        payload = _varint(run) + server_id.encode()
        token = _encode(hmac.digest(self._keys[purpose][0], payload, "sha256") + payload)
        if len(token) > _LONGEST:
            raise Invalid("server id too long for a token", variable="id")
        return token

    def open(self, token: str, purpose: Purpose) -> Scope | None:
        """Say what a token was made for; one uniform None for anything not made by us for this purpose."""
        if not _FORM.match(token):
            return None
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            return None
        # One token has one spelling: base64 would let the unused bits of the last character vary.
        if _encode(raw) != token:
            return None
        code, payload = raw[:_CODE], raw[_CODE:]
        genuine = False
        for key in self._keys[purpose]:
            genuine |= hmac.compare_digest(hmac.digest(key, payload, "sha256"), code)
        if not genuine:
            return None
        run, server_id = _unvarint(payload)
        return Scope(server_id.decode(), run, purpose)


def mask_tokens(text: str) -> str:
    """Replace every token in the URLs of a text, for people and logs."""
    return _IN_URL.sub(rf"\g<1>{MASKED}", text)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _unvarint(payload: bytes) -> tuple[int, bytes]:
    number = shift = at = 0
    while payload[at] & 0x80:
        number |= (payload[at] & 0x7F) << shift
        shift += 7
        at += 1
    return number | payload[at] << shift, payload[at + 1 :]
