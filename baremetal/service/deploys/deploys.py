"""Asking verbs of servers, and saying beforehand what a deploy would do.

Owns the pre-flight checks, what a run freezes, and the rule that one bad name in a bulk command starts nothing.
Deliberately unknown: what the verbs do (`lifecycle`) and how it is done (`engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from baremetal.engine.engine import Begin, Engine
from baremetal.errors import BaremetalError, Invalid, Refused
from baremetal.failpoints import failpoints
from baremetal.lifecycle.actions import EnsureNoVolume
from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.events import Asked
from baremetal.lifecycle.model import (
    MAIN,
    BootDevice,
    BootTarget,
    Budgets,
    Disk,
    Limits,
    Method,
    ProvisionState,
    Signal,
    Verb,
)
from baremetal.lifecycle.windows import errand
from baremetal.lifecycle.workflows import Await, Do, row
from baremetal.netboot.context import ServerFacts
from baremetal.netboot.lookup import Loader
from baremetal.netboot.profile import Family
from baremetal.netboot.san import San
from baremetal.netboot.selector import parse_selector
from baremetal.service import views
from baremetal.service.deploys.admission import Admission, Place
from baremetal.service.deploys.errands import Errands, flip_of
from baremetal.service.deploys.pairing import Pairing
from baremetal.service.profiles import Offer, Profiles
from baremetal.service.recipe import Kitchen, Recipe
from baremetal.service.servers.hardware import Hardware
from baremetal.service.servers.inventory import for_templates
from baremetal.service.servers.manner import manner_of
from baremetal.service.servers.servers import raise_refusal
from baremetal.service.storage.volumes import Volumes
from baremetal.storage.names import check_system
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

_INSTALLS = (Verb.DEPLOY, Verb.REBUILD)


@dataclass(frozen=True, slots=True)
class Order:
    """A verb as it is asked, before anything is known of the server."""

    verb: str
    profile: str | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    boot_target: str | None = None
    method: str | None = None
    system: str | None = None
    force: bool = False
    wipe: bool = False


@dataclass(frozen=True, slots=True)
class _Ready:
    """An order that passed every check."""

    record: ServerRecord
    asked: Asked
    begin: Begin | None


class Deploys:
    """The use cases that start and end runs. `base_for` says what a machine of an address calls the boot app.

    `budgets` and `limits` are the settings' own, for the verbs that have no profile.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        profiles: Profiles,
        kitchen: Kitchen,
        *,
        admission: Admission,
        base_for: Callable[[str], str],
        now: Callable[[], datetime],
        pairing: Pairing | None = None,
        volumes: Volumes | None = None,
        budgets: Budgets | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._pairing = pairing
        self._volumes = volumes
        self._store = store
        self._engine = engine
        self._budgets = budgets or Budgets()
        self._limits = limits or Limits()
        self._profiles = profiles
        self._kitchen = kitchen
        self._admission = admission
        self._errands = Errands(store, profiles, self._recipe)
        self._base_for = base_for
        self._now = now

    # -- asking --

    def ask(self, name: str, order: Order, by: str) -> dict[str, Any]:
        """Ask a verb of one server. Raises Refused with the allowed verbs, or what the pre-flight check found."""
        ready = self._prepare(self._store.server(name), order, by)
        with failpoints("api.accept"):
            return self._submit(ready)

    def ask_many(
        self, names: Sequence[str], tags: Mapping[str, str], order: Order, by: str, where: str = ""
    ) -> list[dict[str, Any]]:
        """Ask a verb of several servers, named, or by tags and hardware. One bad name starts nothing.

        Everything is checked first. What fails after that (somebody else was quicker) is told beside the others.
        """
        records = self._select(names, tags, where)
        ready = []
        for record in records:
            try:
                ready.append(self._prepare(record, order, by))
            except BaremetalError as error:
                error.server = error.server or record.life.name
                raise
        outcomes: list[dict[str, Any]] = []
        for one in ready:
            try:
                outcomes.append({"name": one.record.life.name, **self._submit(one)})
            except BaremetalError as error:
                outcomes.append({"name": one.record.life.name, "error": error.as_dict()})
        return outcomes

    def _select(self, names: Sequence[str], tags: Mapping[str, str], where: str) -> list[ServerRecord]:
        if bool(names) == bool(tags or where):
            raise Invalid(
                "name servers, or select them by tags and hardware, one of the two", variable="names"
            )
        if names:
            records = [self._store.server(name) for name in names]
        else:
            wanted = Hardware.parse(where)
            records = [one for one in self._store.servers(tags=dict(tags)) if wanted.fits(self._store, one)]
        if not records:
            asked = [f"the tags {' '.join(f'{k}={v}' for k, v in tags.items())}"] if tags else []
            asked += [where] if where else []
            raise Invalid(f"no server has {' and '.join(asked)}", variable="where" if where else "tags")
        return list({record.id: record for record in records}.values())

    def _prepare(self, record: ServerRecord, order: Order, by: str) -> _Ready:
        """Check an order against a server, cheapest first. Raises whatever stands in its way."""
        verb = Verb(order.verb)
        if verb not in _INSTALLS:
            asked = Asked(
                verb,
                by=by,
                force=order.force,
                wipe=order.wipe,
                target=BootTarget(record.facts.boot_target) if verb is Verb.ADOPT else BootTarget.DISK,
                budgets=self._budgets,
                limits=self._limits,
            )
            if verb is Verb.ABORT:
                if self._store.waiting(record.id) is None:
                    self._check_state(record, asked)
                return _Ready(record, asked, None)
            self._store.refuse_beside_waiting(record, str(verb))
            self._check_state(record, asked)
            return _Ready(record, *self._errands.prepare(record, asked, order.vars))
        if order.wipe:
            raise Invalid(f"{verb} wipes nothing", variable="wipe", fix="release with --wipe first")
        self._store.refuse_beside_waiting(record, str(verb))
        self._check_state(record, Asked(verb, by=by, force=order.force, method=Method.INSTALLER))
        offer, asked_vars = self._offer(record, order, verb)
        asked = _asked(record, order, verb, by, offer)
        self._check_state(record, asked)
        recipe = self._with_volume(record, offer, asked, self._recipe(record, offer, asked_vars))
        problems = self._profiles.check(recipe, record.life.runs + 1)
        if problems:
            problems[0].server = problems[0].server or record.life.name
            raise problems[0]
        self._check_boot(record, offer)
        return _Ready(record, asked, Begin(profile=offer.name, frozen=recipe.as_dict() | {"by": by}))

    def _with_volume(self, record: ServerRecord, offer: Offer, asked: Asked, recipe: Recipe) -> Recipe:
        """Freeze which volume a run is to make, where it is to make one. Raises Invalid, Unknown."""
        if asked.target is not BootTarget.ISCSI:
            return recipe
        assert self._volumes is not None
        assert asked.method is not None
        plan = self._volumes.plan(record, offer, asked.method, recipe.variables, asked.system)
        return replace(recipe, volume=plan.as_dict())

    def _foreseen(self, record: ServerRecord, recipe: Recipe) -> San | None:
        return self._volumes.foreseen(record, recipe) if self._volumes is not None else None

    def _check_boot(self, record: ServerRecord, offer: Offer) -> None:
        """Make sure that the server can start what the profile boots. Raises MediaMissing BM202, Invalid BM307."""
        self._profiles.check_media(offer)
        problem = self._pairing.problem(record, offer.profile.family) if self._pairing is not None else None
        if problem is not None:
            raise problem

    def _check_state(self, record: ServerRecord, asked: Asked) -> None:
        raise_refusal(record, decide(record.life, asked, self._now()))

    def _submit(self, ready: _Ready) -> dict[str, Any]:
        verb, by = ready.asked.verb, ready.asked.by
        if verb is Verb.ABORT and self._admission.leave(ready.record, by):
            return {"run": None, "waiting": None, "server": self._view(ready.record.id)}
        with failpoints("run.create"):
            if verb in _INSTALLS and ready.begin is not None:
                decision = self._admission.begin(ready.record, ready.asked, ready.begin)
            else:
                decision = self._engine.submit(ready.record.id, ready.asked, begin=ready.begin)
        if isinstance(decision, Place):
            return {
                "run": decision.run,
                "waiting": decision.place or None,
                "server": self._view(ready.record.id),
            }
        raise_refusal(ready.record, decision)
        run = decision.server.run
        return {
            "run": run.number if run is not None else None,
            "waiting": None,
            "server": self._view(ready.record.id),
        }

    def _view(self, server_id: str) -> dict[str, Any]:
        return views.view(self._store, self._store.server(server_id))

    def _offer(self, record: ServerRecord, order: Order, verb: Verb) -> tuple[Offer, dict[str, Any]]:
        """Find the profile, and the deploy's own variables: a rebuild without a profile repeats what is deployed."""
        if order.profile:
            return self._installable(order.profile), dict(order.vars)
        deployed = self._store.run(record.id, record.life.deployed) if record.life.deployed else None
        if verb is Verb.REBUILD and deployed is not None and deployed.profile:
            asked = self._store.frozen(record.id, deployed.number).get("asked", {})
            return self._installable(deployed.profile), {**asked, **order.vars}
        raise Invalid(
            f"{verb}: which profile?",
            variable="profile",
            server=record.life.name,
            fix=f"name one of {', '.join(self._profiles.installable())}",
        )

    def _installable(self, name: str) -> Offer:
        offer = self._profiles.offer(name)
        if offer.profile.family is Family.RAMDISK:
            raise Invalid(
                f"profile {name} is a RAM system: it installs nothing",
                variable="profile",
                fix=f"name one of {', '.join(self._profiles.installable())}",
            )
        return offer

    def _recipe(self, record: ServerRecord, offer: Offer, asked: Mapping[str, Any]) -> Recipe:
        facts = record.facts
        if facts.arch != offer.arch:
            raise Invalid(
                f"profile {offer.name} is for {offer.arch}, the server is {facts.arch}",
                variable="arch",
                server=record.life.name,
            )
        own: dict[str, Any] = dict(facts.vars)
        if facts.ip and "ip" not in own:
            own["ip"] = facts.ip
        seen = self._store.inventory(record.id)
        found = for_templates(seen.found if seen is not None else None)
        return self._profiles.recipe(offer, server_facts(record), own, asked, found)

    # -- saying beforehand --

    def plan(self, name: str, order: Order) -> dict[str, Any]:
        """Say step by step what a deploy would do, with the rendered files and the disks; does nothing."""
        record = self._store.server(name)
        verb = Verb.REBUILD if record.life.state is ProvisionState.ACTIVE else Verb.DEPLOY
        offer, asked_vars = self._offer(record, order, verb)
        asked = _asked(record, order, verb, "plan", offer)
        problems: list[BaremetalError] = []
        try:
            self._check_state(record, asked)
        except Refused as error:
            problems.append(error)
        files: list[dict[str, str]] = []
        variables: dict[str, Any] = {}
        volume: dict[str, Any] | None = None
        try:
            recipe = self._with_volume(record, offer, asked, self._recipe(record, offer, asked_vars))
            variables = dict(recipe.variables)
            volume = dict(recipe.volume) or None
            problems += self._profiles.check(recipe, record.life.runs + 1)
            san = self._foreseen(record, recipe)
            base = self._base_for(record.facts.ip)
            files = self._kitchen.preview(recipe, record.life.runs + 1, base, san=san)
        except BaremetalError as error:
            if str(error) not in [str(known) for known in problems]:
                problems.append(error)
        try:
            self._check_boot(record, offer)
        except BaremetalError as error:
            problems.append(error)
        return {
            "server": record.life.name,
            "verb": str(verb),
            "profile": offer.name,
            "ok": not problems,
            "problems": [error.as_dict() for error in problems],
            "steps": _steps(asked),
            "variables": variables,
            "disk": None if volume else self._disk(record, str(variables.get("disk", "auto"))),
            "volume": volume,
            "files": files,
        }

    def render(self, name: str, profile: str | None, loader: str | None = None) -> dict[str, Any]:
        """Give the exact bytes that the server would be served, tokens masked: of its open run, or as if it began now.

        `loader` is `ipxe`, unless another one's form is asked for. Raises Invalid BM203, BM204 where something does
        not render.
        """
        if loader is not None and loader not in tuple(Loader):
            raise Invalid(f"no loader {loader[:32]!r}", fix=f"one of {', '.join(Loader)}")
        record = self._store.server(name)
        manner = manner_of(record, Loader(loader or Loader.IPXE))
        run = record.life.run
        if profile is None and run is not None and errand(run) is not None:
            known = self._store.run(record.id, run.number)
            assert known is not None
            number, of = run.number, known.profile
            recipe = self._kitchen.recipe(self._store, record.id, number)
        else:
            verb = Verb.REBUILD if profile is None else Verb.DEPLOY
            order = Order(str(verb), profile=profile)
            offer, asked_vars = self._offer(record, order, verb)
            asked = _asked(record, order, verb, "render", offer)
            recipe = self._with_volume(record, offer, asked, self._recipe(record, offer, asked_vars))
            number, of = record.life.runs + 1, offer.name
        base, san = self._base_for(record.facts.ip), self._foreseen(record, recipe)
        return {
            "server": record.life.name,
            "profile": of,
            "run": number,
            "files": self._kitchen.preview(recipe, number, base, manner, san),
        }

    def _disk(self, record: ServerRecord, selector: str) -> dict[str, Any]:
        """Say which disk the selector means, as far as an earlier run has told us the machine's disks."""
        for run in reversed(self._store.runs(record.id)):
            if run.disks:
                known = [dict(disk) for disk in run.disks]
                seen = "by the inspection" if run.verb == Verb.INSPECT else f"by the {run.verb}"
                try:
                    chosen = parse_selector(selector).choose(Disk(**disk) for disk in known).name
                    note = f"seen {seen} in run {run.number}"
                    return {"selector": selector, "known": known, "chosen": chosen, "note": note}
                except Invalid as error:
                    return {"selector": selector, "known": known, "chosen": None, "note": str(error)}
        note = "the machine's disks are not known yet: its installer chooses by the selector, and asks before it writes"
        return {"selector": selector, "known": [], "chosen": None, "note": note}


def server_facts(record: ServerRecord) -> ServerFacts:
    """What templates may know of a server."""
    facts = record.facts
    return ServerFacts(
        id=record.id,
        name=record.life.name,
        macs=facts.macs,
        boot_mac=facts.macs[0],
        uuid=facts.uuid,
        serial=facts.serial,
        arch=facts.arch,
        boot_mode=facts.boot_mode,
    )


def _asked(record: ServerRecord, order: Order, verb: Verb, by: str, offer: Offer) -> Asked:
    method = order.method or str(offer.method)
    if method not in tuple(Method):
        raise Invalid(f"no method {method[:32]!r}", variable="method", fix=f"use {' or '.join(Method)}")
    target = order.boot_target or (record.facts.boot_target if record.facts.boot_target != "disk" else "")
    target = target or str(offer.target)
    if target not in tuple(BootTarget):
        raise Invalid(
            f"no boot target {target[:32]!r}", variable="boot_target", fix=f"use {' or '.join(BootTarget)}"
        )
    if (method == Method.CLONE) is offer.profile.has_script:
        raise Invalid(
            f"profile {offer.name} is {'no clone' if method == Method.CLONE else 'a clone'} of a golden image",
            variable="method",
            fix="use a profile of the family nocloud for clones, and for nothing else",
        )
    if method == Method.CLONE and target != BootTarget.ISCSI:
        raise Invalid(
            f"profile {offer.name} is a clone of a golden image, and a clone boots from its volume",
            variable="boot_target",
            fix="leave --boot-target out, or say iscsi",
        )
    return Asked(
        verb,
        by=by,
        force=order.force,
        method=Method(method),
        target=BootTarget(target),
        system=_system(record, order, BootTarget(target)),
        proof=offer.proof,
        reboots=offer.reboots,
        asks_go=offer.profile.asks_go,
        flip=flip_of(record, BootTarget(target)),
        budgets=offer.budgets,
        limits=offer.limits,
    )


def _system(record: ServerRecord, order: Order, target: BootTarget) -> str:
    """Say which of the server's systems is meant: the one that it boots, if nobody says."""
    if target is not BootTarget.ISCSI:
        if order.system not in (None, MAIN):
            raise Invalid(
                "a server has several systems only on volumes",
                variable="system",
                fix="say --boot-target iscsi",
            )
        return MAIN
    life = record.life
    if order.system is not None:
        adopted = life.state is ProvisionState.ACTIVE and not life.deployed
        if adopted and life.target is BootTarget.ISCSI and order.system != MAIN:
            raise Invalid(
                "the system that it boots was adopted, and would be lost beside another",
                variable="system",
                server=record.name,
                fix="deploy it here first, as main",
            )
        return check_system(order.system)
    booted = [name for name, run in life.systems if run == life.deployed]
    if life.systems and not booted:
        raise Invalid(
            "which of its systems? None of them is booted now",
            variable="system",
            server=record.name,
            seen=f"it has {', '.join(name for name, _ in life.systems)}",
            fix=f"say --system NAME, or boot one that is there: baremetal set {record.name} --boot NAME",
        )
    return booted[0] if booted else MAIN


def _steps(asked: Asked) -> list[dict[str, Any]]:
    flow = row(asked.verb, wipe=asked.wipe, method=asked.method, target=asked.target)
    assert flow is not None
    steps = []
    for step in flow.steps:
        if step.only_for is not None and asked.proof not in step.only_for:
            continue
        if isinstance(step, Do):
            if isinstance(step.action, EnsureNoVolume) and asked.target is not BootTarget.ISCSI:
                continue
            once = asked.flip is BootDevice.NONE
            flip = "boot device cleared" if once else f"boot device {asked.flip}, persistent"
            what = str(step.action) if step.action is not None else flip
            what += ", read back" if step.name not in ("check", "proof") else ""
        else:
            what = f"wait for {step.signal or 'the boot script to be fetched'}"
            if not asked.asks_go and step.signal is Signal.INSTALL_STARTED:
                what = "go is given with the boot script, once: this installer cannot ask for it"
        budget_s = getattr(asked.budgets, step.budget)
        steps.append(
            {
                "name": step.name,
                "kind": "await" if isinstance(step, Await) else "do",
                "what": what,
                "state": str(step.state),
                "budget_s": budget_s,
            }
        )
    return steps
