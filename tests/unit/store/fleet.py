"""What the store's tests enrol, and a life lived through the store step by step."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Decision
from baremetal.lifecycle.events import Asked, Event, MaintenanceChanged
from baremetal.lifecycle.model import Method, ProvisionState, Server, Verb
from baremetal.lifecycle.moves import owed, workflow
from baremetal.lifecycle.table import NEWS, RESULTS
from baremetal.lifecycle.workflows import Do
from baremetal.store.records import Credentials, Facts, HistoryEntry, NewRun, NewServer
from baremetal.store.store import Store

NOW = datetime(2026, 1, 1, 12, 0, 0, 250, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PASSWORD = "correct horse"


def mac(number: int) -> str:
    return f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"


def new(number: int = 1, **facts: Any) -> NewServer:
    """Return an available server `rN` that clashes with no other number."""
    known: dict[str, Any] = {
        "bmc": f"ipmi://10.0.0.{number}",
        "bmc_identity": f"ipmi://10.0.0.{number}:623",
        "macs": (mac(number),),
        "uuid": f"00000000-0000-0000-0000-{number:012x}",
        "serial": f"SN{number}",
    }
    return NewServer(
        Server(f"r{number}", state=ProvisionState.AVAILABLE),
        Facts(**{**known, **facts}),
        Credentials("admin", PASSWORD),
    )


def submit(
    store: Store,
    server_id: str,
    event: Event,
    at: datetime,
    *,
    waited: int | None = None,
    until: datetime | None = None,
    **facts: Any,
) -> tuple[Decision, HistoryEntry | None]:
    """Decide on what is stored and commit it, once: a lost guard gives None. `waited`: as `Store.commit` takes it."""
    life = store.server(server_id).life
    decision = decide(life, event, at)
    run = decision.server.run
    begin = None
    if run is not None and life.run is None:
        begin = NewRun(server_id, run.number, str(run.verb), "tiny", {"template": "text"}, at)
    done = store.commit(
        server_id, life, decision, event, at, begin=begin, waited=waited, facts=facts or None, until=until
    )
    return decision, done.entries[-1] if done is not None else None


def reserve(store: Store, server_id: str, until: datetime, at: datetime) -> int | None:
    """Take a server as a turn does, with a decision that changes nothing else; None where somebody holds it."""
    record = store.server(server_id)
    if record.is_held(at):
        return None
    life = record.life
    still = Decision(replace(life, generation=life.generation + 1), owed(life), "reserved")
    done = store.commit(server_id, life, still, MaintenanceChanged(life.maintenance), at, until=until)
    return None if done is None else done.fence


def ask(verb: Verb) -> Asked:
    return Asked(verb, method=Method.INSTALLER if verb in (Verb.DEPLOY, Verb.REBUILD) else None)


def live(store: Store, server_id: str, verb: Verb, at: datetime) -> Iterator[datetime]:
    """Live through one undisturbed run, one commit at a time; yields the time after each."""
    decision, _ = submit(store, server_id, ask(verb), at)
    while (run := decision.server.run) is not None:
        at += SECOND
        yield at
        step = workflow(run).step(run)
        if not isinstance(step, Do):
            decision, _ = submit(store, server_id, NEWS[str(step.signal or "script")](decision.server), at)
            continue
        fence, until = 0, at + 60 * SECOND
        if step.name not in ("check", "proof"):
            life = store.server(server_id).life
            submit(store, server_id, RESULTS["intended"](life), at, until=until)
            fence = life.fence + 1
        decision, _ = submit(store, server_id, RESULTS["did"](store.server(server_id).life), at)
        if fence:
            store.unreserve(server_id, fence, until)
    yield at
