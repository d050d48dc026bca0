"""SSH keys of our own: made, and their public half told. Apart from `ssh.py`, because a start of the service needs only
this, and paramiko takes long to import.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from baremetal.errors import Invalid


class KeyPair(NamedTuple):
    """An SSH key: the private half as OpenSSH PEM, the public half as one line of authorized_keys."""

    private: str
    public: str

    def __repr__(self) -> str:
        return f"KeyPair(private='***', public={self.public!r})"


def generate_keypair(comment: str = "baremetal") -> KeyPair:
    """Make a new ed25519 key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return KeyPair(private, _line(key, comment))


def public_half(private: str, comment: str = "baremetal") -> str:
    """Return one line of authorized_keys for an ed25519 key in OpenSSH's form. Raises Invalid, never shows the key."""
    try:
        key = load_ssh_private_key(private.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid(
            "not a private SSH key without a passphrase, in OpenSSH's form", seen=type(error).__name__
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid("not an ed25519 key")
    return _line(key, comment)


def _line(key: Ed25519PrivateKey, comment: str) -> str:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return f"{public} {comment}".rstrip()
