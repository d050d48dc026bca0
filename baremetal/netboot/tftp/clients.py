"""How much one client may ask of the TFTP server, and how much all of them together.

Owns the limits and the counting. Deliberately unknown: what is asked for.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from dataclasses import dataclass, field

from baremetal.netboot.tftp.transfer import Patience

_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is served at once. What goes beyond is dropped without a word: clients ask again.

    `max_block` is for IPv4 on Ethernet, where 1468 bytes just fit a frame; for IPv6 it is 20 less. The loopback is not
    counted per client, as in the boot app: the lab looks like one very busy machine.
    """

    max_block: int = 1468
    max_window: int = 64
    transfers: int = 500
    transfers_per_client: int = 16
    requests_per_s: float = 50.0
    request_burst: float = 100.0
    resolve_s: float = 30.0
    count_loopback: bool = False
    patience: Patience = field(default_factory=Patience)


class Clients:
    """Counts what clients ask for and are being served. Not for threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._served: Counter[str] = Counter()
        self._allowance: dict[str, tuple[float, float]] = {}

    def may_ask(self, client: str) -> bool:
        """Take one request off what this client may ask just now, if something is left."""
        if not self._is_counted(client):
            return True
        now, burst = time.monotonic(), self._limits.request_burst
        left, at = self._allowance.get(client, (burst, now))
        left = min(burst, left + (now - at) * self._limits.requests_per_s)
        if client not in self._allowance and len(self._allowance) >= _KEPT:
            self._allowance.clear()  # a flood of forged addresses; starting afresh is the cheaper harm
        self._allowance[client] = (left - 1.0 if left >= 1.0 else left, now)
        return left >= 1.0

    def begin(self, client: str) -> bool:
        """Count one more transfer, if there may be one."""
        if self._served.total() >= self._limits.transfers:
            return False
        if self._is_counted(client) and self._served[client] >= self._limits.transfers_per_client:
            return False
        self._served[client] += 1
        return True

    def end(self, client: str) -> None:
        """Count one less."""
        self._served[client] -= 1
        if not self._served[client]:
            del self._served[client]

    def _is_counted(self, client: str) -> bool:
        return self._limits.count_loopback or not ipaddress.ip_address(client.partition("%")[0]).is_loopback
