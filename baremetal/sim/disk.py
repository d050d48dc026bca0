"""A simulated disk that remembers what was done to it: the judge of whether an install happened twice."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Write:
    """One line of the disk's own log. `run` is `<server id>/<run number>`.

    `what`: partitioning, installed, wiping, wiped; settled: a clone's first boot made it a system of its own.
    """

    at: float
    what: str
    run: str
    boot_id: str


@dataclass(slots=True)
class SimulatedDisk:
    """`system` is the run whose complete system stands on it, or "" for none; `callback` where it is to call home.

    `instance`: which seed a clone has read.
    """

    name: str = "vda"
    serial: str = "SIM0001"
    size: int = 64 << 30
    system: str = ""
    callback: str = ""
    instance: str = ""
    log: list[Write] = field(default_factory=list)

    def partition(self, at: float, run: str, boot_id: str) -> None:
        self.system = self.callback = ""
        self.log.append(Write(at, "partitioning", run, boot_id))

    def install(self, at: float, run: str, boot_id: str, callback: str) -> None:
        self.system, self.callback = run, callback
        self.log.append(Write(at, "installed", run, boot_id))

    def settle(self, at: float, instance: str, run: str, callback: str) -> None:
        self.system, self.callback, self.instance = run, callback, instance
        self.log.append(Write(at, "settled", run, ""))

    def wipe(self, at: float, run: str, boot_id: str) -> None:
        self.system = self.callback = ""
        self.log.append(Write(at, "wiping", run, boot_id))

    def finish_wipe(self, at: float, run: str, boot_id: str) -> None:
        self.log.append(Write(at, "wiped", run, boot_id))

    def report(self) -> dict[str, object]:
        """Describe the disk the way an installer's pre stage does."""
        return {"name": self.name, "serial": self.serial, "wwn": "", "size": self.size, "rotational": False}
