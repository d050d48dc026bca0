"""Call-backs: what machines report, and the word that each hears.

Owns the order of things: a signal is applied and committed before it is answered (promises I5), alone or together with
others that came at the same time. Deliberately unknown: HTTP, and what a signal means for a run (`lifecycle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from baremetal import telemetry
from baremetal.errors import BaremetalError, Unavailable, Unknown
from baremetal.failpoints import failpoints
from baremetal.lifecycle.decision import Decision, Outcome, Reply
from baremetal.lifecycle.events import Heard
from baremetal.lifecycle.model import Method, Signal
from baremetal.lifecycle.windows import tokens_live, window_run
from baremetal.netboot.tokens import Purpose
from baremetal.service.boot.news import News, mismatch
from baremetal.service.boot.part import Part
from baremetal.store.records import ServerRecord

log = telemetry.logger(__name__)

REPEAT = timedelta(hours=24)
_ASK_GO = frozenset({Signal.INSTALL_STARTED, Signal.WIPE_STARTED})
# The signals by which a machine is known: it must be the one that the run is for.
_FIRST_WORDS = _ASK_GO | {Signal.INSPECT_COMPLETE, Signal.RESCUE_STARTED}
_POINTS = {
    Signal.INSTALL_STARTED: "signal.started",
    Signal.WIPE_STARTED: "signal.started",
    Signal.INSTALL_COMPLETE: "signal.complete",
    Signal.WIPE_COMPLETE: "signal.complete",
}


class Word(StrEnum):
    """The body of a reply to a call-back; the machine's scripts compare it."""

    GO = "go"
    OK = "ok"
    WAIT = "wait"
    REFUSED = "refused"
    GONE = "not found"


@dataclass(frozen=True, slots=True)
class Call:
    """One call-back: the server and run that its token was made for, and what came with it."""

    server_id: str
    run: int
    signal: Signal
    news: News
    address: str


class Callbacks(Part):
    """Signals and logs of the machines that hold a run's call-back token."""

    def caller(self, token: str) -> tuple[str, int] | None:
        """Say which server and run a call-back token was made for; None for one that we did not make."""
        scope = self._kitchen.mint.open(token, Purpose.CALLBACK)
        return (scope.server_id, scope.run) if scope is not None else None

    def hear(self, calls: Sequence[Call]) -> list[Word]:
        """Apply the signals that came at the same time, in one transaction; give each machine its word.

        Each is decided by itself: one that is refused undoes nothing of the others. Waits for the database, and never
        raises for it: what could not be committed is to be sent again.
        """
        if len(calls) == 1:
            return [self._hear_alone(calls[0])]
        try:
            with ExitStack() as stack:
                for place in sorted({_POINTS[call.signal] for call in calls if call.signal in _POINTS}):
                    stack.enter_context(failpoints(place))
                stack.enter_context(self._store.together())
                words = [self._apply(call) for call in calls]
        except Unavailable as error:
            log.warning("call-backs have to wait", calls=len(calls), error=str(error))
            words = [Word.WAIT for _ in calls]
        except Exception:
            log.exception("call-backs could not be committed together")
            return [self._hear_alone(call) for call in calls]
        for call, word in zip(calls, words, strict=True):
            _count(call.signal, word)
        return words

    def _hear_alone(self, call: Call) -> Word:
        """Hear one of several: one machine's trouble is its own."""
        try:
            return self.signal(call.server_id, call.run, call.signal, call.news, call.address)
        except Unavailable as error:
            log.warning("a call-back has to wait", server=call.server_id, error=str(error))
        except Exception:
            log.exception("a call-back broke", server=call.server_id, signal=str(call.signal))
        _count(call.signal, Word.WAIT)
        return Word.WAIT

    def signal(self, server_id: str, run: int, signal: Signal, news: News, address: str) -> Word:
        """Apply one signal, and say what the machine is told; committed before this returns. Raises Unavailable."""
        with failpoints(_POINTS[signal]) if signal in _POINTS else nullcontext():
            word = self._apply(Call(server_id, run, signal, news, address))
        _count(signal, word)
        return word

    def _apply(self, call: Call) -> Word:
        record = self._server(call.server_id)
        if record is None:
            return Word.GONE
        signal, number, news = call.signal, call.run, call.news
        wrong = self._objection(record, call)
        if wrong is not None:
            self._seen(record, number, "refused", f"{signal} refused: {wrong}", address=call.address)
            return Word.REFUSED
        event = Heard(
            signal,
            run=number,
            boot_id=news.boot_id,
            address=call.address,
            disk=news.disk,
            disks=news.disk_names if signal is Signal.WIPE_STARTED else (),
            stage=news.stage,
            message=news.text,
        )
        run = record.life.run
        facts = news.facts(signal, clone=run is not None and run.method is Method.CLONE)
        try:
            decision = self._engine.submit(record.id, event, facts=facts, known=record)
        except Unknown:
            return Word.GONE
        if news.log and decision.outcome is Outcome.CHANGED:
            self._keep_log(record.id, number, f"{signal}.log", news.log.encode())
        return self._word(record.id, number, signal, decision)

    def malformed(
        self, server_id: str, number: int, signal: Signal, error: BaremetalError, address: str
    ) -> None:
        """Note a call-back with a genuine token whose fields make no sense."""
        _count(signal, "malformed")
        record = self._server(server_id)
        if record is not None:
            self._seen(record, number, "refused", f"{signal} refused: {error}", address=address)

    def _objection(self, record: ServerRecord, call: Call) -> str | None:
        """Say why this machine cannot be the one that the token was made for, if so (promises I19)."""
        if call.news.run and call.news.run != f"{record.id}/{call.run}":
            return f"the system that calls belongs to run {call.news.run[-40:]}"
        if call.signal not in _FIRST_WORDS:
            return None
        run = record.life.run
        if self._strict and run is not None and call.address not in self._sources(record, run):
            return f"{call.address} did not fetch the boot script"
        return mismatch(record.facts, call.news)

    def _word(self, server_id: str, number: int, signal: Signal, decision: Decision) -> Word:
        match decision.reply:
            case Reply.GO:
                return Word.GO
            case Reply.WAIT:
                return Word.WAIT
            case Reply.REFUSED:
                return Word.REFUSED
            case Reply.GONE:
                return Word.OK if self._was_accepted(server_id, number, signal) else Word.GONE
            case _:
                return Word.OK

    def _was_accepted(self, server_id: str, number: int, signal: Signal) -> bool:
        """Whether this is a repetition of a signal that was accepted within a day (promises I24).

        Never for the signals that ask for go: 200 there reads as go.
        """
        if signal in _ASK_GO:
            return False
        run = self._store.run(server_id, number)
        at = run.accepted.get(str(signal)) if run is not None else None
        return at is not None and self._now() - at <= REPEAT

    def put_log(self, server_id: str, number: int, name: str, content: bytes) -> bool:
        """Keep an installer's log while its run lives; false where the run is over. Raises Refused, Unavailable."""
        record = self._server(server_id)
        if record is None or not tokens_live(record.life, number) or window_run(record.life) is None:
            return False
        self._store.add_log(server_id, number, name, content, self._now())
        self._seen(record, number, "log", f"log {name} uploaded ({len(content)} bytes)", file=name)
        return True

    def _keep_log(self, server_id: str, number: int, name: str, content: bytes) -> None:
        try:
            self._store.add_log(server_id, number, name, content, self._now())
        except BaremetalError as error:
            log.warning("a log was not kept", server=server_id, run=number, error=str(error))


def _count(signal: Signal, status: str) -> None:
    telemetry.CALLBACKS.labels(str(signal), str(status)).inc()
