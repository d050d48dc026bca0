"""What a server looks like from outside: the one mapping from records to the API's plain values.

The password of a BMC is not in here, because it never leaves the store except towards a driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baremetal.drivers.base import BmcUrl
from baremetal.lifecycle.model import ProvisionState, Run
from baremetal.lifecycle.moves import current_step
from baremetal.lifecycle.workflows import allowed_verbs
from baremetal.store.records import HistoryEntry, QueueEntry, ServerRecord
from baremetal.store.store import Store


def view(store: Store, record: ServerRecord, queue: Mapping[str, QueueEntry] | None = None) -> dict[str, Any]:
    """Describe a server with its open run, or the run that is deployed. `queue` spares asking who waits."""
    life, facts = record.life, record.facts
    number = life.run.number if life.run is not None else life.deployed
    known = store.run(record.id, number) if number else None
    profile = known.profile if known is not None and known.profile else None
    waiting = _waiting(store.queue_entry(record.id) if queue is None else queue.get(record.id))
    return {
        "name": life.name,
        "id": record.id,
        "provision_state": str(life.state),
        "power_state": str(record.power_state),
        "power_seen_at": record.power_seen_at,
        "maintenance": life.maintenance,
        "last_error": life.last_error,
        "profile": profile,
        "run": _run(record, life.run, profile) if life.run is not None else None,
        "waiting": waiting,
        "deployed_run": life.deployed or None,
        "systems": [
            {"name": name, "run": run, "boots": run == life.deployed} for name, run in sorted(life.systems)
        ],
        "found_on": life.found_on,
        "allowed": ["abort"] if waiting is not None else allowed(record),
        "macs": list(facts.macs),
        "bmc": _bmc(facts.bmc),
        "boot_mode": facts.boot_mode,
        "boot_target": str(life.target) if life.deployed else facts.boot_target,
        "arch": facts.arch,
        "uuid": facts.uuid,
        "serial": facts.serial,
        "ip": facts.ip,
        "vars": dict(facts.vars),
        "tags": dict(facts.tags),
        "quirks": list(facts.quirks),
        "created_at": record.created_at,
    }


def whole(store: Store, record: ServerRecord) -> dict[str, Any]:
    """Describe one server with what is known of its parts, and where its rescue system answers while it runs."""
    found = store.inventory(record.id)
    rescued = record.life.state is ProvisionState.RESCUE
    system = store.run(record.id, record.life.runs) if rescued else None
    return view(store, record) | {
        "inventory": {**found.found, "at": found.at, "run": found.run} if found is not None else None,
        "rescue": (
            {"addresses": list(system.addresses), "ssh_host_keys": list(system.ssh_host_keys)}
            if system is not None
            else None
        ),
    }


def allowed(record: ServerRecord) -> list[str]:
    """Name the verbs that may be asked of this server now."""
    if record.life.maintenance:
        return [verb for verb in allowed_verbs(record.life.state) if verb == "abort"]
    return list(allowed_verbs(record.life.state))


def event(entry: HistoryEntry) -> dict[str, Any]:
    """Describe one line of the history."""
    return {
        "id": entry.id,
        "at": entry.at,
        "server": entry.server,
        "run": entry.run,
        "kind": entry.kind,
        "note": entry.note,
        "from_state": entry.from_state,
        "to_state": entry.to_state,
        "outcome": entry.outcome,
        "event": dict(entry.event) if entry.event is not None else None,
        "data": dict(entry.data or {}),
    }


def _waiting(one: QueueEntry | None) -> dict[str, Any] | None:
    """Describe the deploy that waits for its turn."""
    if one is None:
        return None
    return {
        "verb": str(one.asked.verb),
        "profile": one.profile,
        "since": one.at,
        "by": one.asked.by,
        "place": one.place,
    }


def _run(record: ServerRecord, run: Run, profile: str | None) -> dict[str, Any]:
    step = current_step(record.life)
    go = run.go
    return {
        "number": run.number,
        "verb": str(run.verb),
        "step": step.name if step is not None else "",
        "profile": profile,
        "method": str(run.method) if run.method is not None else None,
        "attempt": run.attempt,
        "deadline": run.deadline,
        "retry_at": run.retry_at,
        "last_sign": run.last_sign,
        "trouble": run.closing or run.trouble,
        "started_at": run.started,
        "go": {"disk": go.disk, "disks": list(go.disks), "at": go.at, "address": go.address}
        if go is not None
        else None,
    }


def _bmc(text: str) -> dict[str, Any]:
    url = BmcUrl.parse(text)
    host = f"[{url.host}]" if ":" in url.host else url.host
    return {"url": url.format(), "address": f"{host}:{url.port}" if url.port else host, "kind": url.scheme}
