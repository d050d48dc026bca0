"""Boot scripts: what a netbooting machine is told, and what telling it means for its run.

Owns the order of things: what must be committed is committed before the machine hears of it, and whatever is unclear
ends in local boot. Reading is separate from committing, so that the web side can read inline and commit elsewhere, many
machines at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from msgspec.structs import replace as replace_fields

from baremetal import telemetry
from baremetal.errors import BaremetalError, Unavailable, Unknown
from baremetal.failpoints import failpoints
from baremetal.lifecycle.decision import Reply
from baremetal.lifecycle.events import Fetched
from baremetal.lifecycle.model import BootTarget, Fetch
from baremetal.lifecycle.windows import boots_volume
from baremetal.netboot.answer import Install, TargetBoot, choose_answer
from baremetal.netboot.dialect import constant, wait_text
from baremetal.netboot.lookup import By, Loader
from baremetal.service.boot.looks import Look, find_machine, weigh
from baremetal.service.boot.machine import Machine
from baremetal.service.boot.part import Part
from baremetal.service.boot.strangers import Way
from baremetal.service.servers.manner import local_script, manner_of, volume_script
from baremetal.store.records import ServerRecord

log = telemetry.logger(__name__)

_CANNOT_COUNT = (Loader.PXELINUX, Loader.LPXELINUX)


@dataclass(frozen=True, slots=True)
class Served:
    """What a machine hears if its run may be served; `final`: whatever the run says, because there is no script."""

    text: str
    final: bool = False


class Scripts(Part):
    """Looking, settling, and the words of it."""

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
            if (known := self._sans.recall(machine)) is not None:
                record, san = known
                reason = "active: boots its own volume"
                return Look(
                    machine,
                    record,
                    None,
                    text=volume_script(record, san, reason, machine.base, machine.loader),
                )
            # A loader that has not asked by its MAC yet does so next, and can be told to wait then.
            return Look(machine, None, None, found=not machine.goes_on or bool(machine.mac))
        look = weigh(machine, record)
        if record is None:
            return replace(look, stranger=self.strangers.is_news(machine.mac, Way.SCRIPT))
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
        if isinstance(look.answer, TargetBoot) and look.answer.target is BootTarget.ISCSI:
            assert look.record is not None
            return self._volume_script(look.record, look.answer.reason, machine)
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

    def _volume_script(self, record: ServerRecord, reason: str, machine: Machine) -> str:
        """Send a diskless machine to its volume; what cannot be found just now is waited for (promises I7)."""
        try:
            san = self._sans.of(record)
        except BaremetalError as error:
            log.warning("a volume could not be found", server=record.name, code=error.code, error=str(error))
            san = None
        if san is None:
            telemetry.BOOT_ANSWERS.labels(str(machine.loader), "wait").inc()
            return self._wait(machine)
        run = record.life.run
        note = f"sent to its volume {san.uri}: {reason}"
        self._seen(record, run.number if run is not None else None, "script", note, address=machine.address)
        telemetry.BOOT_ANSWERS.labels(str(machine.loader), "volume").inc()
        return volume_script(record, san, reason, machine.base, machine.loader)

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
        if isinstance(answer, TargetBoot) and answer.target is BootTarget.ISCSI:
            return Served(self._volume_script(record, answer.reason, look.machine))
        if not isinstance(answer, Install):
            return Served("")
        try:
            recipe = self._recipe(record.id, answer.run)
            manner = manner_of(record, look.machine.loader, look.machine.mac)
            san = self._sans.of(record) if recipe.volume else None
            told = self._kitchen.script(recipe, record.id, answer.run, look.machine.base, manner, san)
            return Served(told)
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
            if isinstance(look.answer, TargetBoot):
                return served.text
            # only once it is committed: what is kept is served again without a commit
            self._store.after_commit(partial(self._served, record.id, look.machine, now.number, served.text))
            return served.text
        if boots_volume(decision.server):
            # its run ended while it asked: from now on it hears of its volume and of nothing else (promises I7)
            record = replace_fields(record, life=decision.server)
            return self._volume_script(record, choose_answer(decision.server).reason, look.machine)
        telemetry.BOOT_ANSWERS.labels(str(look.machine.loader), "local").inc()
        return local_script(record, decision.note, look.machine.loader)

    def _served(self, server_id: str, machine: Machine, run: int, text: str) -> None:
        telemetry.BOOT_ANSWERS.labels(str(machine.loader), "install").inc()
        self._repeats.keep(server_id, machine, run, text, self._now())

    def _wait(self, machine: Machine) -> str:
        """Say that we cannot answer just now; at last, to a loader that cannot count, local boot."""
        asked = machine.asked
        if machine.loader in _CANNOT_COUNT and self._waits.is_enough(machine.key, self._now()):
            return local_script(None, "we could not answer for too long", machine.loader)
        return wait_text(machine.loader, machine.base, machine.key, own=asked is not None and asked.own)

    def meet(self, machine: Machine) -> None:
        """Remember a stranger. Best effort."""
        self.strangers.meet(
            machine.mac, Way.SCRIPT, uuid=machine.uuid, serial=machine.serial, arch=machine.arch
        )
