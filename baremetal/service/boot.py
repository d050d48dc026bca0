"""What machines are told while they netboot: the boot script, the answer files, the replies to their call-backs.

Owns the order of things: what must be committed is committed before the machine hears of it, and whatever is unclear
ends in local boot or one uniform "not found". Reading is separate from committing, so that the web side can read inline
and commit elsewhere. Deliberately unknown: HTTP, and what a signal means for a run (`lifecycle`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from baremetal import telemetry
from baremetal.engine.engine import Engine
from baremetal.engine.observations import Observations
from baremetal.errors import BaremetalError, Unavailable, Unknown
from baremetal.failpoints import failpoints
from baremetal.lifecycle.decision import Decision, Outcome, Reply
from baremetal.lifecycle.events import Fetched, Heard
from baremetal.lifecycle.model import Fetch, Run, Signal
from baremetal.lifecycle.windows import answer_window_open, is_writing, tokens_live, window_run
from baremetal.netboot.answer import BootAnswer, Install, choose_answer
from baremetal.netboot.dialect import constant, wait_text
from baremetal.netboot.lookup import By, Loader, swap_uuid
from baremetal.netboot.tokens import Purpose, mask_tokens
from baremetal.service.machine import Machine
from baremetal.service.manner import local_script, manner_of
from baremetal.service.news import News, mismatch
from baremetal.service.recipe import Kitchen, Recipe
from baremetal.service.repeats import Repeats, Waits
from baremetal.service.requests import FileRequest, FileRequests
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

log = telemetry.logger(__name__)

REPEAT = timedelta(hours=24)
_STRANGER_EVERY = timedelta(seconds=10)
_STRANGERS_KEPT = 2048
_SAME = timedelta(seconds=1)
_NOTED_KEPT = 4096
_CANNOT_COUNT = (Loader.PXELINUX, Loader.LPXELINUX)


class Word(StrEnum):
    """The body of a reply to a call-back; the machine's scripts compare it."""

    GO = "go"
    OK = "ok"
    WAIT = "wait"
    REFUSED = "refused"
    GONE = "not found"


@dataclass(frozen=True, slots=True)
class Look:
    """What a boot request leads to, found by reading only. `commits`: nothing may be served before `settle`.

    `found` false: there is nothing of that name, and the loader goes on to its next one. `text`: what every machine is
    told under that name.
    """

    machine: Machine
    record: ServerRecord | None
    answer: BootAnswer | None
    commits: bool = False
    stranger: bool = False
    found: bool = True
    text: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What a machine hears if its run may be served; `final`: whatever the run says, because there is no script."""

    text: str
    final: bool = False


class Boot:
    """The machines' side of the service. All of it may be called from several threads."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        observations: Observations,
        kitchen: Kitchen,
        *,
        now: Callable[[], datetime],
        strict_source: bool = False,
    ) -> None:
        self._store = store
        self._engine = engine
        self._observations = observations
        self._kitchen = kitchen
        self._now = now
        self._strict = strict_source
        self._strangers: dict[str, datetime] = {}
        self._noted: dict[tuple[str, int | None, str], datetime] = {}
        self._requests = FileRequests(self._note_file, now)
        self._repeats = Repeats()
        self._waits = Waits()
        self._lock = threading.Lock()

    # -- boot scripts --

    def tell(self, machine: Machine) -> str | None:
        """Look, commit where serving means something, and give the text; None: nothing of that name. Never raises.

        For callers that may wait for the database; the others look, and settle elsewhere.
        """
        try:
            look = self.look(machine)
            if look.stranger:
                self.meet(machine)
            if not look.found:
                return None
            return self.settle([look])[0] if look.commits else self.script(look)
        except Exception:
            log.exception("a boot script could not be made", mac=machine.mac, address=machine.address)
            return self._wait(machine)

    def look(self, machine: Machine) -> Look:
        """Find what this machine would be told. Reads only; never raises: a database fault has no answer."""
        asked = machine.asked
        if asked is not None:
            told = constant(machine.loader, asked, machine.base)
            if told is not None or asked.by is By.PREFIX:
                return Look(machine, None, None, found=told is not None, text=told or "")
        try:
            record = find_machine(self._store, machine)
        except Unavailable as error:
            log.warning("a boot request could not be answered", address=machine.address, error=str(error))
            # A loader that has not asked by its MAC yet does so next, and can be told to wait then.
            return Look(machine, None, None, found=not machine.goes_on or bool(machine.mac))
        look = weigh(machine, record)
        if record is None:
            return replace(look, stranger=self._is_news(machine.mac))
        answer = look.answer
        if asked is None or asked.by in (By.MAC, By.UUID):  # iPXE names itself in what it asks
            self._requests.belongs(machine.address, record)
        if not look.found:
            run = record.life.run
            note = f"{machine.address} asked by that address alone, which is not enough to install"
            self._seen(
                record, run.number if run is not None else None, "script", note, address=machine.address
            )
            return look
        if isinstance(answer, Install) and machine.loader is not Loader.IPXE:
            kept = self._repeats.again(record.id, machine, answer.run, self._now())
            if kept is not None:
                return Look(machine, record, answer, text=kept)
        return look

    def script(self, look: Look) -> str:
        """Give the script of a look that commits nothing, and note that it was asked for."""
        machine = look.machine
        if look.text:
            return look.text
        if look.answer is None:
            telemetry.BOOT_ANSWERS.labels(str(machine.loader), "wait").inc()
            return self._wait(machine)
        if look.record is not None:
            run = look.record.life.run
            self._seen(
                look.record,
                run.number if run is not None else None,
                "script",
                f"boot script asked for by {machine.address}: {look.answer.reason}",
                address=machine.address,
                loader=str(machine.loader),
            )
        told = "local" if look.record is not None else "unknown"
        telemetry.BOOT_ANSWERS.labels(str(machine.loader), told).inc()
        return local_script(look.record, look.answer.reason, machine.loader)

    def settle(self, looks: Sequence[Look]) -> list[str]:
        """Commit what serving these machines means for their runs, in one transaction; give each its script.

        Waits for the database, and never raises for it: whatever could not be committed is a script that waits.
        """
        prepared = [self._prepare(look) for look in looks]
        try:
            with failpoints("boot.serve"), self._store.together() if len(looks) > 1 else nullcontext():
                return [self._commit(look, text) for look, text in zip(looks, prepared, strict=True)]
        except Unavailable as error:
            log.warning("boot scripts were held back", servers=len(looks), error=str(error))
            return [self._wait(look.machine) for look in looks]
        except Exception:
            if len(looks) == 1:
                raise
            log.exception("boot scripts could not be committed together")
        return [self._alone(look) for look in looks]

    def _alone(self, look: Look) -> str:
        """Settle one of several: one server's trouble is its own."""
        try:
            return self.settle([look])[0]
        except Exception:
            log.exception("a boot script could not be committed", mac=look.machine.mac)
            return self._wait(look.machine)

    def _prepare(self, look: Look) -> Served:
        """Render an installer's script, or say what is told instead; nothing for a machine that hears no installer."""
        record, answer = look.record, look.answer
        assert record is not None
        if not isinstance(answer, Install):
            return Served("")
        try:
            recipe = self._recipe(record.id, answer.run)
            manner = manner_of(record, look.machine.loader)
            return Served(self._kitchen.script(recipe, record.id, answer.run, look.machine.base, manner))
        except Unavailable:
            return Served(self._wait(look.machine), final=True)
        except BaremetalError as error:
            self._not_rendered(record, answer.run, "boot script", error)
            told = local_script(record, "boot script could not be rendered", look.machine.loader)
            return Served(told, final=True)

    def _commit(self, look: Look, served: Served) -> str:
        record = look.record
        assert record is not None
        if served.final:
            return served.text
        run = record.life.run
        try:
            decision = self._engine.submit(
                record.id, Fetched(Fetch.SCRIPT, look.machine.address), known=record
            )
        except Unknown:
            return local_script(None, "unknown machine: it was forgotten just now", look.machine.loader)
        now = decision.server.run
        if (
            decision.reply is Reply.SERVE
            and served.text
            and now is not None
            and run is not None
            and now.number == run.number
        ):
            telemetry.BOOT_ANSWERS.labels(str(look.machine.loader), "install").inc()
            self._repeats.keep(record.id, look.machine, now.number, served.text, self._now())
            return served.text
        telemetry.BOOT_ANSWERS.labels(str(look.machine.loader), "local").inc()
        return local_script(record, decision.note, look.machine.loader)

    def _wait(self, machine: Machine) -> str:
        """Say that we cannot answer just now; at last, to a loader that cannot count, local boot."""
        asked = machine.asked
        if machine.loader in _CANNOT_COUNT and self._waits.is_enough(machine.mac, self._now()):
            return local_script(None, "we could not answer for too long", machine.loader)
        return wait_text(machine.loader, machine.base, machine.mac, own=asked is not None and asked.own)

    def belongs(self, address: str, record: ServerRecord) -> None:
        """Hear whose machine has an address: what it asks for by TFTP goes to that server's timeline."""
        self._requests.belongs(address, record)

    def meet(self, machine: Machine) -> None:
        """Remember a stranger for `baremetal list --unknown`. Best effort."""
        try:
            self._store.saw_unknown(
                machine.mac, machine.uuid, machine.serial, machine.arch, "boot script", self._now()
            )
        except BaremetalError as error:
            log.warning("a stranger could not be recorded", mac=machine.mac, error=str(error))

    def _is_news(self, mac: str) -> bool:
        """Whether a stranger is worth a write: seldom for one MAC, and for a bounded number of MACs."""
        if not mac:
            return False
        at = self._now()
        with self._lock:
            last = self._strangers.get(mac)
            if last is not None and timedelta(0) <= at - last < _STRANGER_EVERY:
                return False
            if len(self._strangers) >= _STRANGERS_KEPT:
                old = [key for key, seen in self._strangers.items() if at - seen >= _STRANGER_EVERY]
                for key in old:
                    del self._strangers[key]
                if not old:
                    return False
            self._strangers[mac] = at
        return True

    def _not_rendered(self, record: ServerRecord, run: int, what: str, error: BaremetalError) -> None:
        text = mask_tokens(str(error))
        log.error(
            "nothing was served: rendering failed", server=record.life.name, code=error.code, error=text
        )
        self._seen(record, run, "render", f"{error.code} {what} not served: {text}")

    # -- answer files --

    def answer(self, token: str, file: str, address: str, base: str) -> str | None:
        """Render one answer file, or None for one uniform "not found". Reads only. Raises Unavailable."""
        scope = self._kitchen.mint.open(token, Purpose.FETCH)
        if scope is None:
            return _no_answer("forged")
        record = self._server(scope.server_id)
        if record is None or not tokens_live(record.life, scope.run) or not answer_window_open(record.life):
            return _no_answer("closed")
        run = record.life.run
        assert run is not None
        if not self._may_read(record, run, address):
            note = f"{file} refused to {address}: go was asked for from {run.go.address if run.go else 'elsewhere'}"
            self._seen(record, run.number, "refused", note, address=address, file=file)
            return _no_answer("address")
        recipe = self._recipe(record.id, run.number)
        if file not in recipe.profile.answer_files:
            return _no_answer("name")
        try:
            with failpoints("answer.serve"):
                text = self._kitchen.answer(recipe, record.id, run.number, file, base)
        except BaremetalError as error:
            self._not_rendered(record, run.number, file, error)
            return _no_answer("render")
        self._seen(record, run.number, "answer", f"{file} fetched by {address}", address=address, file=file)
        telemetry.ANSWER_FILES.labels("served").inc()
        return text

    def _may_read(self, record: ServerRecord, run: Run, address: str) -> bool:
        if run.go is not None and run.go.address:
            return address == run.go.address
        return not self._strict or address in self._sources(record, run)

    def _sources(self, record: ServerRecord, run: Run) -> set[str]:
        """List the addresses that were served this run's boot script (under `strict_source` only)."""
        entries = self._store.history(server_id=record.id, kinds=("decision",), run=run.number, newest=True)
        return {
            str(entry.event.get("address"))
            for entry in entries
            if entry.event is not None and entry.event.get("what") == str(Fetch.SCRIPT)
        }

    # -- call-backs --

    def caller(self, token: str) -> tuple[str, int] | None:
        """Say which server and run a call-back token was made for; None for one that we did not make."""
        scope = self._kitchen.mint.open(token, Purpose.CALLBACK)
        return (scope.server_id, scope.run) if scope is not None else None

    def signal(self, server_id: str, run: int, signal: Signal, news: News, address: str) -> Word:
        """Apply a signal, and say what the machine is told; committed before this returns. Raises Unavailable."""
        word = self._signal(server_id, run, signal, news, address)
        telemetry.CALLBACKS.labels(str(signal), str(word)).inc()
        return word

    def _signal(self, server_id: str, number: int, signal: Signal, news: News, address: str) -> Word:
        record = self._server(server_id)
        if record is None:
            return Word.GONE
        wrong = self._objection(record, number, signal, news, address)
        if wrong is not None:
            self._seen(record, number, "refused", f"{signal} refused: {wrong}", address=address)
            return Word.REFUSED
        event = Heard(
            signal,
            run=number,
            boot_id=news.boot_id,
            address=address,
            disk=news.disk,
            disks=news.disk_names if signal is Signal.WIPE_STARTED else (),
            stage=news.stage,
            message=news.text,
        )
        try:
            with failpoints(_POINTS[signal]) if signal in _POINTS else nullcontext():
                decision = self._engine.submit(server_id, event, facts=news.facts(signal), known=record)
        except Unknown:
            return Word.GONE
        if news.log and decision.outcome is Outcome.CHANGED:
            self._keep_log(server_id, number, f"{signal}.log", news.log.encode())
        return self._word(server_id, number, signal, decision)

    def malformed(
        self, server_id: str, number: int, signal: Signal, error: BaremetalError, address: str
    ) -> None:
        """Note a call-back with a genuine token whose fields make no sense."""
        telemetry.CALLBACKS.labels(str(signal), "malformed").inc()
        record = self._server(server_id)
        if record is not None:
            self._seen(record, number, "refused", f"{signal} refused: {error}", address=address)

    def _objection(
        self, record: ServerRecord, number: int, signal: Signal, news: News, address: str
    ) -> str | None:
        """Say why this machine cannot be the one that the token was made for, if so (promises I19)."""
        if news.run and news.run != f"{record.id}/{number}":
            return f"the system that calls belongs to run {news.run[-40:]}"
        if signal not in _FIRST_WORDS:
            return None
        run = record.life.run
        if self._strict and run is not None and address not in self._sources(record, run):
            return f"{address} did not fetch the boot script"
        return mismatch(record.facts, news)

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

    # -- media --

    def fetched(self, server: str, number: int, what: Fetch, file: str, address: str) -> None:
        """Note that a run's machine fetched its kernel or initrd. Best effort."""
        try:
            record = self._store.find_server(server)
        except BaremetalError:
            return
        if record is not None and record.life.run is not None and record.life.run.number == number:
            self._seen(
                record, number, str(what), f"{what} {file} fetched by {address}", address=address, file=file
            )

    def saw_file(self, request: FileRequest) -> None:
        """Note a file that was asked for by its name, once it is known whose machine that was. Best effort."""
        self._requests.saw(request)

    def _note_file(self, record: ServerRecord, request: FileRequest) -> None:
        run = record.life.run
        self._seen(
            record,
            run.number if run is not None else None,
            "file" if request.served or request.is_harmless or request.only_looked else "missing",
            request.note,
            address=request.address,
            file=request.name,
        )

    # -- shared --

    def _server(self, server_id: str) -> ServerRecord | None:
        # Machines are no people: a like name means nothing to them, and finding one would hold up the event loop.
        return self._store.find_server(server_id)

    def _recipe(self, server_id: str, number: int) -> Recipe:
        kept = self._kitchen.kept(server_id, number)
        if kept is not None:
            return kept
        run = self._store.run(server_id, number)
        if run is None:
            raise Unknown(f"run {number} has no record")
        return self._kitchen.recipe(run)

    def _seen(self, record: ServerRecord, run: int | None, what: str, note: str, **data: str) -> None:
        """Note what a machine asked for; the same words within a second are one note, however often it asks."""
        key, at = (record.id, run, note), self._now()
        last = self._noted.get(key)
        if last is not None and timedelta(0) <= at - last < _SAME:
            return
        if len(self._noted) >= _NOTED_KEPT:
            self._noted.clear()
        self._noted[key] = at
        self._observations.add(record.id, record.life.name, run, what, note, data)


def find_machine(store: Store, machine: Machine) -> ServerRecord | None:
    """Find whose machine this is, by all that it says of itself. Raises Unavailable."""
    asked = machine.asked
    if asked is not None and asked.by is By.ADDRESS:
        return store.server_by_address(asked.key)
    found = store.find_boot(machine.mac, machine.uuid, machine.serial)
    if found is None and machine.uuid:
        # Half of all firmwares and tools write its first fields the other way round.
        found = store.server_by_uuid(swap_uuid(machine.uuid))
    return found


def weigh(machine: Machine, record: ServerRecord | None) -> Look:
    """Say what a machine is told if it is this server, or nobody's; the same for a machine and for `explain`."""
    answer = choose_answer(record.life if record is not None else None)
    if record is None:
        return Look(machine, None, answer, found=not machine.goes_on)
    commits = isinstance(answer, Install) or _writing(record.life.run)
    if commits and machine.asked is not None and machine.asked.by is By.ADDRESS:
        # A lease proves nothing: whoever has another machine's address starts no installer, and ends none.
        return Look(machine, record, answer, found=False)
    return Look(machine, record, answer, commits=commits)


_ASK_GO = frozenset({Signal.INSTALL_STARTED, Signal.WIPE_STARTED})
# The signals by which a machine is known: it must be the one that the run is for.
_FIRST_WORDS = _ASK_GO | {Signal.INSPECT_COMPLETE, Signal.RESCUE_STARTED}
_POINTS = {
    Signal.INSTALL_STARTED: "signal.started",
    Signal.WIPE_STARTED: "signal.started",
    Signal.INSTALL_COMPLETE: "signal.complete",
    Signal.WIPE_COMPLETE: "signal.complete",
}


def _writing(run: Run | None) -> bool:
    """Whether a request for a boot script now means that the machine rebooted while it wrote to its disks."""
    return run is not None and is_writing(run)


def _no_answer(why: str) -> str | None:
    """Count a request that hears "not found"; why it does is nobody's business but ours."""
    telemetry.ANSWER_FILES.labels(why).inc()
    return None
