"""Sizes as people write them: `20G`, `512M`, in powers of 1024 as every volume tool has them."""

from __future__ import annotations

import re

from baremetal.errors import Invalid

_SIZE = re.compile(r"([0-9]{1,15})\s*([KMGTP]?)(?:iB|B)?\Z", re.IGNORECASE)
_POWERS = "KMGTP"
_LEAST = 1 << 20


def read_size(text: str) -> int:
    """Return bytes, whole sectors of 512. Raises Invalid; so for less than 1 MiB."""
    found = _SIZE.match(text.strip())
    size = int(found[1]) << 10 * (_POWERS.find(found[2].upper()) + 1 if found[2] else 0) if found else 0
    if size < _LEAST:
        raise Invalid(f"size {text[:32]!r} is not a size of 1M or more", variable="size", fix="write 20G")
    return -(-size // 512) * 512


def say_size(size: int) -> str:
    """Write bytes as arrays have them: `20 GiB`."""
    amount, unit = float(size), "MiB"
    amount /= 1 << 20
    if amount >= 1024:
        amount, unit = amount / 1024, "GiB"
    return f"{amount:.0f} {unit}" if amount == int(amount) else f"{amount:.1f} {unit}"
