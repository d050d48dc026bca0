"""CHAP secrets (RFC 3720 8.2.1), made by us: nobody types one, and none is used twice.

The user's name ends with a digest of the secret, so that target software which tells names and no passwords can still
be asked whether it has this very one. Of the 95 bits of a secret, eight digits of a digest give 32 away.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string

from baremetal.storage.base import Chap

# Windows and many arrays take 12 to 16 characters and nothing else.
_LENGTH = 16
_LETTERS = string.ascii_letters + string.digits


def mint(server: str, *, mutual: bool) -> Chap:
    """Make the secret of one server's target; with `mutual`, another that the target proves itself with."""
    name = re.sub(r"[^a-z0-9]+", "-", server.lower()).strip("-")[:24] or "server"
    user, password = _account(name)
    return Chap(user, password, *(_account(f"{name}-t") if mutual else ("", "")))


def _account(name: str) -> tuple[str, str]:
    password = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return f"{name}-{hashlib.sha256(f'{name} {password}'.encode()).hexdigest()[:8]}", password
