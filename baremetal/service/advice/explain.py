"""Why a machine boots what it boots: its answer on every path, in lookup order, and what a stalled run waits for.

Computed by the same functions that answer the machine, so that the two cannot disagree. Reads only; tokens are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from baremetal.errors import BaremetalError, Invalid, Unknown
from baremetal.lifecycle.model import BootTarget, Run, Server
from baremetal.lifecycle.moves import current_step, owed
from baremetal.lifecycle.windows import errand
from baremetal.lifecycle.workflows import Await, Do
from baremetal.netboot.answer import BootAnswer, Install, TargetBoot, choose_answer
from baremetal.netboot.lookup import Loader
from baremetal.netboot.scripts import boot_script
from baremetal.netboot.variables import normal_mac
from baremetal.service.advice.paths import Guide, ways
from baremetal.service.advice.segments import Segments
from baremetal.service.boot.machine import machine_uuid
from baremetal.service.boot.sans import Sans
from baremetal.service.deploys.errands import PROFILES
from baremetal.service.media.loaders import Loaders
from baremetal.service.recipe import Kitchen
from baremetal.service.servers.manner import local_script, manner_of, volume_script
from baremetal.service.servers.servers import find
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

_STAYS_ON = ("the BMC accepts power off and does not do it", "somebody else holds the server's power on")
_STAYS_OFF = ("the BMC accepts power on and does not do it", "a fuse or power supply")
_CAUSES = {
    "volume": (
        "the storage host does not answer, or is full: look with `baremetal storage show NAME`",
        "a copy of a large golden image takes long where the storage host makes no snapshots",
    ),
    "check": (
        "the BMC's address is wrong or its network is down: try `baremetal power status NAME`",
        "IPMI over LAN is switched off in the BMC's settings",
    ),
    "off": _STAYS_ON,
    "still off": _STAYS_ON,
    "end": _STAYS_ON,
    "pxe": ("the firmware wants another EFI bit: see `baremetal set --quirk efi=never`",),
    "on": _STAYS_OFF,
    "boot": _STAYS_OFF,
    "script": (
        "no DHCP answer on the boot NIC's segment, or one that names another boot server",
        "the server boots from another NIC: its first MAC here must be the one that netboots",
        "the firmware ignores the one-time boot device: look at its boot order",
        "the machine is still in its self-test: raise boot_s for its profile",
    ),
    "started": (
        "kernel or initrd did not load: look for them on the timeline",
        "the installer has no driver for the NIC, or no DHCP answer",
        "the answer file was not fetched: is the boot app's public URL reachable from there?",
    ),
    "complete": (
        "the installer stopped at a question or an error: look at its console, and at `baremetal logs NAME`",
        "the mirror is slow or unreachable",
    ),
    "flip": ("the BMC does not keep the boot device: see `baremetal set --quirk flip=none`",),
    "first boot": (
        "the machine booted something else than its disk: look at the firmware's boot order",
        "the installed system has no network: compare its address with the answer file",
    ),
    "proof": (
        "SSH is not reachable at the address that the system reported: set one with `baremetal set NAME --ip`",
        "a firewall on the installed system",
    ),
}


# In a RAM system nothing asks a question, and there is no mirror.
_RAM_CAUSES = {
    "started": (
        "kernel or initrd did not load: look for them on the timeline",
        "the RAM system has no driver for the NIC, or no DHCP answer: look at its console",
        "its script was not fetched: is the boot app's public URL reachable from there?",
    ),
    "complete": (
        "look at the machine's console: a disk that is dying answers slowly",
        "large disks take long to overwrite: raise wipe_s for the profile",
    ),
}


class Explain:
    """Explains one server, or a MAC."""

    def __init__(
        self,
        store: Store,
        kitchen: Kitchen,
        loaders: Loaders,
        segments: Segments,
        sans: Sans,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._loaders = loaders
        self._segments = segments
        self._sans = sans
        self._store = store
        self._kitchen = kitchen
        self._now = now

    def explain(self, subject: str) -> dict[str, Any]:
        """Say what a server (by name, id or MAC) would be told now, and why. A stranger's MAC is explained too."""
        record, mac = self._find(subject)
        answer = choose_answer(record.life if record is not None else None)
        facts = record.facts if record is not None else None
        address, uuid, arch = (facts.ip, facts.uuid, facts.arch) if facts is not None else ("", "", "x86_64")
        uuid = machine_uuid(uuid)
        base = self._segments.base(address)
        guide = Guide(self._loaders, base)
        scripts: dict[Loader, str] = {}
        paths = []
        for way in ways(mac, address, uuid, arch):
            if way.loader not in scripts:
                scripts[way.loader] = self._script(record, answer, way.loader)
            paths.append(
                {
                    "loader": way.title,
                    "note": way.note,
                    "first": boot_script(base) if way.loader is Loader.IPXE else None,
                    "lookups": list(guide.walk(way, record, mac)),
                    "script": scripts[way.loader],
                }
            )
        told: dict[str, Any] = {
            "subject": subject,
            "server": record.life.name if record is not None else None,
            "mac": mac,
            "state": str(record.life.state) if record is not None else None,
            "answer": {"kind": _kind(answer), "reason": answer.reason},
            "dhcp": self._segments.told(address),
            "paths": paths,
            "run": self._run(record.life) if record is not None and record.life.run is not None else None,
        }
        told["text"] = _text(told)
        return told

    def _find(self, subject: str) -> tuple[ServerRecord | None, str]:
        try:
            mac = normal_mac(subject)
        except Invalid:
            mac = ""
        try:
            record = find(self._store, subject)
        except Unknown:
            if not mac:
                raise
            return None, mac
        return record, mac if mac in record.facts.macs else record.facts.macs[0]

    def _script(self, record: ServerRecord | None, answer: BootAnswer, loader: Loader) -> str:
        if record is not None and isinstance(answer, Install):
            try:
                manner = manner_of(record, loader)
                base = self._segments.base(record.facts.ip)
                recipe = self._kitchen.recipe(self._store, record.id, answer.run)
                san = self._sans.of(record) if recipe.volume else None
                return self._kitchen.preview(recipe, answer.run, base, manner, san)[0]["text"]
            except BaremetalError as error:
                return local_script(record, f"boot script could not be rendered: {error}", loader)
        if record is not None and isinstance(answer, TargetBoot) and answer.target is BootTarget.ISCSI:
            base = self._segments.base(record.facts.ip)
            try:
                san = self._sans.of(record)
            except BaremetalError as error:
                return local_script(record, f"its volume could not be found: {error}", loader)
            if san is not None:
                return volume_script(record, san.masked(), answer.reason, base, loader)
        return local_script(record, answer.reason, loader)

    def _run(self, life: Server) -> dict[str, Any]:
        """Say where the run stands: the last sign of life, what should come next, and what may keep it."""
        run, step = life.run, current_step(life)
        assert run is not None
        assert step is not None
        now = self._now()
        left = (run.deadline - now).total_seconds() if run.deadline is not None else None
        ram = errand(run) in PROFILES
        causes = list((_RAM_CAUSES.get(step.name) if ram else None) or _CAUSES.get(step.name, ()))
        if run.trouble:
            causes.insert(0, run.trouble)
        if life.maintenance:
            causes.insert(0, "the server is in maintenance: nothing is written and the clock stands still")
        return {
            "number": run.number,
            "verb": str(run.verb),
            "step": step.name,
            "attempt": run.attempt,
            "last_sign": run.last_sign,
            "since_s": (now - run.entered).total_seconds(),
            "deadline": run.deadline,
            "left_s": left,
            "next": _next(life, run, step),
            "causes": causes,
        }


def _next(life: Server, run: Run, step: Do | Await) -> str:
    if run.closing:
        return f"power off, because: {run.closing}"
    if isinstance(step, Do):
        action = owed(life) or step.action
        return f"{action}, read back" if action is not None else "the boot device, read back"
    if step.signal is None:
        return "the machine fetches its boot script"
    return f"the machine reports {step.signal}"


def _kind(answer: BootAnswer) -> str:
    if isinstance(answer, Install):
        return "install"
    return str(answer.target) if isinstance(answer, TargetBoot) else "local"


def _text(told: dict[str, Any]) -> str:
    who = told["server"] or f"{told['mac']} (nobody's)"
    lines = [f"{who}: {told['answer']['reason']}"]
    if told["state"]:
        lines[0] = f"{who} ({told['state']}): {told['answer']['reason']}"
    for segment in told["dhcp"]:
        lines.append(f"by DHCP on {segment['network']}, {segment['who']}:")
        lines += [f"  {client}: {words}" for client, words in segment["lines"]]
    for path in told["paths"]:
        lines.append(f"by {path['loader']}, in this order:")
        lines += [f"  {entry['url']}: {entry['answer']}" for entry in path["lookups"] if entry["asked"]]
        if path["note"]:
            lines.append(f"  ({path['note']})")
    run = told["run"]
    if run is not None:
        left = "" if run["left_s"] is None else f", {max(0.0, run['left_s']):.0f} s left"
        lines.append(f"run {run['number']} ({run['verb']}) stands at {run['step']!r}{left}")
        lines.append(f"  last sign of life: {run['last_sign'] or 'none'}")
        lines.append(f"  comes next: {run['next']}")
        lines += [f"  if it does not: {cause}" for cause in run["causes"]]
    return "\n".join(lines)
