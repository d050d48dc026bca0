"""The servers under care: taking them in, listing, changing, forgetting, maintenance, strangers.

Owns what an operator may do to a server's record, and the way that an enrolment goes on by itself through *manage* to
*available* (or *active*), across a restart too. Nothing here writes to a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from baremetal import telemetry
from baremetal.drivers.base import BmcCredentials, BmcUrl
from baremetal.engine.engine import Begin, Engine
from baremetal.errors import BaremetalError, Conflict, Invalid, Refused, Unknown
from baremetal.failpoints import failpoints
from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Decision, Outcome
from baremetal.lifecycle.events import Asked, MaintenanceChanged, SystemChosen
from baremetal.lifecycle.model import BootTarget, Budgets, Limits, ProvisionState, Server, Verb
from baremetal.netboot.variables import normal_mac
from baremetal.service import views
from baremetal.service.servers.enrolment import Enrolment, ServerChange, changed_facts, first_facts
from baremetal.service.servers.hardware import Hardware
from baremetal.service.servers.roster import InvalidRows
from baremetal.store.records import Credentials, Facts, HistoryEntry, NewServer, RunRecord, ServerRecord
from baremetal.store.store import Store

__all__ = ["Enrolment", "ServerChange", "Servers"]

log = telemetry.logger(__name__)

# The states in which a machine has a system that somebody uses, or is repairing.
_CARRIES = frozenset(
    {
        ProvisionState.ACTIVE,
        ProvisionState.RESCUE,
        ProvisionState.RESCUE_FAILED,
        ProvisionState.UNRESCUE_FAILED,
    }
)
THEN = "then"  # the key in a manage run's frozen record: the verb that follows its success


class Servers:
    """The use cases around server records. `later` runs a call soon, in another thread.

    `budgets` and `limits` are the settings' own, for verifying.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        thaw: Callable[[BmcUrl], None],
        now: Callable[[], datetime],
        later: Callable[[Callable[[], None]], object],
        budgets: Budgets | None = None,
        limits: Limits | None = None,
        changing: Callable[[ServerRecord, Facts], object] = lambda *_: None,
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`changing` hears of new facts before they are written, and may refuse them; `changed` hears the id of a
        server whose facts were changed, or which was forgotten.
        """
        self._changing = changing
        self._store = store
        self._changed = changed
        self._engine = engine
        self._budgets = budgets or Budgets()
        self._limits = limits or Limits()
        self._thaw = thaw
        self._now = now
        self._later = later

    def _asked(self, verb: Verb, by: str) -> Asked:
        return Asked(verb, by=by, budgets=self._budgets, limits=self._limits)

    # -- taking in --

    def enrol(self, new: Sequence[Enrolment], by: str) -> list[dict[str, Any]]:
        """Take servers under care, all or none, and start verifying those that ask for it. Raises Invalid, Conflict."""
        if not new:
            raise Invalid("no server is given")
        entries = _checked(new, by)
        with failpoints("api.accept"):
            records = self._store.add_servers(entries, self._now())
        for asked, record in zip(new, records, strict=True):
            # Credentials that were refused under an earlier record deserve one try under this one.
            self._thaw(BmcUrl.parse(record.facts.bmc))
            if then := _then(asked):
                self._verify(record.id, then, by)
        return [self._view(record.id) for record in records]

    def follow(self, entry: HistoryEntry) -> None:
        """Listen to the history: a verified enrolment goes on. Quick; the next verb is asked in another thread."""
        if entry.to_state == ProvisionState.MANAGEABLE and entry.from_state == ProvisionState.VERIFYING:
            server_id = entry.server_id
            self._later(lambda: self._go_on(server_id))

    def recover(self) -> None:
        """Go on with enrolments that a dead process left half way. Idempotent; call at start."""
        for record in self._store.servers(state=ProvisionState.ENROLL):
            if record.life.runs == 0:
                (entry, *_) = self._store.history(record.id, kinds=("enrolled",), limit=1)
                if then := str(entry.data.get("then") or ""):
                    self._verify(record.id, then, str(entry.data.get("by") or "enrolment"))
        for record in self._store.servers(state=ProvisionState.MANAGEABLE):
            self._go_on(record.id)

    def _verify(self, server_id: str, then: str, by: str) -> None:
        begin = Begin(frozen={THEN: then, "by": by})
        self._engine.submit(server_id, self._asked(Verb.MANAGE, by), begin=begin)

    def _go_on(self, server_id: str) -> None:
        try:
            life = self._store.server(server_id).life
            frozen = self._store.frozen(server_id, life.runs) if life.runs else {}
            then = frozen.get(THEN)
            if then is None or life.state is not ProvisionState.MANAGEABLE or life.run is not None:
                return
            by = str(frozen.get("by") or "enrolment")
            target = BootTarget(self._store.server(server_id).facts.boot_target)
            self._engine.submit(server_id, replace(self._asked(Verb(then), by), target=target))
        except BaremetalError as error:
            log.warning("an enrolment did not go on", server=server_id, code=error.code, error=str(error))

    # -- looking --

    def select(
        self, state: str | None = None, tags: Mapping[str, str] | None = None, where: str = ""
    ) -> list[dict[str, Any]]:
        """List servers by name: in a state, with all of some tags, with the hardware that `where` asks for."""
        if state is not None and state not in tuple(ProvisionState):
            raise Invalid(
                f"no state {state[:40]!r}", variable="state", fix=f"use one of {', '.join(ProvisionState)}"
            )
        wanted = ProvisionState(state) if state is not None else None
        hardware, queue = Hardware.parse(where), self._store.queue()
        return [
            views.view(self._store, record, queue)
            for record in self._store.servers(wanted, dict(tags or {}) or None)
            if hardware.fits(self._store, record)
        ]

    def show(self, name: str) -> dict[str, Any]:
        return self._view(name)

    def ssh(self, name: str) -> dict[str, Any]:
        """Say where the deployed system answers by SSH and which host keys it reported. Raises Refused."""
        record = self._store.server(name)
        # in rescue it is the RAM system that answers, with the keys that it made when it started
        rescued = record.life.state is ProvisionState.RESCUE
        number = record.life.runs if rescued else record.life.deployed
        run = self._store.run(record.id, number) if number else None
        if run is None:
            raise Refused(
                f"{record.life.name}: nothing that was deployed here runs on it",
                allowed=tuple(views.allowed(record)),
            )
        places = ssh_places(record.facts.vars, record.facts.ip, run.addresses)
        if not places:
            raise Refused(
                f"{record.life.name}: no address is known",
                fix="set one with `baremetal set NAME --ip`, or the variable ssh_address",
            )
        host, port = places[0]
        keys = run.ssh_host_keys if rescued else host_keys(self._store, record)
        return {"host": host, "port": port, "user": "root", "host_keys": list(keys)}

    def unknowns(self) -> list[dict[str, Any]]:
        """List the strangers that asked to boot; `server`: in whose machine an inspection saw that NIC."""
        strangers = self._store.unknowns()
        owners = self._nics() if strangers else {}
        return [
            {
                "mac": seen.mac,
                "uuid": seen.uuid,
                "serial": seen.serial,
                "arch": seen.arch,
                "first_seen_at": seen.first_seen_at,
                "last_seen_at": seen.last_seen_at,
                "times": seen.times,
                "what": seen.what,
                "server": owners.get(seen.mac),
            }
            for seen in strangers
        ]

    def _nics(self) -> dict[str, str]:
        """Whose the NICs are that inspections found. A machine tries them in turn, and not all need be enrolled."""
        found = {}
        for record in self._store.servers():
            seen = self._store.inventory(record.id)
            for nic in seen.found.get("nics", ()) if seen is not None else ():
                found[str(nic["mac"])] = record.life.name
        return found

    def count(self) -> None:
        """Bring the gauge of servers by state up to date."""
        found = dict.fromkeys(ProvisionState, 0)
        for record in self._store.servers():
            found[record.life.state] += 1
        for state, number in found.items():
            telemetry.SERVERS.labels(str(state)).set(number)

    # -- changing --

    def change(self, name: str, change: ServerChange, by: str) -> dict[str, Any]:
        """Set facts of a server. New credentials thaw its BMC. Raises Invalid, Conflict."""
        record = self._store.server(name)
        facts, account = changed_facts(record.facts, self._credentials(record), change)
        if facts == record.facts and account is None:
            return self._view(record.id)
        names = [field for field in facts.__slots__ if getattr(facts, field) != getattr(record.facts, field)]
        names = [field for field in names if field != "bmc_identity"]
        if account is not None:
            names.append("credentials")
        note = f"set {', '.join(names)} by {by}"
        secret = Credentials(account.user, account.password) if account is not None else None
        self._changing(record, facts)
        self._store.set_facts(record.id, facts, secret, self._now(), by, note, before=record.facts)
        self._changed(record.id)
        if account is not None:
            self._thaw(BmcUrl.parse(facts.bmc))
            self._engine.nudge(record.id)
        return self._view(record.id)

    def check_choice(self, name: str, system: str) -> None:
        """Raise Refused where a server would not boot this system."""
        record = self._store.server(name)
        raise_refusal(record, decide(record.life, SystemChosen(system), self._now()))

    def choose(self, name: str, system: str, by: str) -> dict[str, Any]:
        """Have a diskless server boot another of its systems from now on; what runs goes on running. Raises Refused."""
        record = self._store.server(name)
        raise_refusal(record, self._engine.submit(record.id, SystemChosen(system, by=by)))
        self._changed(record.id)
        return self._view(record.id)

    def maintenance(self, name: str, on: bool, by: str) -> dict[str, Any]:
        """Switch the flag; switching to what it is already changes nothing."""
        record = self._store.server(name)
        self._engine.submit(record.id, MaintenanceChanged(on, by=by))
        return self._view(record.id)

    def rotate_key(self) -> int:
        """Seal every BMC account with a fresh key; returns how many."""
        return self._store.rotate_key()

    def forget(self, name: str, by: str, *, force: bool = False) -> None:
        """Stop caring for a server, never needing its BMC; what runs on it stays.

        Without force raises Refused while something is under way or a system is on it, and Conflict where that began
        just now.
        """
        record = self._store.server(name)
        life = record.life
        if not force and (life.run is not None or life.state in _CARRIES or life.volumes):
            why = f"run {life.run.number} is under way" if life.run is not None else "a system is on it"
            if life.run is None and life.state not in _CARRIES:
                why = "a storage host keeps a volume for it"
            raise Refused(
                f"forget: {life.name} is {life.state}, {why}",
                allowed=tuple(views.allowed(record)),
                fix="release or abort first, or use --force, which leaves the machine as it is",
            )
        if life.run is not None:
            # Closes the run's tokens and takes every turn's permission away before the record goes.
            decision = self._engine.submit(record.id, Asked(Verb.ABORT, by=by))
            if decision.outcome is Outcome.CHANGED:
                log.info("run aborted by forget", server=life.name)
        self._store.forget(record.id, self._now(), by, generation=None if force else life.generation)
        self._changed(record.id)

    def _credentials(self, record: ServerRecord) -> BmcCredentials:
        user, password = self._store.credentials(record.id)
        return BmcCredentials(user, password)

    def _view(self, ref: str) -> dict[str, Any]:
        return views.whole(self._store, self._store.server(ref))


def find(store: Store, ref: str) -> ServerRecord:
    """Find a server by name, id or MAC, in this order: a server may be named like a MAC. Raises Unknown."""
    try:
        return store.server(ref)
    except Unknown:
        try:
            record = store.server_by_mac(mac := normal_mac(ref))
        except Invalid:
            record, mac = None, ""
        if record is not None:
            return record
        if mac:
            raise Unknown(f"no server has the MAC {mac}") from None
        raise


def raise_refusal(record: ServerRecord, decision: Decision) -> None:
    """Raise Refused, with what is allowed, where the core has said no."""
    if decision.outcome is Outcome.REFUSED:
        raise Refused(decision.note, server=record.life.name, allowed=tuple(views.allowed(record)))


def host_keys(store: Store, record: ServerRecord) -> tuple[str, ...]:
    """Return the host keys that a server's systems reported."""
    runs = system_runs(store, record)
    return tuple(dict.fromkeys(key for run in runs for key in run.ssh_host_keys))


def system_runs(store: Store, record: ServerRecord) -> list[RunRecord]:
    """Return the runs of a server's systems, the chosen one first: what runs just now may be another."""
    life = record.life
    numbers = (life.deployed, *(number for _, number in life.systems if number != life.deployed))
    known = [store.run(record.id, number) for number in numbers if number]
    return [run for run in known if run is not None]


def ssh_places(variables: Mapping[str, str], ip: str, addresses: Sequence[str]) -> list[tuple[str, int]]:
    """List where a deployed system may answer by SSH, best first: told by the operator, fixed, reported."""
    told = variables.get("ssh_address", "")
    if told:
        host, _, port = told.rpartition(":")
        if host and port.isascii() and port.isdigit() and (":" not in host or host.startswith("[")):
            return [(host.strip("[]"), int(port))]
        return [(told.strip("[]"), 22)]
    fixed = ip.partition("/")[0]
    places = [fixed] if fixed else []
    places += [address.partition("/")[0] for address in addresses]
    return [(address, 22) for address in dict.fromkeys(places) if address]


def _then(asked: Enrolment) -> str:
    """Say which verb an enrolment ends with, "" for one that is not even to be verified."""
    if asked.adopt:
        return str(Verb.ADOPT)
    return str(Verb.PROVIDE) if asked.verify else ""


def _checked(new: Sequence[Enrolment], by: str) -> list[NewServer]:
    """Check all rows, and each against the others. One row's error is raised as it is, several as InvalidRows."""
    entries: list[NewServer] = []
    problems: list[tuple[int, str, BaremetalError]] = []
    taken: dict[tuple[str, str], str] = {}
    for number, row in enumerate(new, 1):
        try:
            facts, account = first_facts(row)
            mine = [("name", row.name), ("BMC", facts.bmc_identity), *(("MAC", mac) for mac in facts.macs)]
            if facts.uuid:
                mine.append(("UUID", facts.uuid))
            for key in mine:
                if key in taken:
                    raise Conflict(
                        f"{row.name}: the {key[0]} {key[1]} is that of {taken[key]} too", server=row.name
                    )
            taken |= dict.fromkeys(mine, row.name)
            secret = Credentials(account.user, account.password)
            life, then = Server(row.name), _then(row)
            entries.append(NewServer(life, facts, secret, note=f"enrolled by {by}", by=by, then=then))
        except BaremetalError as error:
            problems.append((number, row.name, error))
    if problems:
        if len(new) == 1:
            raise problems[0][2]
        raise InvalidRows(problems, len(new))
    return entries
