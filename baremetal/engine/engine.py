"""Makes decisions happen: decide, write it down, then act, then read back.

`submit` turns an event into a committed decision. `turn` does what one server is owed until it must wait. `sweep` finds
the servers that are owed something or overdue: after a restart nothing else is needed. The engine keeps no queue and
sleeps out no budget; what it knows it reads from the store each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import structlog
from msgspec.structs import replace

from baremetal import telemetry
from baremetal.drivers.base import BmcCredentials, BmcDriver, BmcUrl
from baremetal.engine.conversations import Conversations
from baremetal.engine.perform import LoginTarget, Performer, Quirks, Seen
from baremetal.errors import (
    BaremetalError,
    BmcError,
    BmcErrorKind,
    LoginError,
    StorageError,
    StorageErrorKind,
    Superseded,
    Unavailable,
)
from baremetal.failpoints import FailpointError, failpoint
from baremetal.lifecycle.actions import Action, CheckLogin, EnsurePower, StorageAction
from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Decision, Outcome, Reply
from baremetal.lifecycle.events import Did, Event, Failed, Heard, Intended, Overdue
from baremetal.lifecycle.model import BootMode, PowerState, Run, Server, Verb
from baremetal.lifecycle.moves import owed
from baremetal.lifecycle.table import edges
from baremetal.store.records import Committed, HistoryEntry, NewRun, RunRecord, ServerRecord
from baremetal.store.store import Store

log = structlog.get_logger(__name__)

RESERVATION = timedelta(minutes=5)
GUARD_TRIES = 100

Locate = Callable[[ServerRecord, RunRecord], LoginTarget]
Listener = Callable[[HistoryEntry], None]


@dataclass(frozen=True, slots=True)
class Begin:
    """What a run freezes when it starts: the profile's name and everything that is rendered later.

    `waited` is the number under which it waited for its turn, if it did.
    """

    profile: str = ""
    frozen: Mapping[str, Any] = field(default_factory=dict)
    waited: int | None = None


class Engine:
    """One engine per process. Without an executor, turns run inline in `sweep` (the simulation, tests)."""

    def __init__(
        self,
        store: Store,
        conversations: Conversations,
        performer: Performer,
        locate: Locate,
        now: Callable[[], datetime],
        executor: Executor | None = None,
    ) -> None:
        self.store = store
        self.now = now
        self._conversations = conversations
        self._performer = performer
        self._locate = locate
        self._executor = executor
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._turning: dict[str, bool] = {}  # server id -> asked for again meanwhile
        # reservations that the database did not take back, or perhaps gave without our hearing of it
        self._unreturned: set[tuple[str, int, datetime]] = set()
        self._stopping = False

    # -- decide and record --

    def submit(
        self,
        server_id: str,
        event: Event,
        *,
        begin: Begin | None = None,
        facts: Mapping[str, Any] | None = None,
        known: ServerRecord | None = None,
        power: PowerState | None = None,
        hold: Hold | None = None,
    ) -> Decision:
        """Decide and commit; the decision that was recorded is returned. Then the server's turn is nudged.

        A lost guard means that someone moved first: everything is loaded and decided again. `known` spares the first
        load where the caller has just read the server; should it be stale, the guard tells. `facts` go to the run's
        record only with a decision that changes something. `power` is what was seen on the way, and is noted in the
        same transaction. `hold` is the caller's turn: its reservation is taken with its first intention, and given back
        with a decision that leaves it nothing to do.
        Raises Unknown, Unavailable, and Refused for a run beside a deploy that waits.
        """
        for _ in range(GUARD_TRIES):
            record = known or self.store.server(server_id)
            known = None
            at = self.now()
            decision = decide(record.life, event, at)
            _assert_edge(record, decision)
            frees = hold is not None and hold.ends_with(record.life, decision, at)
            until = at + RESERVATION if hold is not None and hold.takes(event, decision) else None
            try:
                done = self.store.commit(
                    record.id,
                    record.life,
                    decision,
                    event,
                    at,
                    begin=_new_run(record, decision, begin, at),
                    waited=begin.waited if begin is not None else None,
                    facts=_run_facts(event, decision, facts, at),
                    power=power,
                    frees=frees,
                    until=until,
                )
            except Unavailable:
                if until is not None:  # perhaps only the answer was lost
                    self._unreturned.add((record.id, decision.server.fence + 1, until))
                raise
            if done is None:
                continue
            if hold is not None and done.fence is not None:
                hold.fence, hold.until = done.fence, until
                decision = replace(decision, server=replace(decision.server, fence=done.fence))
            if hold is not None and frees:
                hold.is_over = True
            self.store.after_commit(partial(self._announce, record, decision, done))
            return decision
        raise Unavailable(f"the record changed {GUARD_TRIES} times while one event was being decided")

    def _announce(self, record: ServerRecord, decision: Decision, done: Committed) -> None:
        """Tell everybody who waits for it that a decision is committed."""
        for entry in done.entries:
            self._tell(entry)
        _count(record, decision, done.entries[-1].at)
        if decision.action is not None and decision.outcome is Outcome.CHANGED:
            self.nudge(record.id)

    def listen(self, listener: Listener) -> None:
        """Have every committed history entry handed to `listener`, in the committing thread; it must be quick."""
        self._listeners.append(listener)

    # -- act --

    def nudge(self, server_id: str) -> None:
        """Give the server a turn soon. Without an executor this is left to the next sweep."""
        if self._executor is None or self._stopping:
            return
        with self._lock:
            if server_id in self._turning:
                self._turning[server_id] = True
                return
            self._turning[server_id] = False
        try:
            self._executor.submit(self._turns, server_id)
        except RuntimeError:  # shut down meanwhile: the next process's sweep finds what is owed
            with self._lock:
                self._turning.pop(server_id, None)

    def turn(self, server_id: str, *, known: ServerRecord | None = None) -> None:
        """Do what the server is owed until it must wait. Harmless when nothing is owed, or somebody else holds it.

        The server is reserved from the first intention on: what only reads needs no other than the guard of its commit.
        `known` spares the load where the caller has just read the server.
        """
        record = known or self.store.server(server_id)
        if record.is_held(self.now()) or not self._is_due(record):
            return
        hold = Hold(record.life.fence)
        try:
            with ExitStack() as stack:
                self._work(record, hold, stack)
        finally:
            if hold.until is not None and not hold.is_over:
                self._give_back(server_id, hold.fence, hold.until)

    def saw_powers(self, seen: Mapping[str, PowerState]) -> None:
        """Note the power states that were read; a change goes into the history as an observation."""
        for entry in self.store.set_powers(seen, self.now()):
            self._tell(entry)

    def _tell(self, entry: HistoryEntry) -> None:
        for listener in self._listeners:
            listener(entry)

    def _give_back(self, server_id: str, fence: int, until: datetime) -> None:
        """Return a reservation; where the database is away just then, the next sweep does it."""
        try:
            self.store.unreserve(server_id, fence, until)
        except Unavailable:
            # or the server would wait out the reservation, and its step's budget with it
            self._unreturned.add((server_id, fence, until))

    def _is_due(self, record: ServerRecord) -> bool:
        run = record.life.run
        wait = run is not None and run.retry_at is not None and run.retry_at > self.now()
        return not wait and owed(record.life) is not None

    def sweep(self) -> int:
        """Give every server that is owed something its turn, and every passed deadline its event; return how many.

        One server's trouble is logged and left to the next sweep. Raises Unavailable when nothing can be read at all.
        """
        now, lag_s = self.now(), 0.0
        try:
            for held in tuple(self._unreturned):
                self.store.unreserve(*held)
                self._unreturned.discard(held)
            due = self.store.due(now)
        except Unavailable:
            telemetry.SWEEPS.labels("unavailable").inc()
            raise
        for record in due:
            try:
                lag_s = max(lag_s, self.attend(record, now))
            except BaremetalError as error:
                log.warning("not attended to", server=record.id, code=error.code, error=str(error))
            except Exception:
                log.exception("attending broke", server=record.id)
        telemetry.SWEEPS.labels("ok").inc()
        telemetry.SWEEP_LAG_SECONDS.set(lag_s)
        return len(due)

    def attend(self, record: ServerRecord, now: datetime) -> float:
        """Give one server that is due its event and its turn; return for how many seconds it had been due."""
        server_id, run = record.id, record.life.run
        if run is None:
            return 0.0
        since = (run.deadline, run.retry_at or run.entered)
        # whose turn is under way, and only reads so far, is waited for by nobody
        late = [] if server_id in self._turning else [at for at in since if at is not None and at <= now]
        if run.deadline is not None and run.deadline <= now:
            # Decided on a fresh read: in a long sweep the record may be old, and a run that went on is not overdue.
            self.submit(server_id, Overdue(run.number, run.step))
            record = self.store.server(server_id)
        if self._executor is None:
            self.turn(server_id, known=record)
        else:
            self.nudge(server_id)
        return max(((now - at).total_seconds() for at in late), default=0.0)

    def recover(self) -> None:
        """Void what reservations a dead process left; the next sweep resumes every run from the store alone."""
        self.store.void_reservations()

    def stop(self) -> None:
        """Start no further turns; those under way end by themselves, within their deadlines."""
        self._stopping = True

    def converse(self, record: ServerRecord, stack: ExitStack) -> BmcDriver:
        """Open the server's BMC conversation; it ends with the stack. Raises BmcError."""
        user, password = self.store.credentials(record.id)
        url = _bmc_url(record.facts.bmc)
        return stack.enter_context(
            self._conversations.open(url, BmcCredentials(user, password), record.facts.quirks)
        )

    # -- the inside of a turn --

    def _turns(self, server_id: str) -> None:
        while not self._stopping:
            try:
                self.turn(server_id)
            except BaremetalError as error:
                log.warning("turn failed", server=server_id, code=error.code, error=str(error))
            except Exception:
                log.exception("turn broke", server=server_id)
            with self._lock:
                if not self._turning[server_id]:
                    del self._turning[server_id]
                    return
                self._turning[server_id] = False
        with self._lock:
            self._turning.pop(server_id, None)

    def _work(self, record: ServerRecord, hold: Hold, stack: ExitStack) -> None:
        server_id = record.id
        bmc: BmcDriver | None = None
        while not self._stopping and not hold.is_over:
            run, action = record.life.run, owed(record.life)
            if run is None or action is None or record.life.fence != hold.fence or not self._is_due(record):
                return
            permit = _Permit(self, record, hold)
            _crash_point(run, action, "before")
            try:
                if isinstance(action, CheckLogin):
                    seen = self._performer.prove(self._login_target(record, run))
                elif isinstance(action, StorageAction):
                    seen = self._keep(action, record, run, permit)
                else:
                    bmc = bmc or self.converse(record, stack)
                    mode = BootMode(record.facts.boot_mode)
                    quirks = Quirks.parse(record.facts.quirks)
                    seen = self._performer.perform(action, bmc, mode, quirks, permit)
            except Superseded:
                record = self.store.server(server_id)
                if self._moved_on(record, run, hold.fence):
                    return
                continue
            except Unavailable:
                raise
            except BaremetalError as error:
                # whatever it is, its step must hear of it: a turn that only ends is begun again at once
                self.submit(server_id, _failure(error, run, hold.fence), known=permit.record, hold=hold)
                return
            power = seen.power if seen.power is not record.power_state else None
            did = Did(run.number, run.step, hold.fence, wrote=seen.wrote, power=seen.power, seen=seen.text)
            decision = self.submit(server_id, did, known=permit.record, power=power, hold=hold)
            _crash_point(run, action, "after")
            record = replace(record, life=decision.server, power_state=seen.power or record.power_state)

    def _keep(self, action: StorageAction, record: ServerRecord, run: Run, permit: _Permit) -> Seen:
        """Have a storage host's action done; what breaks there is told to its step, to be tried again later."""
        try:
            return self._performer.keep(action, record, run, permit)
        except (BaremetalError, FailpointError):
            raise
        except Exception as error:
            log.exception("a storage action broke", server=record.id, action=str(action))
            what = f"{action}: {type(error).__name__}; the service's log has the details"
            raise StorageError(what, StorageErrorKind.FAILED) from error

    def _moved_on(self, record: ServerRecord, run: Run, fence: int) -> bool:
        """Whether a write was forbidden because this turn is over, not because its step was replaced by another."""
        life = record.life
        return (
            life.fence != fence
            or life.run is None
            or (life.run.number, life.run.step) == (run.number, run.step)
        )

    def _login_target(self, record: ServerRecord, run: Run) -> LoginTarget:
        # a run that installs nothing brings back what an earlier one installed
        number = run.number if run.method is not None else record.life.deployed
        known = self.store.run(record.id, number)
        if known is None:
            raise LoginError("the record of the run that is deployed is gone", transient=False)
        return self._locate(record, known)


class Hold:
    """A turn's hold on its server: first the fence that it acts under, then a reservation `until`.

    `is_over`: the turn's last commit has given it back.
    """

    __slots__ = ("fence", "is_over", "until")

    def __init__(self, fence: int) -> None:
        self.fence = fence
        self.until: datetime | None = None
        self.is_over = False

    def takes(self, event: Event, decision: Decision) -> bool:
        """Whether this is the turn's first intention, with which the server is reserved."""
        return self.until is None and isinstance(event, Intended) and decision.outcome is Outcome.CHANGED

    def ends_with(self, before: Server, decision: Decision, at: datetime) -> bool:
        """Whether this is a turn's last decision, so that the reservation may go with it: nothing is left to be done
        now, or not under this fence.
        """
        if self.until is None or decision.outcome is not Outcome.CHANGED or before.fence != self.fence:
            return False
        run = decision.server.run
        waits = run is not None and run.retry_at is not None and run.retry_at > at
        return waits or decision.action is None or decision.server.fence != self.fence


class _Permit:
    """Asks, just before a write is sent, whether it may be: the intention is recorded, or `Superseded` is raised.

    An action of several writes (a boot device takes two) is intended once; its later writes are only asked again
    whether they are still wanted. `record` is the server as the last permission left it.
    """

    def __init__(self, engine: Engine, record: ServerRecord, hold: Hold) -> None:
        self._engine = engine
        self._hold = hold
        self._intended = False
        self.record = record

    def __call__(self) -> None:
        run, until = self.record.life.run, self._hold.until
        assert run is not None
        if until is not None and until <= self._engine.now():
            raise Superseded("the reservation has run out")
        event = Intended(run.number, run.step, self._hold.fence)
        if self._intended:
            self.record = self._engine.store.server(self.record.id)
            decision = decide(self.record.life, event, self._engine.now())
        else:
            decision = self._engine.submit(self.record.id, event, known=self.record, hold=self._hold)
            self.record = replace(self.record, life=decision.server)
            self._intended = True
        now = decision.server.run
        if decision.outcome is not Outcome.CHANGED or now is None or now.step != run.step:
            raise Superseded(decision.note)


def _failure(error: BaremetalError, run: Run, fence: int) -> Failed:
    text = f"{error.code} {error}"
    if not isinstance(error, BmcError | LoginError | StorageError):  # what only an operator can correct
        return Failed(run.number, run.step, fence, text, transient=False)
    pauses = isinstance(error, BmcError) and error.kind is BmcErrorKind.BREAKER
    wait = (error.retry_after_s or 0.0) if isinstance(error, BmcError) else 0.0
    return Failed(run.number, run.step, fence, text, error.transient, retry_after_s=wait, pauses=pauses)


# What is stored carries no credentials, so that nothing secret is kept here.
_bmc_url = lru_cache(maxsize=2048)(BmcUrl.parse)


def _crash_point(run: Run, action: Action, side: str) -> None:
    """Stand around a release's power-off, its record included: the other effects have their points in `perform`."""
    if run.verb is Verb.RELEASE and action == EnsurePower(PowerState.OFF):
        failpoint(f"release.off:{side}")


def _count(before: ServerRecord, decision: Decision, at: datetime) -> None:
    """Bring the metrics up to date with one committed decision."""
    old, new, run = before.life.state, decision.server.state, before.life.run
    if old is not new:
        telemetry.TRANSITIONS.labels(str(old), str(new)).inc()
    if run is not None and decision.server.run is None:
        telemetry.RUNS.labels(str(run.verb), str(new)).inc()
        telemetry.RUN_SECONDS.labels(str(run.verb), str(new)).observe((at - run.started).total_seconds())


def _new_run(record: ServerRecord, decision: Decision, begin: Begin | None, at: datetime) -> NewRun | None:
    run = decision.server.run
    if run is None or record.life.run is not None:
        return None
    what = begin or Begin()
    return NewRun(
        server_id=record.id,
        number=run.number,
        verb=str(run.verb),
        profile=what.profile,
        frozen=what.frozen,
        started_at=at,
    )


def _run_facts(
    event: Event, decision: Decision, facts: Mapping[str, Any] | None, at: datetime
) -> Mapping[str, Any] | None:
    if decision.outcome is not Outcome.CHANGED:
        return None
    if isinstance(event, Heard) and decision.reply in (Reply.OK, Reply.GO):
        return {**(facts or {}), "accepted": {str(event.signal): at}}
    return facts


def _assert_edge(record: ServerRecord, decision: Decision) -> None:
    """I9, also in production: a decision outside the derived table is a bug, and is not recorded."""
    before, after = record.life.state, decision.server.state
    if before is not after and (before, after) not in edges():
        raise AssertionError(f"{record.life.name}: {before} to {after} is no edge of the lifecycle")
