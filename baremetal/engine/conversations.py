"""Who may talk to a BMC, and when: the one place that every caller goes through.

Owns, per BMC identity: the lock (one conversation at a time), the freeze after a wrong password, the circuit breaker,
the wait after a full session table, and pacing; and how many conversations there are at once. Deliberately knows no
protocol, no server and no workflow, and repeats nothing: it only says "not now" with a time, and whoever asked comes
back then. Its own refusals send no packet.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from baremetal import telemetry
from baremetal.drivers.base import (
    BmcCredentials,
    BmcDriver,
    BmcInfo,
    BmcUrl,
    BootDevice,
    BootFlags,
    Permit,
    PowerState,
    PowerTarget,
)
from baremetal.errors import BmcError, BmcErrorKind, Invalid

BREAKER_FAILURES = 5
SESSION_FULL_S = 65.0
LOCK_WAIT_S = 60.0

_NO_ANSWER = {BmcErrorKind.UNREACHABLE, BmcErrorKind.DEADLINE, BmcErrorKind.PROTOCOL}
_REMEMBERED = 8

T = TypeVar("T")
Opener = Callable[[BmcUrl, BmcCredentials], BmcDriver]


@dataclass(frozen=True, slots=True)
class BmcMemo:
    """What must outlive a restart: which credentials this BMC refused (keyed fingerprints, newest last), and when."""

    refused: tuple[str, ...] = ()
    at: datetime | None = None
    reason: str = ""


class BmcMemory(Protocol):
    """Where memos live, by BMC identity. Called with that BMC's lock held; must be safe for threads."""

    def load(self, identity: str) -> BmcMemo | None: ...

    def save(self, identity: str, memo: BmcMemo) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When a silent BMC is left alone, and for how long; the distance of conversations; how many there are at once."""

    breaker_failures: int = BREAKER_FAILURES
    breaker_first_s: float = 60.0
    breaker_longest_s: float = 900.0
    min_interval_s: float = 0.0
    at_once: int = 64


@dataclass(slots=True)
class _Bmc:
    """What we know of one BMC while the process lives. Times are the injected monotonic clock's."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    memo: BmcMemo | None = None
    unsaved: bool = False
    failures: int = 0
    failure: str = ""
    span_s: float = 0.0
    closed_until: float | None = None
    full_until: float = 0.0
    ended: float | None = None


class Conversations:
    """Opens conversations with BMCs, one at a time per BMC. Safe for threads; share one per process.

    `secret` keys the fingerprints of refused credentials; the same bytes after a restart keep a frozen BMC frozen.
    """

    def __init__(
        self,
        opener: Opener,
        memory: BmcMemory,
        *,
        secret: bytes,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._opener = opener
        self._memory = memory
        self._secret = secret
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._limits = limits or Limits()
        self._room = threading.BoundedSemaphore(self._limits.at_once)
        self._bmcs: dict[str, _Bmc] = {}
        self._guard = threading.Lock()

    @contextmanager
    def open(
        self,
        url: BmcUrl,
        credentials: BmcCredentials | None,
        quirks: Iterable[str] = (),
        *,
        wait_s: float = LOCK_WAIT_S,
    ) -> Iterator[BmcDriver]:
        """Hold the conversation with this BMC, waiting at most `wait_s` for others to end theirs and for its pace.

        Raises BmcError: BUSY when the wait ran out, FROZEN, BREAKER or SESSION_FULL without a packet sent, or whatever
        the driver says; Invalid where an account is missing.
        """
        account = _account(url, credentials)
        pause_s = _interval(url, quirks, self._limits.min_interval_s)
        deadline = self._clock() + wait_s
        bmc = self._bmc(url.identity)
        if not bmc.lock.acquire(timeout=max(0.0, wait_s)):
            raise BmcError(
                f"{url.identity}: another conversation with this BMC has lasted {wait_s:g} s",
                BmcErrorKind.BUSY,
                retry_after_s=5.0,
            )
        try:
            print_ = self._fingerprint(url.identity, account)
            self._check_frozen(url.identity, bmc, print_)
            self._check_breaker(url.identity, bmc)
            self._check_slots(url.identity, bmc)
            self._pace(url.identity, bmc, pause_s, deadline)
            if not self._room.acquire(timeout=max(0.0, deadline - self._clock())):
                raise BmcError(
                    f"{url.identity}: {self._limits.at_once} other BMCs are being talked to, which is the limit",
                    BmcErrorKind.BUSY,
                    retry_after_s=5.0,
                    fix="raise [bmc] max_conversations",
                )
            try:
                yield from self._converse(url, account, bmc, print_, self._opener)
            finally:
                self._room.release()
        finally:
            bmc.lock.release()

    def look(
        self,
        url: BmcUrl,
        credentials: BmcCredentials | None,
        quirks: Iterable[str] = (),
        opener: Opener | None = None,
    ) -> PowerState | None:
        """Read the power state in passing; None, without a packet sent, where that would have to wait.

        That is while somebody talks to this BMC, while it is frozen or left alone, and inside its pace. Silence does
        not count against the breaker: a look must not shut the door on work. Raises BmcError, Invalid.
        """
        account = _account(url, credentials)
        pause_s = _interval(url, quirks, self._limits.min_interval_s)
        bmc = self._bmc(url.identity)
        if not bmc.lock.acquire(blocking=False):
            return None
        try:
            print_ = self._fingerprint(url.identity, account)
            now = self._clock()
            closed = max(bmc.closed_until or 0.0, bmc.full_until)
            pacing = pause_s > 0 and bmc.ended is not None and now < bmc.ended + pause_s
            if now < closed or pacing or print_ in self._load(url.identity, bmc).refused:
                return None
            if not self._room.acquire(blocking=False):
                return None
            try:
                talk = contextmanager(self._converse)
                with talk(url, account, bmc, print_, opener or self._opener, counts=False) as driver:
                    return driver.power()
            finally:
                self._room.release()
        finally:
            bmc.lock.release()

    def thaw(self, url: BmcUrl) -> None:
        """Forget what this BMC refused: an operator has set credentials anew. Also closes its breaker."""
        bmc = self._bmc(url.identity)
        with bmc.lock:
            self._remember(url.identity, bmc, BmcMemo())
            bmc.failures, bmc.span_s, bmc.closed_until, bmc.full_until = 0, 0.0, None, 0.0

    def blocked_s(self, url: BmcUrl) -> float:
        """Say for how many seconds the breaker will refuse this BMC; 0 when it does not."""
        until = self._bmc(url.identity).closed_until
        return max(0.0, until - self._clock()) if until is not None else 0.0

    def is_frozen(self, url: BmcUrl, credentials: BmcCredentials) -> bool:
        """Say whether this BMC has refused these credentials."""
        memo = self._bmc(url.identity).memo or self._memory.load(url.identity)
        return memo is not None and self._fingerprint(url.identity, credentials) in memo.refused

    def _bmc(self, identity: str) -> _Bmc:
        with self._guard:
            return self._bmcs.setdefault(identity, _Bmc())

    def _converse(
        self,
        url: BmcUrl,
        account: BmcCredentials,
        bmc: _Bmc,
        print_: str,
        opener: Opener,
        *,
        counts: bool = True,
    ) -> Iterator[BmcDriver]:
        watched: _Watched | None = None
        failed: BmcError | None = None
        began = self._clock()
        try:
            try:
                watched = _Watched(opener(url, account))
            except BmcError as error:
                failed = error
                raise
            yield watched
        finally:
            if watched is not None:
                watched.close()
                failed = watched.failed
            bmc.ended = self._clock()
            if watched is not None or failed is not None:
                outcome = str(failed.kind) if failed is not None else "ok"
                telemetry.BMC_CONVERSATIONS.labels(url.scheme, outcome).inc()
                telemetry.BMC_CONVERSATION_SECONDS.labels(url.scheme).observe(bmc.ended - began)
                self._learn(url.identity, bmc, print_, failed, counts)

    def _learn(
        self, identity: str, bmc: _Bmc, print_: str, failed: BmcError | None, counts: bool = True
    ) -> None:
        """Draw the consequences of one conversation: its first grave error, or that all went well."""
        if failed is None or failed.kind not in _NO_ANSWER:
            bmc.failures, bmc.span_s, bmc.closed_until = 0, 0.0, None
        if failed is None:
            return
        if failed.kind is BmcErrorKind.AUTH:
            # other refused credentials stay on the list, or two records with two passwords would take turns in
            # thawing each other while the account locks
            known = self._load(identity, bmc)
            refused = (*(other for other in known.refused if other != print_), print_)[-_REMEMBERED:]
            self._remember(identity, bmc, BmcMemo(refused, self._now(), failed.what))
        elif failed.kind in _NO_ANSWER and counts:
            limits = self._limits
            bmc.failures += 1
            bmc.failure = failed.what
            if bmc.failures >= limits.breaker_failures:
                bmc.span_s = min(bmc.span_s * 2 or limits.breaker_first_s, limits.breaker_longest_s)
                bmc.closed_until = self._clock() + bmc.span_s
        elif failed.kind is BmcErrorKind.SESSION_FULL:
            bmc.full_until = self._clock() + (failed.retry_after_s or SESSION_FULL_S)

    def _check_frozen(self, identity: str, bmc: _Bmc, print_: str) -> None:
        if bmc.unsaved and bmc.memo is not None:
            self._remember(identity, bmc, bmc.memo)
        memo = self._load(identity, bmc)
        if print_ in memo.refused:
            at = f" at {memo.at:%Y-%m-%d %H:%M:%S} UTC" if memo.at else ""
            raise BmcError(
                f"{identity}: not asked again with the credentials that it refused{at}",
                BmcErrorKind.FROZEN,
                seen=memo.reason or None,
                fix="set the right password (baremetal set NAME --bmc …); asking again could lock the account",
            )

    def _check_breaker(self, identity: str, bmc: _Bmc) -> None:
        # once the time is up, the lock's holder is the one probe: one more failure shuts it for twice as long
        if bmc.closed_until is not None and (left := bmc.closed_until - self._clock()) > 0:
            raise BmcError(
                f"{identity}: {bmc.failures} conversations in a row failed; not asked again for {left:.0f} s",
                BmcErrorKind.BREAKER,
                retry_after_s=left,
                seen=bmc.failure or None,
                fix="check the BMC's address, cable and IPMI over LAN; it is asked again by itself",
            )

    def _check_slots(self, identity: str, bmc: _Bmc) -> None:
        if (left := bmc.full_until - self._clock()) > 0:
            raise BmcError(
                f"{identity}: the BMC had no free session; it is given time to drop idle ones",
                BmcErrorKind.SESSION_FULL,
                retry_after_s=left,
            )

    def _pace(self, identity: str, bmc: _Bmc, pause_s: float, deadline: float) -> None:
        left = (bmc.ended + pause_s if bmc.ended is not None else 0.0) - self._clock()
        if pause_s <= 0 or bmc.ended is None or left <= 0:
            return
        if self._clock() + left > deadline:
            raise BmcError(
                f"{identity}: conversations with this BMC keep {pause_s:g} s apart",
                BmcErrorKind.BUSY,
                retry_after_s=left,
            )
        self._sleep(left)

    def _load(self, identity: str, bmc: _Bmc) -> BmcMemo:
        if bmc.memo is None:
            bmc.memo = self._memory.load(identity) or BmcMemo()
        return bmc.memo

    def _remember(self, identity: str, bmc: _Bmc, memo: BmcMemo) -> None:
        """Keep a memo, in this process at once and in the memory as soon as that takes it."""
        bmc.memo, bmc.unsaved = memo, True
        # a database fault here must not hide the wrong password behind it; the next conversation saves again
        with suppress(Exception):
            self._memory.save(identity, memo)
            bmc.unsaved = False

    def _fingerprint(self, identity: str, account: BmcCredentials) -> str:
        """Name credentials without giving them away: keyed, so that a stolen database cannot be searched for them."""
        text = f"{identity}\0{account.user}\0{account.password}"
        return hmac.digest(self._secret, text.encode(), "sha256").hex()


class _Watched:
    """A driver that notes the first grave error of its conversation, whatever the caller makes of it."""

    def __init__(self, driver: BmcDriver) -> None:
        self._driver = driver
        self.failed: BmcError | None = None

    def check(self) -> BmcInfo:
        return self._watch(self._driver.check)

    def power(self) -> PowerState:
        return self._watch(self._driver.power)

    def set_power(self, target: PowerTarget, permit: Permit) -> None:
        self._watch(lambda: self._driver.set_power(target, permit))

    def boot_device(self) -> BootFlags:
        return self._watch(self._driver.boot_device)

    def set_boot_device(self, device: BootDevice, *, persistent: bool, efi: bool, permit: Permit) -> None:
        self._watch(
            lambda: self._driver.set_boot_device(device, persistent=persistent, efi=efi, permit=permit)
        )

    def close(self) -> None:
        self._driver.close()

    def _watch(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BmcError as error:
            grave = error.kind in _NO_ANSWER or error.kind is BmcErrorKind.AUTH
            if self.failed is None and grave:
                self.failed = error
            raise


def _account(url: BmcUrl, credentials: BmcCredentials | None) -> BmcCredentials:
    account = credentials or url.credentials
    if account is None:
        raise Invalid(f"{url.identity}: the BMC's password is missing", fix="set it with --bmc-password-file")
    return account


def _interval(url: BmcUrl, quirks: Iterable[str], otherwise_s: float) -> float:
    """Return the seconds that conversations with this BMC keep apart: the URL's word, the quirk's, or the setting's."""
    if url.min_interval_s is not None:
        return url.min_interval_s
    for quirk in quirks:
        name, _, value = quirk.partition("=")
        if name.strip() == "min_interval":
            try:
                return max(0.0, float(value))
            except ValueError:
                raise Invalid(
                    f"the quirk {quirk!r} names no number of seconds", fix="write min_interval=5"
                ) from None
    return otherwise_s
