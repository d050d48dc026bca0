"""A simulated server behind a BMC: firmware that netboots or boots its disk, an installer, an installed system.

What it does in a RAM system (wipe, inspect, rescue) is in `errands.py`, what it does with a volume in `diskless.py`.

It believes what real ones believe: the boot script and the answer file it is served, word for word (the same rendered
text that goes to hardware), and the replies to its call-backs. It knows nothing of runs or states. What it did to its
disk stands in the disk's own log.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass

from baremetal.lifecycle.model import BootDevice
from baremetal.sim.chassis import OWN_ORDER, BootOrder
from baremetal.sim.clock import VirtualClock
from baremetal.sim.disk import SimulatedDisk
from baremetal.sim.diskless import Attached, Fabric, attach, read_ticket, settle
from baremetal.sim.errands import carry_out, errand_of
from baremetal.sim.network import Network, NoAnswer, Reply

Life = Generator[float, None, None]

_ANSWER = re.compile(r"https?://[^\s'\"]+/answer/[A-Za-z0-9_-]+/[\w.-]+")
_CALLBACK = re.compile(r"https?://[^\s'\"]+/callback/[A-Za-z0-9_-]+")
_RUN = re.compile(r"[0-9a-f]{32}/[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineKnobs:
    """How a simulated machine misbehaves. Chances are per boot (of the firmware, or of the installer)."""

    no_ssh: float = 0.0
    """The installed system's sshd does not come up."""
    wrong_nic: float = 0.0
    """The firmware netboots from a NIC that nobody enrolled."""
    slow_installer: float = 0.0
    """The installer takes longer than its budget."""
    hang: float = 0.0
    """The installer stops for ever after go."""
    panic: float = 0.0
    """The kernel dies before the installer asks for go."""
    self_reboot: float = 0.0
    """The machine reboots by itself after go, before it is complete."""
    fails: float = 0.0
    """The installer reports a failure and stops."""
    silent: float = 0.0
    """The installer finishes and its network is gone: no complete, no first boot."""
    late_post: float = 0.0
    """POST takes longer than the boot budget."""


SOUND = MachineKnobs()


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the phases take, in seconds."""

    post_s: float = 20.0
    kernel_s: float = 4.0
    install_s: float = 60.0
    boot_s: float = 15.0
    wipe_s: float = 120.0
    slow_s: float = 20_000.0
    late_s: float = 4_000.0


class SimulatedMachine:
    """One machine; the `Chassis` of its BMC. `firmware` says what the BMC's boot flags want when it restarts itself."""

    def __init__(
        self,
        name: str,
        macs: tuple[str, ...],
        clock: VirtualClock,
        network: Network,
        boot_url: str,
        rng: random.Random,
        *,
        timing: Timing | None = None,
    ) -> None:
        self.name = name
        self.macs = macs
        self.knobs = SOUND
        self.pxe_first = False
        self.firmware: Callable[[], BootOrder] = lambda: OWN_ORDER
        self.disk = SimulatedDisk()
        self.fabric: Fabric | None = None
        self.root: SimulatedDisk | None = None
        """The disk or volume of the system that is up, None while none is."""
        self.fired: Counter[str] = Counter()
        self.errands: list[tuple[str, str]] = []
        """What it did in a RAM system that touched no disk, and for which run."""
        self.running = ""
        """The run whose system is up, or "" while none is."""
        self.ssh_up = False
        self.stage = "off"
        self.key_of: Callable[[str], str] = _key
        """The SSH host key of a run's system, as a public key line."""
        self._clock = clock
        self._network = network
        self._boot_url = boot_url.rstrip("/")
        self._rng = rng
        self.timing = timing or Timing()
        self._on = False
        self._lives = 0

    # -- what the BMC's buttons do --

    @property
    def is_on(self) -> bool:
        return self._on

    def power_on(self, boot: BootOrder) -> None:
        self._on = True
        self._start(self._boot(boot))

    def power_off(self) -> None:
        self._on = False
        self._halt("off")

    def soft_off(self) -> None:
        if self.running:
            self.power_off()

    def reset(self, boot: BootOrder) -> None:
        self.power_on(boot)

    # -- time --

    def _start(self, life: Life) -> None:
        self._halt("post")
        self._go_on(life, self._lives)

    def _halt(self, stage: str) -> None:
        self._lives += 1
        self._down(stage)

    def _down(self, stage: str) -> None:
        self.running, self.root, self.ssh_up, self.stage = "", None, False, stage

    def _go_on(self, life: Life, number: int) -> None:
        if number != self._lives:
            return
        pause = next(life, None)
        if pause is not None:
            self._clock.later(pause, lambda: self._go_on(life, number))

    def chance(self, knob: str) -> bool:
        """Draw whether a knob has its effect now."""
        odds: float = getattr(self.knobs, knob)
        if odds and self._rng.random() < odds:
            self.fired[knob] += 1
            return True
        return False

    # -- firmware --

    def _boot(self, order: BootOrder) -> Life:
        late = self.timing.late_s if self.chance("late_post") else 0.0
        yield self.timing.post_s * self._rng.uniform(0.8, 1.2) + late
        own = BootDevice.PXE if self.pxe_first else BootDevice.DISK
        device = own if order.device in (BootDevice.NONE, BootDevice.BIOS, BootDevice.CDROM) else order.device
        if (device is BootDevice.PXE or not self.disk.system) and (yield from self._netboot()):
            return
        if self.disk.system:
            yield from self._system(Attached(self.disk))
            return
        self.stage = "nothing to boot"

    def restart(self) -> Life:
        """What a reboot from inside does: the same machine, its firmware once more."""
        self._down("post")
        yield from self._boot(self.firmware())

    def _netboot(self) -> Generator[float, None, bool]:
        """Do what the boot script says; false where it leaves the machine to its own disk."""
        while True:
            self.stage = "netboot"
            script = yield from self._fetch_script()
            answer, ticket = _ANSWER.search(script), read_ticket(script)
            volume = (yield from attach(self, ticket)) if ticket is not None else None
            if ticket is not None and volume is None:
                if ticket.boots:
                    continue
                return False
            if answer is not None:
                yield from self._installer(answer.group(), volume)
                return True
            if volume is not None:
                yield from self._system(volume)
            return volume is not None

    def _fetch_script(self) -> Generator[float, None, str]:
        mac = "02:00:00:ff:ff:ff" if self.chance("wrong_nic") else self.macs[0]
        for _ in range(10):
            reply = yield from self._ask(f"{self._boot_url}/ipxe?mac={mac}")
            if reply is not None and reply.status == 200 and not _is_wait(reply.body):
                return reply.body
            yield 5.0
        return ""

    def _ask(self, url: str, fields: dict[str, object] | None = None) -> Generator[float, None, Reply | None]:
        try:
            return self._network.get(url) if fields is None else self._network.post(url, fields)
        except NoAnswer:
            yield 3.0
            return None

    # -- installer --

    def _installer(self, answer_url: str, volume: Attached | None) -> Life:
        self.stage = "installer"
        yield self.timing.kernel_s
        if self.chance("panic"):
            self.stage = "panic"
            return
        answer = ""
        for _ in range(5):
            reply = yield from self._ask(answer_url)
            if reply is not None and reply.status == 404:
                self.stage = "installer stopped: no answer file"
                return
            if reply is not None and reply.status == 200:
                answer = reply.body
                break
            yield 2.0
        callback, run = _CALLBACK.search(answer), _RUN.search(answer)
        if callback is None or run is None:
            self.stage = "installer stopped: no call-back in its answer file"
            return
        if errand := errand_of(answer):
            yield from carry_out(self, errand, callback.group(), run.group())
        else:
            yield from self._with_answer(callback.group(), run.group(), volume.disk if volume else None)

    def _with_answer(self, callback: str, run: str, lun: SimulatedDisk | None) -> Life:
        disk = lun or self.disk
        hello = {**self.introduce(lun), "disk": disk.name}
        boot_id = str(hello["boot_id"])
        if not (yield from self.ask_go(f"{callback}/install-started", hello)):
            self.power_off()
            return
        disk.partition(self._clock.monotonic(), run, boot_id)
        self.stage = "installing"
        if self.chance("hang"):
            self.stage = "installer hangs"
            return
        yield self.timing.install_s / 2
        if self.chance("self_reboot"):
            yield from self.restart()
            return
        if self.chance("fails"):
            yield from self.tell(
                callback, "install-failed", {"stage": "packages", "message": "no space left"}
            )
            self.stage = "installer stopped: failed"
            return
        yield from self.tell(callback, "progress", {"stage": "packages", "percent": 50}, tries=1)
        slow = self.chance("slow_installer")
        yield self.timing.slow_s if slow else self.timing.install_s / 2
        silent = self.chance("silent")
        disk.install(self._clock.monotonic(), run, boot_id, "" if silent else callback)
        if not silent:
            yield from self.tell(
                callback, "install-complete", {"boot_id": boot_id, "ssh_host_keys": [self.key_of(run)]}
            )
        yield from self.restart()

    def at(self) -> float:
        """Return the time for a line of the disk's log."""
        return self._clock.monotonic()

    def introduce(self, lun: SimulatedDisk | None = None) -> dict[str, object]:
        """Say who this machine is, as the first call-back of a boot does."""
        boot_id = f"{self._rng.getrandbits(64):016x}"
        disks = [self.disk.report(), *([lun.report()] if lun is not None else [])]
        return {"boot_id": boot_id, "macs": list(self.macs), "disks": disks}

    def ask_go(self, url: str, hello: dict[str, object]) -> Generator[float, None, bool]:
        """Ask for go until there is an answer, within a bound; false for no."""
        for _ in range(60):
            reply = yield from self._ask(url, hello)
            if reply is not None and reply.status == 200:
                return True
            if reply is not None and reply.status in (404, 409):
                return False
            yield 10.0
        return False

    def tell(self, callback: str, signal: str, fields: dict[str, object], tries: int = 30) -> Life:
        """Call back until there is a final answer, within a bound."""
        for _ in range(tries):
            reply = yield from self._ask(f"{callback}/{signal}", fields)
            if reply is not None and reply.status in (200, 404, 409):
                return
            yield 10.0

    # -- installed system --

    def _system(self, volume: Attached) -> Life:
        self.stage = "booting its volume" if volume.disk is not self.disk else "booting its disk"
        yield self.timing.boot_s
        disk = volume.disk
        if not disk.system or not (yield from settle(self, volume)):
            return
        self.running, self.root = disk.system, disk
        self.stage = "up"
        self.ssh_up = not self.chance("no_ssh")
        if disk.callback:
            callback, disk.callback = disk.callback, ""
            news: dict[str, object] = {"boot_id": f"{self._rng.getrandbits(64):016x}"}
            if disk.instance:  # a clone: nobody else could report the keys that it made
                news |= {"run": disk.system, "ssh_host_keys": [self.key_of(disk.system)]}
            yield from self.tell(callback, "first-boot", news)

    def login(self) -> str:
        """Answer an SSH login with what the forced command prints. Raises NoAnswer while no sshd is up."""
        if not self.ssh_up:
            raise NoAnswer(f"{self.name}: no sshd")
        return self.running

    def host_key(self) -> str:
        return self.key_of(self.running)


def _key(run: str) -> str:
    return f"ssh-ed25519 {run.encode().hex()}"


def _is_wait(script: str) -> bool:
    """Whether a script only counts its waits and asks again: what is served while the database is away."""
    return "bm-waits" in script
