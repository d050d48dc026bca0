"""Power observation: every server's power state, read now and then, and never "corrected".

Owns the rotation: a round over all servers per interval, spread over it in small batches, so that a thousand idle BMCs
cost a few per cent of a core. A BMC that stays silent is asked ever more seldom, alone, and after a while its server's
power counts as unknown. Servers with a run are left to their turns. A change is an observation in the history.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from baremetal.drivers.base import BmcCredentials, BmcDriver, BmcUrl
from baremetal.engine.conversations import Conversations
from baremetal.engine.engine import Engine
from baremetal.errors import BaremetalError, BmcError, Unavailable
from baremetal.lifecycle.model import PowerState
from baremetal.store.store import Store

log = structlog.get_logger(__name__)

TICKS = 30
BATCH = 32
WORKERS = 8
UNKNOWN_AFTER = 3
SILENT_MOST_S = 900.0


class Opener(Protocol):
    """What opens a batch's conversations, one after the other (`drivers.registry.Round`)."""

    def open(self, url: BmcUrl, credentials: BmcCredentials) -> BmcDriver: ...


Rounds = Callable[[], AbstractContextManager[Opener]]


@dataclass(slots=True)
class _Silence:
    times: int
    until: float


class PowerWatch:
    """Call `tick` every `interval_s / TICKS`. Without an executor, batches are read inline (tests)."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        conversations: Conversations,
        rounds: Rounds,
        interval_s: float,
        executor: Executor | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._engine = engine
        self._conversations = conversations
        self._rounds = rounds
        self._interval_s = interval_s
        self._executor = executor
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._share = 0
        self._began: float | None = None
        self._busy = {True: 0, False: 0}  # batches under way: of silent BMCs, of others
        self._silent: dict[str, _Silence] = {}
        self._stopping = False

    @property
    def every_s(self) -> float:
        """How often `tick` wants to be called."""
        return self._interval_s / TICKS

    def tick(self) -> None:
        """Start reading this tick's share of the round. Raises Unavailable."""
        now = self._clock()
        if not self._waiting and (self._began is None or now >= self._began + self._interval_s):
            self._waiting.extend(record.id for record in self._store.servers())
            self._share, self._began = math.ceil(len(self._waiting) / TICKS), now
            known = set(self._waiting)
            self._silent = {server_id: one for server_id, one in self._silent.items() if server_id in known}
        share = [self._waiting.popleft() for _ in range(min(self._share, len(self._waiting)))]
        healthy = [server_id for server_id in share if server_id not in self._silent]
        for start in range(0, len(healthy), BATCH):
            self._begin(healthy[start : start + BATCH], False)
        for server_id in share:
            silence = self._silent.get(server_id)
            if silence is not None and silence.until <= now:
                self._begin([server_id], True)

    def stop(self) -> None:
        """Begin no further conversation."""
        self._stopping = True

    def _begin(self, batch: Sequence[str], silent: bool) -> None:
        if self._executor is None:
            self._read(batch)
            return
        with self._lock:
            # silent ones cost seconds each: they get half of the threads, so that a dead rack hides no living one
            if self._busy[silent] >= (WORKERS // 2 if silent else WORKERS):
                if not silent:
                    self._waiting.extend(batch)  # the silent have their next round
                return
            self._busy[silent] += 1
        try:
            self._executor.submit(self._work, batch, silent)
        except RuntimeError:  # shut down
            self._busy[silent] -= 1

    def _work(self, batch: Sequence[str], silent: bool) -> None:
        try:
            self._read(batch)
        except BaremetalError as error:
            log.warning("power states not noted", code=error.code, error=str(error))
        except Exception:
            log.exception("power observation broke")
        finally:
            with self._lock:
                self._busy[silent] -= 1

    def _read(self, batch: Sequence[str]) -> None:
        seen: dict[str, PowerState] = {}
        with self._rounds() as opener:
            for server_id in batch:
                if self._stopping:
                    return
                power = self._look(server_id, opener)
                if power is not None:
                    seen[server_id] = power
        if seen:
            self._engine.saw_powers(seen)

    def _look(self, server_id: str, opener: Opener) -> PowerState | None:
        """Read one server's power state; None where there is nothing to note."""
        try:
            record = self._store.server(server_id)
            if record.life.run is not None:
                return None
            account = BmcCredentials(*self._store.credentials(server_id))
            url = BmcUrl.parse(record.facts.bmc)
            power = self._conversations.look(url, account, record.facts.quirks, opener.open)
        except BmcError as error:
            if not error.transient:
                return None  # frozen by now, and reported to whoever needs the BMC
            return self._missed(server_id)
        except Unavailable:
            raise
        except BaremetalError:  # forgotten meanwhile, or an account that cannot be used: the doctor tells
            return None
        if power is not None:
            self._silent.pop(server_id, None)
        return power

    def _missed(self, server_id: str) -> PowerState | None:
        times = self._silent[server_id].times + 1 if server_id in self._silent else 1
        wait_s = min(self._interval_s * 2.0 ** (times - UNKNOWN_AFTER), SILENT_MOST_S)
        self._silent[server_id] = _Silence(times, self._clock() + wait_s)
        return PowerState.UNKNOWN if times >= UNKNOWN_AFTER else None
