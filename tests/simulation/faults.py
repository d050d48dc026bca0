"""What goes wrong in one simulated life: drawn from the seed, so that a seed replays identically."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from baremetal.sim.knobs import EfiPolicy, Knobs
from baremetal.sim.machine import MachineKnobs


@dataclass(frozen=True, slots=True)
class OwnFaults:
    """Faults of our own side, as chances per opportunity.

    `kill`: the process dies before or after a commit, a BMC command or a reply. `db_fault`: a statement fails, half of
    the times after it took effect. `miss_tick`: sweeps stall for up to an hour. `clock`: the wall clock jumps.
    `race`: somebody else gets in between the reading of a server and the commit.
    `lost`, `lost_reply`, `doubled`, `late`: what happens to a machine's requests on their way.
    """

    kill: float = 0.0
    db_fault: float = 0.0
    miss_tick: float = 0.0
    clock: float = 0.0
    race: float = 0.0
    lost: float = 0.0
    lost_reply: float = 0.0
    doubled: float = 0.0
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class StorageFaults:
    """Faults of a storage host, as chances per line of the dialogue with it.

    `ssh_cut`: the connection is cut before or after a line took effect. `ssh_hang`: nothing is heard of a line, which
    may have taken effect, until its deadline passes. `full`: there is no room. `slow_copy`: a clone takes longer than a
    reservation. `forgets`: the host restarts and has lost its targets. `clash` is per life: somebody else's volumes
    have the names of ours.
    """

    ssh_cut: float = 0.0
    ssh_hang: float = 0.0
    full: float = 0.0
    slow_copy: float = 0.0
    forgets: float = 0.0
    clash: float = 0.0


@dataclass(slots=True)
class Plan:
    """The faults of one life and how long they last; `fired` counts each knob's effects.

    `storage`: those of the storage host, in a life of a server that boots from it; None for a server with a disk.
    """

    bmc: Knobs
    machine: MachineKnobs
    own: OwnFaults
    until_s: float
    storage: StorageFaults | None = None
    fired: Counter[str] = field(default_factory=Counter)


# Such a life costs twice what another does.
DISKLESS = 1 / 20


def draw(rng: random.Random, diskless: float = DISKLESS) -> Plan:
    """Draw a plan: one life in eight is undisturbed, most have two to four kinds of trouble at once.

    `diskless`: the share of lives of servers that boot from a storage host.
    """
    bmc: dict[str, object] = {}
    machine: dict[str, float] = {}
    own: dict[str, float] = {}
    disturbed = rng.random() > 0.125
    if disturbed:
        for name in rng.sample(sorted(_BMC), rng.randint(0, 3)):
            bmc[name] = _BMC[name](rng)
        for name in rng.sample(_MACHINE, rng.randint(0, 2)):
            machine[name] = rng.choice((0.2, 0.5))
        for name in rng.sample(sorted(_OWN), rng.randint(0, 3)):
            own[name] = _OWN[name](rng)
    if "crash_after" in bmc:
        bmc["reboot_s"] = 20.0
    until_s = rng.uniform(600.0, 7200.0)
    storage = _draw_storage(rng, disturbed) if rng.random() < diskless else None
    return Plan(Knobs(**bmc), MachineKnobs(**machine), OwnFaults(**own), until_s, storage)  # type: ignore[arg-type]


def _draw_storage(rng: random.Random, disturbed: bool) -> StorageFaults:
    names = rng.sample(sorted(_STORAGE), rng.randint(0, 3)) if disturbed else ()
    return StorageFaults(**{name: rng.choice(_STORAGE[name]) for name in names})


_BMC: dict[str, Callable[[random.Random], object]] = {
    "max_sessions": lambda rng: rng.randint(1, 2),
    "idle_reap_s": lambda rng: rng.choice((5.0, 300.0)),
    "suites": lambda rng: rng.choice(((3,), (17,))),
    "lockout_after": lambda rng: 3,
    "freeze": lambda rng: rng.choice((0.02, 0.1)),
    "reboot": lambda rng: rng.choice((0.02, 0.1)),
    "crash_after": lambda rng: rng.randint(6, 20),
    "lie_power": lambda rng: rng.choice((0.2, 0.5)),
    "settle_s": lambda rng: rng.uniform(0.5, 12.0),
    "strict_state": lambda rng: True,
    "busy": lambda rng: 0.1,
    "boot_expiry_s": lambda rng: rng.choice((5.0, 20.0)),
    "ignore_parameter_3": lambda rng: True,
    "refuse_parameter_3": lambda rng: True,
    "stale_flags": lambda rng: 0.3,
    "efi_policy": lambda rng: rng.choice(tuple(EfiPolicy)),
    "ignore_persist": lambda rng: True,
    "ignore_boot": lambda rng: rng.choice((0.3, 0.7)),
    "pxe_first": lambda rng: True,
    "loss": lambda rng: rng.choice((0.1, 0.2, 0.5)),
    "dup": lambda rng: 0.2,
    "reorder": lambda rng: 0.1,
    "delay": lambda rng: rng.uniform(0.1, 3.0),
    "malformed": lambda rng: 0.05,
}
_MACHINE = (
    "no_ssh",
    "wrong_nic",
    "slow_installer",
    "hang",
    "panic",
    "self_reboot",
    "fails",
    "silent",
    "late_post",
)
_OWN: dict[str, Callable[[random.Random], float]] = {
    "kill": lambda rng: rng.choice((0.02, 0.08)),
    "db_fault": lambda rng: rng.choice((0.02, 0.1)),
    "miss_tick": lambda rng: 0.05,
    "clock": lambda rng: 0.03,
    "race": lambda rng: 0.2,
    "lost": lambda rng: rng.choice((0.1, 0.4)),
    "lost_reply": lambda rng: rng.choice((0.1, 0.4)),
    "doubled": lambda rng: 0.3,
    "late": lambda rng: 0.2,
}
_STORAGE: dict[str, tuple[float, ...]] = {
    "ssh_cut": (0.02, 0.1),
    "ssh_hang": (0.02, 0.05),
    "full": (0.3, 0.6),
    "slow_copy": (0.5, 1.0),
    "forgets": (0.01, 0.03),
    "clash": (1.0,),
}
KNOBS = tuple(sorted({*(name.removesuffix("_s") for name in _BMC), *_MACHINE, *_OWN, *_STORAGE}))
