"""What the engine's tests stand on: the real store, virtual time, and BMCs of ten lines with one character each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from baremetal.drivers.base import (
    BmcCredentials,
    BmcDriver,
    BmcInfo,
    BmcUrl,
    BootFlags,
    Permit,
    PowerTarget,
)
from baremetal.engine.conversations import BmcMemo, Conversations
from baremetal.engine.engine import Begin, Engine
from baremetal.engine.perform import LoginTarget, Performer
from baremetal.errors import BmcError, BmcErrorKind
from baremetal.lifecycle.decision import Decision
from baremetal.lifecycle.events import Asked, Fetched, Heard
from baremetal.lifecycle.model import (
    BootDevice,
    Fetch,
    Method,
    PowerState,
    Proof,
    ProvisionState,
    Server,
    Signal,
    Verb,
)
from baremetal.sim.clock import VirtualClock
from baremetal.store.records import Credentials, Facts, HistoryEntry, NewServer, RunRecord, ServerRecord
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store

PASSWORD = "correct horse"
NO_FLAGS = BootFlags(valid=False, device=BootDevice.NONE)


class ObedientBmc:
    """Does what it says. `writes` is what it was told, in order."""

    def __init__(self, clock: VirtualClock, *, on: bool = False) -> None:
        self.clock = clock
        self.on = on
        self.flags = NO_FLAGS
        self.writes: list[str] = []
        self.reads = 0
        self.logins = 0

    def check(self) -> BmcInfo:
        return BmcInfo(vendor="Obedient", firmware="1.0")

    def power(self) -> PowerState:
        self.reads += 1
        return PowerState.ON if self.on else PowerState.OFF

    def set_power(self, target: PowerTarget, permit: Permit) -> None:
        permit()
        self.writes.append(str(target))
        self.switch(target)

    def switch(self, target: PowerTarget) -> None:
        self.on = target is PowerTarget.ON

    def boot_device(self) -> BootFlags:
        return self.flags

    def set_boot_device(self, device: BootDevice, *, persistent: bool, efi: bool, permit: Permit) -> None:
        permit()
        self.writes.append(f"{device}{' for ever' if persistent else ''}{' efi' if efi else ''}")
        self.store(BootFlags(device is not BootDevice.NONE, device, persistent, efi))

    def store(self, flags: BootFlags) -> None:
        self.flags = flags

    def log_in(self, credentials: BmcCredentials) -> None:
        self.logins += 1
        if credentials.password != PASSWORD:
            raise BmcError("the BMC's password is another one", BmcErrorKind.AUTH)

    def close(self) -> None:
        pass


class LyingBmc(ObedientBmc):
    """Says yes to power commands, and does nothing, so many times."""

    lies = 1_000

    def switch(self, target: PowerTarget) -> None:
        if self.lies:
            self.lies -= 1
        else:
            super().switch(target)


class SlowBmc(ObedientBmc):
    """Takes `settle_s` to do what it accepted."""

    settle_s = 5.0

    def switch(self, target: PowerTarget) -> None:
        self.clock.later(self.settle_s, lambda: super(SlowBmc, self).switch(target))


class GrumpyBmc(ObedientBmc):
    """Switches late, and answers 0xD5 to whoever asks again for what it is about to be (aws/eks-anywhere#3568)."""

    def switch(self, target: PowerTarget) -> None:
        super().switch(target)
        raise BmcError("not in the present state", BmcErrorKind.CONFLICT)


class ForgetfulBmc(ObedientBmc):
    """Stores boot flags without their valid bit (ipmitool/ipmitool#304), so many times."""

    forgets = 1_000

    def store(self, flags: BootFlags) -> None:
        valid = flags.valid and not self.forgets
        self.forgets -= 1 if self.forgets else 0
        self.flags = BootFlags(valid, flags.device, flags.persistent, flags.efi)


class TwoStepBmc(ObedientBmc):
    """Takes a boot device in two writes, as IPMI does: how long flags last, then the flags."""

    def set_boot_device(self, device: BootDevice, *, persistent: bool, efi: bool, permit: Permit) -> None:
        permit()
        self.writes.append("keep flags")
        super().set_boot_device(device, persistent=persistent, efi=efi, permit=permit)


class PausingBmc(TwoStepBmc):
    """Something happens between the two."""

    def __init__(self, clock: VirtualClock, between: Callable[[], object]) -> None:
        super().__init__(clock)
        self._between = between

    def set_boot_device(self, device: BootDevice, *, persistent: bool, efi: bool, permit: Permit) -> None:
        def asked() -> None:
            if self.writes == ["keep flags"]:
                self._between()
            permit()

        super().set_boot_device(device, persistent=persistent, efi=efi, permit=asked)


class MumblingBmc(ObedientBmc):
    """Marks its boot flags invalid, whatever they are (OpenIPMI's ipmi_sim)."""

    def store(self, flags: BootFlags) -> None:
        self.flags = BootFlags(None, None)


class SimpleBmc(ObedientBmc):
    """Drops the EFI bit (metal-stack/metal-core#19)."""

    def store(self, flags: BootFlags) -> None:
        self.flags = BootFlags(flags.valid, flags.device, flags.persistent, efi=False)


class DeafBmc(ObedientBmc):
    """Hears nothing."""

    def log_in(self, credentials: BmcCredentials) -> None:
        self.logins += 1
        raise BmcError("the BMC does not answer", BmcErrorKind.UNREACHABLE)


@dataclass
class Notebook:
    """A memory that keeps what it is given."""

    pages: dict[str, BmcMemo] = field(default_factory=dict)

    def load(self, identity: str) -> BmcMemo | None:
        return self.pages.get(identity)

    def save(self, identity: str, memo: BmcMemo) -> None:
        self.pages[identity] = memo


class Rig:
    """One engine on one database, and the BMCs it may talk to."""

    def __init__(self, store: Store, executor: Executor | None = None) -> None:
        self.store = store
        self.clock = VirtualClock()
        self.bmcs: dict[str, ObedientBmc] = {}
        self.notebook = Notebook()
        self.prints = ""
        """What an SSH login prints; "" means the run that is expected."""
        self.heard: list[HistoryEntry] = []
        self.restart(executor)

    def restart(self, executor: Executor | None = None) -> None:
        """Build everything anew, as a new process would, on what is stored."""
        self.conversations = Conversations(
            self._open,
            self.notebook,
            secret=b"s" * 32,
            clock=self.clock.monotonic,
            now=self.now,
            sleep=self.clock.pass_time,
        )
        self.performer = Performer(self.clock.pass_time, self._login)
        self.engine = Engine(self.store, self.conversations, self.performer, self._locate, self.now, executor)
        self.engine.recover()
        self.engine.listen(self.heard.append)

    def now(self) -> datetime:
        return self.clock.utc()

    def enrol(
        self,
        bmc: ObedientBmc | None = None,
        state: ProvisionState = ProvisionState.AVAILABLE,
        password: str = PASSWORD,
        **facts: Any,
    ) -> str:
        """Enrol one more server behind `bmc` and return its id."""
        name = f"r{len(self.bmcs) + 1}"
        self.bmcs[name] = bmc or ObedientBmc(self.clock)
        mac = f"02:00:00:00:00:{len(self.bmcs):02x}"
        known = Facts(f"ipmi://admin@{name}", f"ipmi://{name}:623", (mac,), **facts)
        new = NewServer(Server(name, state=state), known, Credentials("admin", password))
        return self.store.add_servers([new], self.now())[0].id

    def bmc(self, server_id: str) -> ObedientBmc:
        return self.bmcs[self.life(server_id).name]

    def life(self, server_id: str) -> Server:
        return self.store.server(server_id).life

    def step(self, server_id: str) -> int:
        run = self.life(server_id).run
        assert run is not None
        return run.step

    def ask(self, server_id: str, verb: Verb = Verb.DEPLOY, **settings: Any) -> Decision:
        if verb in (Verb.DEPLOY, Verb.REBUILD):
            settings = {"method": Method.INSTALLER, "proof": Proof.NONE, **settings}
        return self.engine.submit(server_id, Asked(verb, **settings), begin=Begin("tiny", {"some": "text"}))

    def install(self, server_id: str) -> None:
        """Be the machine: netboot, ask for go, install, call back."""
        run = self.life(server_id).runs
        self.engine.submit(server_id, Fetched(Fetch.SCRIPT, "10.0.0.5"))
        self.engine.submit(server_id, Heard(Signal.INSTALL_STARTED, run, "b1", "10.0.0.5", "vda"))
        keys = {"ssh_host_keys": ["ssh-ed25519 AAAA"], "addresses": ["10.0.0.5"]}
        self.engine.submit(server_id, Heard(Signal.INSTALL_COMPLETE, run, "b1"), facts=keys)

    def sweep_for(self, seconds: float) -> None:
        """Let the sweep tick once a second."""
        for _ in range(int(seconds)):
            self.engine.sweep()
            self.clock.pass_time(1.0)

    def notes(self, server_id: str) -> list[str]:
        return [entry.note for entry in self.store.history(server_id)]

    def _open(self, url: BmcUrl, credentials: BmcCredentials) -> BmcDriver:
        bmc = self.bmcs[url.host]
        bmc.log_in(credentials)
        return bmc

    def _locate(self, record: ServerRecord, run: RunRecord) -> LoginTarget:
        places = tuple((address, 22) for address in run.addresses)
        return LoginTarget(places, run.ssh_host_keys, f"{record.id}/{run.number}")

    def _login(self, address: str, port: int, host_keys: Sequence[str], deadline_s: float) -> str:
        (server,) = self.store.servers()
        return self.prints or f"{server.id}/{server.life.runs}\n"


@contextmanager
def rig_on(url: str = "sqlite://", executor: Executor | None = None) -> Iterator[Rig]:
    store = Store.open(url, Secrets.ephemeral())
    try:
        yield Rig(store, executor)
    finally:
        store.close()
