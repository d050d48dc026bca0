"""What every SSH connection of ours stands on: pinned host keys, and our own key.

Owns that nobody is believed whose key was not pinned. Deliberately unknown: who is connected to, and what for.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import SSHException

from baremetal.errors import LoginError

UNREACHABLE = "BM403"
WRONG_HOST_KEY = "BM406"
LOGIN_REFUSED = "BM407"


def known_hosts(place: str, host_keys: Sequence[str]) -> paramiko.SSHClient:
    """Return a client that believes these host keys of a place and nobody else's. Raises LoginError."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    known = client.get_host_keys()
    # paramiko asks for the kind of the first key only; ed25519 is what every server of today has
    for line in sorted(host_keys, key=lambda line: not line.startswith("ssh-ed25519 ")):
        kind, _, rest = line.strip().partition(" ")
        try:
            key = paramiko.PKey.from_type_string(kind, _decode(rest.split(" ")[0]))
        except (SSHException, UnknownKeyType, ValueError):
            continue  # a kind that paramiko does not speak (a security key, DSA): the others may do
        known.add(place, kind, key)
    if not known:
        raise LoginError(
            f"no usable host key is known for {place}",
            transient=False,
            code=WRONG_HOST_KEY,
            seen=f"{len(host_keys)} reported",
            fix="have the installer report ssh_host_keys with install-complete, ed25519 among them",
        )
    return client


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def own_key(private_key: str) -> paramiko.PKey:
    """Read our own key. Raises LoginError."""
    try:
        return paramiko.Ed25519Key.from_private_key(io.StringIO(private_key))
    except (SSHException, ValueError, IndexError) as error:
        raise own_key_unreadable() from error


def own_key_unreadable() -> LoginError:
    """Return the error for when our own key is none."""
    return LoginError("our own proof key cannot be read", transient=False, code=LOGIN_REFUSED)
