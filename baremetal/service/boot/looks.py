"""What a boot request leads to, found by reading only: whose machine it is, and what that server is told.

Deliberately unknown: what serving it means for a run, and how it is worded.
"""

from __future__ import annotations

from dataclasses import dataclass

from baremetal.lifecycle.model import BootTarget, Run
from baremetal.lifecycle.windows import is_writing
from baremetal.netboot.answer import BootAnswer, Install, TargetBoot, choose_answer
from baremetal.netboot.lookup import By, swap_uuid
from baremetal.service.boot.machine import Machine
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store


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
    volume = isinstance(answer, TargetBoot) and answer.target is BootTarget.ISCSI
    # the first script of a clone's run is the evidence that its machine netboots
    commits = (
        isinstance(answer, Install) or _writing(record.life.run) or (volume and record.life.run is not None)
    )
    if (commits or volume) and machine.asked is not None and machine.asked.by is By.ADDRESS:
        # A lease proves nothing: whoever has another machine's address starts no installer, ends none, has no volume.
        return Look(machine, record, answer, found=False)
    return Look(machine, record, answer, commits=commits)


def _writing(run: Run | None) -> bool:
    """Whether a request for a boot script now means that the machine rebooted while it wrote to its disks."""
    return run is not None and is_writing(run)
