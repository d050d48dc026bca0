"""The cipher suites of RMCP+ (IPMI 2.0 table 22-20): which hash proves, seals and encrypts.

Owns the algorithms and the keys derived with them (§13.28 to §13.32). Knows nothing of packets or users.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_HASHES: dict[int, Callable[..., Any] | None] = {0: None, 1: hashlib.sha1, 3: hashlib.sha256}
_RAKP4_LENGTH = {0: 0, 1: 12, 3: 16}
_SEALS: dict[int, tuple[Callable[..., Any], int] | None] = {
    0: None,
    1: (hashlib.sha1, 12),
    4: (hashlib.sha256, 16),
}
_BLOCK = 16


class Malformed(ValueError):
    """A packet that is not what it claims to be; it is dropped."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite: the numbers of its authentication, integrity and confidentiality algorithms."""

    number: int
    authentication: int
    integrity: int
    confidentiality: int

    def record(self) -> bytes:
        """Write the record that Get Channel Cipher Suites lists (§22.15.1)."""
        return bytes(
            (0xC0, self.number, self.authentication, 0x40 | self.integrity, 0x80 | self.confidentiality)
        )

    def prove(self, key: bytes, text: bytes) -> bytes:
        """Compute a key exchange authentication code of RAKP messages 2 and 3; empty for RAKP-none."""
        algorithm = _HASHES[self.authentication]
        return hmac.digest(key, text, algorithm) if algorithm else b""

    def prove_short(self, key: bytes, text: bytes) -> bytes:
        """Compute the integrity check value of RAKP message 4, truncated as table 13-11 says."""
        return self.prove(key, text)[: _RAKP4_LENGTH[self.authentication]]

    def derive(self, kg: bytes, text: bytes) -> Keys:
        """Derive the keys of a session from both random numbers, role and name (§13.31, §13.32)."""
        sik = self.prove(kg, text)
        return Keys(self, sik, self.prove(sik, b"\x01" * 20), self.prove(sik, b"\x02" * 20)[:_BLOCK])


SUITES = {
    suite.number: suite
    for suite in (
        Suite(0, 0, 0, 0),
        Suite(1, 1, 0, 0),
        Suite(2, 1, 1, 0),
        Suite(3, 1, 1, 1),
        Suite(15, 3, 0, 0),
        Suite(16, 3, 4, 0),
        Suite(17, 3, 4, 1),
    )
}


@dataclass(frozen=True, slots=True)
class Keys:
    """What seals and encrypts the packets of one session."""

    suite: Suite
    sik: bytes
    seal_key: bytes
    cipher_key: bytes

    @property
    def seals(self) -> bool:
        return self.suite.integrity != 0

    @property
    def encrypts(self) -> bool:
        return self.suite.confidentiality != 0

    @property
    def seal_length(self) -> int:
        found = _SEALS[self.suite.integrity]
        return found[1] if found else 0

    def seal(self, text: bytes) -> bytes:
        """Compute a packet's AuthCode (§13.28.4); empty without integrity."""
        found = _SEALS[self.suite.integrity]
        return hmac.digest(self.seal_key, text, found[0])[: found[1]] if found else b""

    def encrypt(self, payload: bytes) -> bytes:
        """Encrypt with AES-CBC-128: vector, payload, padding 1, 2, 3 …, and its length (table 13-20)."""
        vector = os.urandom(_BLOCK)
        padding = -(len(payload) + 1) % _BLOCK
        plain = payload + bytes(range(1, padding + 1)) + bytes((padding,))
        encryptor = Cipher(algorithms.AES(self.cipher_key), modes.CBC(vector)).encryptor()
        return vector + encryptor.update(plain) + encryptor.finalize()

    def decrypt(self, data: bytes) -> bytes:
        """Undo `encrypt`. Raises Malformed."""
        if len(data) < 2 * _BLOCK or len(data) % _BLOCK:
            raise Malformed(f"{len(data)} encrypted bytes")
        decryptor = Cipher(algorithms.AES(self.cipher_key), modes.CBC(data[:_BLOCK])).decryptor()
        plain = decryptor.update(data[_BLOCK:]) + decryptor.finalize()
        padding = plain[-1]
        if padding >= _BLOCK or plain[len(plain) - 1 - padding : -1] != bytes(range(1, padding + 1)):
            raise Malformed("padding of the encrypted payload")
        return plain[: len(plain) - 1 - padding]
