"""An operator's own power and boot device commands: one conversation, one write, one read-back.

They count in no flap guard and change no provision state. What a run or maintenance forbids is refused here, before a
packet is sent; the read-back is what is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from baremetal.drivers.base import BmcDriver, BootFlags, PowerTarget
from baremetal.engine.engine import Engine, Locate
from baremetal.engine.perform import Quirks, flags_agree, flags_in_words
from baremetal.errors import BmcError, BmcErrorKind, Invalid, LoginError, Refused, Superseded
from baremetal.lifecycle.actions import EnsureBootDevice
from baremetal.lifecycle.model import BootDevice, BootMode, PowerState, ProvisionState
from baremetal.service import views
from baremetal.service.servers.servers import find, system_runs
from baremetal.store.records import RunRecord, ServerRecord
from baremetal.store.store import Store

VERIFY_S = 8.0
SSH_S = 20.0
AskSystem = Callable[[str, int, Sequence[str], float, str], str]
"""Asks the system at an address and port, which shows one of these host keys, within seconds, for something."""
_BY_SSH = {"soft-off": "poweroff", "reset": "reboot"}
_WANTED = {PowerTarget.ON: PowerState.ON, PowerTarget.OFF: PowerState.OFF, PowerTarget.RESET: PowerState.ON}


class Power:
    """Talks to one server's BMC for an operator. Slow: callers give it a thread of their own."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        ask: AskSystem,
        locate: Locate,
        now: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._engine = engine
        self._ask = ask
        self._locate = locate
        self._now = now
        self._sleep = sleep

    def state(self, name: str) -> dict[str, Any]:
        """Read the power state now. Raises BmcError."""
        record = find(self._store, name)
        with ExitStack() as stack:
            power = self._engine.converse(record, stack).power()
        self._store.set_power(record.id, power, self._now())
        return {"name": record.life.name, "power_state": str(power)}

    def switch(self, name: str, target: str, by: str) -> dict[str, Any]:
        """Ask for a power state once and read back. Raises Refused, BmcError (NO_EFFECT where it did not take)."""
        if target not in tuple(PowerTarget):
            raise Invalid(
                f"no power target {target[:32]!r}", variable="target", fix=f"use {', '.join(PowerTarget)}"
            )
        wanted = PowerTarget(target)
        record = find(self._store, name)
        self._check_free(record, f"power {target}")
        # Recorded before the first byte is sent (promises I13).
        self._audit(record, f"power {target}", by)
        with ExitStack() as stack:
            bmc = self._engine.converse(record, stack)
            if wanted is PowerTarget.RESET and bmc.power() is PowerState.OFF:
                raise Refused(f"{record.life.name}: reset of a server that is off", fix="use power on")
            self._write(bmc, wanted, record)
            power = self._read_back(bmc, _WANTED.get(wanted))
        self._store.set_power(record.id, power, self._now())
        if wanted in _WANTED and power is not _WANTED[wanted]:
            raise BmcError(
                f"{record.life.name}: the BMC accepted power {target}, and {VERIFY_S:.0f} s later it is not so",
                BmcErrorKind.NO_EFFECT,
                code="BM112",
                seen=f"power {power}",
            )
        return {"name": record.life.name, "power_state": str(power)}

    def end_system(self, name: str, target: str, by: str) -> dict[str, Any]:
        """Have the deployed system shut down or restart by itself, in order: it is asked by SSH (S4-17).

        Answers once it has said that it will. Raises Refused, LoginError.
        """
        if target not in _BY_SSH:
            raise Invalid(
                f"no power target {target[:32]!r} by SSH", variable="target", fix=f"use {', '.join(_BY_SSH)}"
            )
        record = find(self._store, name)
        life, what = record.life, f"power {target} by SSH"
        self._check_free(record, what)
        runs = system_runs(self._store, record)
        if life.state is not ProvisionState.ACTIVE or not any(run.ssh_host_keys for run in runs):
            raise Refused(
                f"{what}: nothing that was deployed here runs on {life.name}", fix=f"power {target}"
            )
        self._audit(record, what, by)
        if self._answer(record, runs, _BY_SSH[target]) == _BY_SSH[target]:
            return {"name": life.name, "power_state": str(record.power_state)}
        raise Refused(
            f"{what}: its system does not do that",
            server=life.name,
            seen="it was deployed before it could, or by a template of your own without `proof_command`",
            fix=f"leave --ssh out: baremetal power {target} {life.name}",
        )

    def _answer(self, record: ServerRecord, runs: Sequence[RunRecord], what: str) -> str:
        """Ask whichever of its systems answers, each where it was and by its own host keys. Raises LoginError."""
        silent: LoginError | None = None
        for run in runs:
            there = self._locate(record, run)
            for address, port in there.addresses:
                try:
                    return self._ask(address, port, there.host_keys, SSH_S, what).strip()
                except LoginError as error:
                    silent = silent or error
        if silent is not None:
            raise silent
        raise Refused(
            f"{record.name}: no address is known", fix=f"baremetal set {record.name} --ip ADDRESS/PREFIX"
        )

    def boot_device(self, name: str) -> dict[str, Any]:
        """Read the boot override as the BMC stores it. Raises BmcError."""
        record = find(self._store, name)
        with ExitStack() as stack:
            return _flags(record, self._engine.converse(record, stack).boot_device())

    def set_boot_device(
        self, name: str, device: str, by: str, *, persistent: bool = False, force: bool = False
    ) -> dict[str, Any]:
        """Set the boot override and read it back. Persistent pxe would install for ever, so it needs force (I6)."""
        if device not in tuple(BootDevice):
            raise Invalid(
                f"no boot device {device[:32]!r}", variable="device", fix=f"use {', '.join(BootDevice)}"
            )
        wanted = BootDevice(device)
        record = find(self._store, name)
        if wanted is BootDevice.PXE and persistent and not force:
            raise Refused(
                f"{record.life.name}: persistent pxe makes the server netboot at every start",
                fix="leave --persistent out, or use --force",
            )
        self._check_free(record, f"boot device {device}")
        how = ", persistent" if persistent else ""
        self._audit(record, f"boot device {device}{how}", by)
        quirks = Quirks.parse(record.facts.quirks)
        efi = record.facts.boot_mode == BootMode.UEFI and quirks.efi == "auto"
        with ExitStack() as stack:
            bmc = self._engine.converse(record, stack)
            bmc.set_boot_device(wanted, persistent=persistent, efi=efi, permit=self._permit(record))
            flags = bmc.boot_device()
        if not flags_agree(flags, EnsureBootDevice(wanted, persistent), efi, quirks):
            raise BmcError(
                f"{record.life.name}: boot device {device} did not stick",
                BmcErrorKind.NO_EFFECT,
                seen=flags_in_words(flags),
                fix="see `baremetal set --quirk` for this firmware",
            )
        return _flags(record, flags)

    def _audit(self, record: ServerRecord, what: str, by: str) -> None:
        self._store.audit(self._now(), record.id, record.life.name, f"{what} by {by}", by=by)

    def _check_free(self, record: ServerRecord, what: str) -> None:
        life = record.life
        if life.maintenance:
            raise Refused(
                f"{what}: {life.name} is in maintenance, which is hands off",
                fix=f"baremetal maintenance off {life.name}",
            )
        if life.run is not None:
            raise Refused(
                f"{what}: run {life.run.number} ({life.run.verb}) is under way on {life.name}",
                allowed=tuple(views.allowed(record)),
                fix="wait for it, or abort it first",
            )

    def _permit(self, record: ServerRecord) -> Callable[[], None]:
        """Look again just before the write: a run or maintenance may have begun meanwhile."""

        def permit() -> None:
            now = self._store.server(record.id).life
            if now.run is not None or now.maintenance:
                raise Superseded(f"{now.name}: a run or maintenance began before the write was sent")

        return permit

    def _write(self, bmc: BmcDriver, wanted: PowerTarget, record: ServerRecord) -> None:
        try:
            bmc.set_power(wanted, self._permit(record))
        except BmcError as error:
            # 0xD5 "not in this state" is how some BMCs say that it is so already: the read-back decides.
            if error.kind is not BmcErrorKind.CONFLICT:
                raise

    def _read_back(self, bmc: BmcDriver, wanted: PowerState | None) -> PowerState:
        waited, pause = 0.0, 0.2
        power = bmc.power()
        while wanted is not None and power is not wanted and waited < VERIFY_S:
            self._sleep(pause)
            waited += pause
            pause = min(pause * 2, 2.0)
            power = bmc.power()
        return power


def _flags(record: ServerRecord, flags: BootFlags) -> dict[str, Any]:
    return {
        "name": record.life.name,
        "device": str(flags.device) if flags.device is not None else None,
        "valid": flags.valid,
        "persistent": flags.persistent,
        "efi": flags.efi,
    }
