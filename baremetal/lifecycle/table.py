"""The transition table, derived: every position of an undisturbed life is asked every event.

Owns the names of positions (`deploy/complete`) and the notation of `tests/golden/transitions.md`. The documentation's
tables and diagram are made from here by `document()`; nothing in the running program reads them, but the engine checks
each state change against `edges()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

from msgspec.structs import replace

from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Decision, Outcome
from baremetal.lifecycle.events import (
    Asked,
    Did,
    Event,
    Failed,
    Fetched,
    Heard,
    Intended,
    MaintenanceChanged,
    Overdue,
    SystemChosen,
)
from baremetal.lifecycle.model import (
    MAIN,
    BootTarget,
    Fetch,
    Method,
    PowerState,
    Proof,
    ProvisionState,
    Server,
    Signal,
    Verb,
)
from baremetal.lifecycle.moves import workflow
from baremetal.lifecycle.workflows import FAILS_TO, METHODS, MOVING, WORKFLOWS, Do, Way, Workflow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
MUCH_LATER = NOW + timedelta(days=2)
BOOT = "boot-1"
DISKLESS = Server("r1", runs=1, deployed=1, target=BootTarget.ISCSI, volumes=(1,))

SEVERAL = replace(DISKLESS, runs=2, volumes=(1, 2), systems=(("main", 1), ("other", 2)))


def begins(flow: Workflow) -> list[ProvisionState]:
    """Return where a workflow may begin, in the order of a life."""
    return [state for state in ProvisionState if state in flow.begins]


def position(server: Server) -> str:
    """Name where a server stands: its state, or its run's verb and step."""
    if server.run is None:
        return str(server.state)
    flow = workflow(server.run)
    if not server.run.closing:
        return f"{flow.name}/{flow.step(server.run).name}"
    # which failed state a run is being closed to stands in the moving state, where there are two
    return f"{flow.name}/closing{f' {server.state}' if len(flow.closing) > 1 else ''}"


def _ask(verb: Verb, wipe: bool = False, way: Way = Way.DISK) -> Callable[[Server], Event]:
    if way is not Way.DISK:
        chosen = Method.CLONE if way is Way.CLONE else Method.INSTALLER
        return lambda server: Asked(verb, method=chosen, target=BootTarget.ISCSI)
    method = Method.INSTALLER if verb in METHODS else None
    return lambda server: Asked(verb, method=method, wipe=wipe)


def _hear(signal: Signal) -> Callable[[Server], Event]:
    return lambda server: Heard(
        signal,
        run=_run(server),
        boot_id=BOOT,
        disk="vda",
        disks=("vda TINY0000",),
        stage="packages",
        message="news",
    )


def _run(server: Server) -> int:
    return server.run.number if server.run else server.runs


def _step(server: Server) -> int:
    return server.run.step if server.run else 0


def _result(**more: object) -> Callable[[Server], Event]:
    return lambda server: Failed(_run(server), _step(server), server.fence, **more)  # type: ignore[arg-type]


def _intend(server: Server) -> Event:
    return Intended(_run(server), _step(server), server.fence)


def _did(server: Server) -> Event:
    return Did(_run(server), _step(server), server.fence, wrote=True, power=PowerState.OFF)


VERBS: dict[str, Callable[[Server], Event]] = {
    **{str(verb): _ask(verb) for verb in Verb},
    **{flow.name: _ask(flow.verb, way=flow.way) for flow in WORKFLOWS.values() if flow.way},
    **{flow.name: _ask(flow.verb, True) for flow in WORKFLOWS.values() if flow.wipe},
    "maintenance on": lambda server: MaintenanceChanged(True),
    "maintenance off": lambda server: MaintenanceChanged(False),
    "choose": lambda server: SystemChosen("other"),
}
RESULTS: dict[str, Callable[[Server], Event]] = {
    "intended": _intend,
    "did": _did,
    "failed, try again": _result(error="BM101 no answer", transient=True),
    "failed for good": _result(error="BM102 wrong password", transient=False),
    "overdue": lambda server: Overdue(_run(server), _step(server)),
}
NEWS: dict[str, Callable[[Server], Event]] = {
    "script": lambda server: Fetched(Fetch.SCRIPT, "10.0.0.5"),
    **{str(signal): _hear(signal) for signal in Signal},
}
_ERRANDS = {name: make for name, make in NEWS.items() if name.startswith(("wipe-", "inspect-", "rescue-"))}
TABLES = {
    "Verbs and flags": VERBS,
    "Results of our own actions, and time": RESULTS,
    "News from the machine": {name: make for name, make in NEWS.items() if name not in _ERRANDS},
    "News of wipes, inspections and rescues": _ERRANDS,
}


def cell(server: Server, decision: Decision) -> str:
    """Write one answer in the golden table's notation."""
    if decision.outcome is Outcome.REFUSED:
        return "x"
    if decision.outcome is Outcome.NOOP:
        return "="
    before, after = position(server), position(decision.server)
    return "~" if before == after else after


def live(
    verb: str, begin: Server, proof: Proof = Proof.SSH, early: bool = False, system: str = MAIN
) -> Iterator[Server]:
    """Yield the server at each position of one undisturbed run, from the verb (or "release --wipe") to its end.

    `early`: the first boot is heard before the boot device is flipped. `system`: what is installed.
    """
    asked = VERBS[verb](begin)
    assert isinstance(asked, Asked)
    server = decide(begin, replace(asked, proof=proof, system=system), NOW).server
    while server.run is not None:
        step = workflow(server.run).step(server.run)
        if early and step.name == "flip":
            server = decide(server, NEWS["first-boot"](server), LATER).server
        if isinstance(step, Do) and step.name not in ("check", "proof"):
            server = decide(server, _intend(server), LATER).server
        yield server
        event = _did if isinstance(step, Do) else NEWS[str(step.signal or "script")]
        server = decide(server, event(server), LATER).server
    yield server


@cache
def positions() -> dict[str, Server]:
    """Return one server for each position, each reached by living up to it."""
    found: dict[str, Server] = {}
    enrolled = Server("r1")
    for state in ProvisionState:
        if state not in MOVING:
            found[str(state)] = replace(enrolled, state=state)
    found["active"] = replace(SEVERAL, state=ProvisionState.ACTIVE)
    for begin in (enrolled, DISKLESS):
        for flow in WORKFLOWS.values():
            for server in live(flow.name, replace(begin, state=begins(flow)[0])):
                found.setdefault(position(server), server)
                closing = decide(server, Asked(Verb.ABORT), LATER).server
                if closing.run is not None and closing.run.closing:
                    found.setdefault(position(closing), closing)
    return found


@cache
def edges() -> frozenset[tuple[ProvisionState, ProvisionState]]:
    """Return every pair of provision states that one event may lead between (promises I9)."""
    lives = list(positions().values())
    for proof in Proof:
        for early in (False, True):
            for flow in WORKFLOWS.values():
                if any(step.only_for for step in flow.steps):
                    for begin in (Server("r1"), DISKLESS):
                        lives += list(live(flow.name, replace(begin, state=begins(flow)[0]), proof, early))
    found = set()
    for server in lives:
        for events in TABLES.values():
            for make in events.values():
                after = decide(
                    server, make(server), MUCH_LATER if make is RESULTS["overdue"] else LATER
                ).server
                if after.state is not server.state:
                    found.add((server.state, after.state))
    return frozenset(found)


def derive() -> dict[str, dict[str, dict[str, str]]]:
    """Return table title -> position -> event -> cell."""
    return {
        title: {
            name: {
                event: cell(server, decide(server, make(server), MUCH_LATER if event == "overdue" else LATER))
                for event, make in events.items()
            }
            for name, server in positions().items()
        }
        for title, events in TABLES.items()
    }


def document() -> str:
    """Return `docs/lifecycle.md`: the workflows, the state diagram and the tables."""
    lines = [
        "# The life of a server",
        "",
        "Generated from `baremetal/lifecycle` by `python -m baremetal.lifecycle.table`; do not edit.",
        "",
        "## Workflows",
        "",
        "| verb | begins in | steps | ends | fails to |",
        "|---|---|---|---|---|",
    ]
    for flow in WORKFLOWS.values():
        steps = (
            ", ".join(step.name if isinstance(step, Do) else f"*await {step.name}*" for step in flow.steps)
            or "none"
        )
        fails = ", ".join(dict.fromkeys(str(FAILS_TO[step.state]) for step in flow.steps)) or "–"
        first = ", ".join(map(str, begins(flow)))
        lines.append(f"| {flow.name} | {first} | {steps} | {flow.ends} | {fails} |")
    lines += [
        "",
        "`abort` closes the run in one commit, then switches the power off, and ends where the run fails to.",
        "",
        "## States",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> enroll",
    ]
    names = {state: str(state).replace(" ", "_").replace("-", "_") for state in ProvisionState}
    lines += [f"    {names[s]}: {s}" for s in ProvisionState if names[s] != str(s)]
    lines += [f"    {names[a]} --> {names[b]}" for a, b in sorted(edges())]
    lines += ["```", ""]
    lines += [
        "## Transitions",
        "",
        "A name: moves there. `~`: stays, something is recorded on the run. `=`: a recorded no-op. `x`: refused.",
        "",
    ]
    for title, rows in derive().items():
        events = list(TABLES[title])
        lines += [
            f"### {title}",
            "",
            f"| position | {' | '.join(events)} |",
            "|---" * (len(events) + 1) + "|",
        ]
        lines += [f"| {name} | {' | '.join(row[event] for event in events)} |" for name, row in rows.items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(document(), end="")
