"""Which loaders machines fetched, on their servers' timelines: what is missing by TFTP is seen too (S3-5).

Such a request has an address and a name, and no server. A loader's own program is asked for before anything says whose
machine it is; so requests wait here by address until a boot answer tells, and go to that server's timeline then. For
threads. Deliberately unknown: the protocol's own outcomes; whoever saw a request says how it ended.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from baremetal.store.records import ServerRecord

_REMEMBERED = timedelta(minutes=15)  # the longest self-test between two requests of one boot
_ADDRESSES = 1024
_PER_ADDRESS = 64


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A file that was asked for, told when that was over. `is_harmless`: not there, and nobody misses it."""

    address: str
    name: str
    served: bool
    bytes: int = 0
    reason: str = ""
    is_harmless: bool = False
    only_looked: bool = False
    protocol: str = "TFTP"

    @property
    def note(self) -> str:
        """Say it in one line."""
        if self.served:
            return f"{self.protocol}: {self.name} fetched by {self.address} ({self.bytes} bytes)"
        if self.only_looked:
            return f"{self.protocol}: {self.name} looked at by {self.address}, and is there"
        if self.is_harmless:
            return f"{self.protocol}: {self.name} asked for by {self.address}, which need not be there"
        why = f": {self.reason}" if self.reason else ""
        return f"{self.protocol}: {self.name} not served to {self.address}{why}"


Note = Callable[[ServerRecord, FileRequest], None]


@dataclass(slots=True)
class _Client:
    at: datetime
    record: ServerRecord | None
    waiting: list[FileRequest]


class FileRequests:
    """Puts requests on the timeline of the server whose machine has the address. `note` must return soon."""

    def __init__(self, note: Note, now: Callable[[], datetime]) -> None:
        self._note = note
        self._now = now
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._lock = threading.Lock()

    def saw(self, request: FileRequest) -> None:
        """Take notice of a request that is over."""
        with self._lock:
            client = self._client(request.address)
            record = client.record
            if record is None and len(client.waiting) < _PER_ADDRESS:
                client.waiting.append(request)
        if record is not None:
            self._note(record, request)

    def belongs(self, address: str, record: ServerRecord) -> None:
        """Hear from a boot answer whose machine has an address; what waited for that goes to its timeline."""
        if not address:
            return
        with self._lock:
            client = self._client(address)
            client.record = record
            waiting, client.waiting = client.waiting, []
        for request in waiting:
            self._note(record, request)

    def _client(self, address: str) -> _Client:
        """Find an address, forgetting whose it was some time ago: leases wander."""
        at = self._now()
        client = self._clients.get(address)
        if client is None or not timedelta(0) <= at - client.at < _REMEMBERED:
            client = self._clients[address] = _Client(at, None, [])
        client.at = at
        self._clients.move_to_end(address)
        while len(self._clients) > _ADDRESSES:
            self._clients.popitem(last=False)
        return client
