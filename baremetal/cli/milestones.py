"""From the events of one run to what a person wants to read: one row per milestone. Pure: events in, rows out.

Knows the shape of the API's events and the names of the workflows' steps; knows no terminal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from baremetal.lifecycle.model import BootTarget, Method, Verb
from baremetal.lifecycle.workflows import MOVING, WORKFLOWS, Way, Workflow

_CODE = re.compile(r"\b(BM\d{3})\b:?\s*")
_MOVING = {str(state) for state in MOVING}
_NETBOOT = ("off", "still off", "pxe", "on", "script")
_DID = {
    "off": "power off",
    "still off": "power off",
    "end": "power off",
    "on": "power on",
    "boot": "power on",
    "check": "BMC answers",
    "proof": "proof by SSH",
    "clear": "boot device cleared",
}
_DOING = {
    "off": "switching the power off",
    "pxe": "setting the boot device to pxe, once",
    "on": "switching the power on",
    "script": "firmware starts; it should fetch its boot script",
    "started": "installer starts; it should ask for go",
    "complete": "installing",
    "flip": "setting the boot device to the disk",
    "first boot": "the installed system should call home",
    "proof": "proving by SSH what runs",
    "check": "asking the BMC who it is",
    "clear": "clearing the boot device",
    "still off": "making sure that the power is off",
    "end": "switching the power off",
    "boot": "switching the power on",
}


_ERRANDS = {
    "inspect": "inspecting",
    "rescue": "rescue system starts",
    "provide": "wiping",
    "release": "wiping",
}


class Mark(StrEnum):
    BEGIN = "begin"
    DONE = "done"
    STAGE = "stage"
    WARN = "warn"
    FAIL = "fail"
    END = "end"


@dataclass(frozen=True, slots=True)
class Row:
    """One milestone. `since_s` counts from the run's start, `took_s` from the row before.

    A later row with the same `key`, if it has one, takes the place of an earlier one.
    """

    id: int
    at: datetime
    since_s: float
    took_s: float
    mark: Mark
    title: str
    detail: str = ""
    code: str = ""
    key: str = ""


@dataclass(slots=True)
class Milestones:
    """A run as it is told so far. Feed it every event of the server, in order; those of other runs are passed over."""

    server: str
    run: int
    profile: str = ""
    disks: Sequence[Mapping[str, Any]] = ()
    rows: list[Row] = field(default_factory=list)
    verb: str = ""
    wipe: bool = False
    way: Way = Way.DISK
    ended: str = ""
    failed: bool = False
    reason: str = ""
    code: str = ""
    logs: list[str] = field(default_factory=list)
    started_at: datetime | None = None
    waits_since: int | None = None
    """The event with which it began to wait for its turn; a number is used again where a deploy never began."""
    _closing: bool = False
    _seen: set[str] = field(default_factory=set)
    _last: datetime | None = None

    def feed(self, event: Mapping[str, Any]) -> list[Row]:
        """Take one event and return the rows that it adds (or replaces, by key)."""
        if self.ended or event.get("run") not in (self.run, None):
            return []
        at = parse_time(event["at"])
        kind = event["kind"]
        body = event.get("event") or {}
        if kind == "decision" and event.get("outcome") == "no-op":
            return []
        if self.started_at is None and not (body.get("type") == "asked" and event.get("run") == self.run):
            after = self.waits_since
            if after is not None and int(event["id"]) > after and _left_queue(event) and self._is_own(event):
                self.ended, self.failed = "not begun", True
                self.code, self.reason = split_code(str(event["note"]).removeprefix("did not begin: "))
            return []
        told = self._decided(event, body) if kind == "decision" else self._observed(event)
        if told is None:
            return []
        if self.started_at is None:
            self.started_at = self._last = at
        added = [self._row(event, at, *told)]
        if ends_run(event):
            added += self._end(event, at)
        return added

    def _is_own(self, event: Mapping[str, Any]) -> bool:
        return event.get("run") == self.run

    def is_over(self) -> bool:
        """Whether the run's end was told."""
        return bool(self.ended)

    @property
    def took_s(self) -> float:
        """How long the run has taken, up to the last row."""
        return self.rows[-1].since_s if self.rows else 0.0

    # -- the rows --

    def _row(
        self, event: Mapping[str, Any], at: datetime, mark: Mark, title: str, detail: str = "", key: str = ""
    ) -> Row:
        assert self.started_at is not None
        assert self._last is not None
        # Observations are written a little after what they saw, so a row may be older than the one above it.
        before = self._last
        self._last = max(at, before)
        code, text = split_code(detail)
        row = Row(
            id=int(event["id"]),
            at=at,
            since_s=max(0.0, (at - self.started_at).total_seconds()),
            took_s=max(0.0, (at - before).total_seconds()),
            mark=mark,
            title=title,
            detail=text,
            code=code,
            key=key,
        )
        if key and self.rows and self.rows[-1].key == key:
            self.rows[-1] = row
        else:
            self.rows.append(row)
        return row

    def _decided(
        self, event: Mapping[str, Any], body: Mapping[str, Any]
    ) -> tuple[Mark, str, str] | tuple[Mark, str, str, str] | None:
        note = str(event["note"])
        if event.get("outcome") == "refused":
            return (Mark.WARN, "refused", note) if body.get("type") == "heard" else None
        match body.get("type"):
            case "asked" if body.get("verb") == Verb.ABORT:
                return self._close(f"aborted by {body.get('by') or 'an operator'}")
            case "asked":
                self.verb = str(body.get("verb"))
                self.wipe = bool(body.get("wipe"))
                self.way = _way(body)
                by = f"asked by {body.get('by') or 'an operator'}"
                title = f"{self.verb} --wipe" if self.wipe else self.verb
                return Mark.BEGIN, title, f"{self.profile} · {by}" if self.profile else by
            case "did":
                return self._done(event, body)
            case "failed":
                if ends_run(event):
                    return self._fail(note)
                return Mark.WARN, "trying again", note, f"retry-{body.get('step')}"
            case "heard":
                return self._heard(event, body)
            case "fetched":
                again = note.endswith(", again")
                title = "boot script fetched" + (" again" if again else "")
                return (Mark.WARN if again else Mark.DONE), title, str(body.get("address") or "")
            case "overdue":
                if ends_run(event):
                    return self._fail(note)
                if "the run is closed" in note:
                    return self._close(note.partition("; the run is closed")[0])
                self._seen.clear()
                return Mark.WARN, "netboot again", note.partition("; netboot")[0]
            case "maintenancechanged":
                on = "on" if body.get("on") else "off"
                return Mark.WARN, f"maintenance {on}", f"by {body.get('by') or 'an operator'}"
        return None

    def _done(self, event: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[Mark, str, str] | None:
        note = str(event["note"])
        if "the run is closed" in note:
            return self._close(note.partition("; the run is closed")[0])
        if "netboot begins again" in note:
            self._seen.clear()
            return Mark.WARN, "netboot again", note.partition(";")[0]
        step = self._step(int(body.get("step") or 0))
        title = _DID.get(step) or note.partition(": ")[0]
        detail = str(body.get("seen") or "")
        if step in ("check", "proof"):
            return Mark.DONE, title, detail
        if not body.get("wrote"):
            return Mark.DONE, title, "already so"
        return Mark.DONE, title, "" if detail == "read back" else detail

    def _heard(
        self, event: Mapping[str, Any], body: Mapping[str, Any]
    ) -> tuple[Mark, str, str] | tuple[Mark, str, str, str] | None:
        note = str(event["note"])
        match body.get("signal"):
            case "install-started":
                if ends_run(event):
                    return self._fail(note)
                return Mark.DONE, "go", self._disk(str(body.get("disk") or ""))
            case "wipe-started":
                if ends_run(event):
                    return self._fail(note)
                return Mark.DONE, "go", f"to wipe {', '.join(map(str, body.get('disks') or ()))}"
            case "progress":
                stage = str(body.get("stage") or "progress")
                return Mark.STAGE, stage, str(body.get("message") or ""), f"stage-{stage}"
            case "install-complete":
                return Mark.DONE, "install complete", ""
            case "install-failed" | "wipe-failed" | "inspect-failed" | "rescue-failed":
                return self._fail(note)
            case "wipe-complete" | "inspect-complete" | "rescue-started" as signal:
                return Mark.DONE, signal.replace("-", " "), str(body.get("message") or "")
            case "first-boot":
                return Mark.DONE, "first boot", str(body.get("address") or "")
        return Mark.WARN, str(body.get("signal")), note

    def _observed(self, event: Mapping[str, Any]) -> tuple[Mark, str, str] | None:
        data = event.get("data") or {}
        what = str(data.get("what") or "")
        address = str(data.get("address") or "")
        file = str(data.get("file") or "")
        match what:
            case "kernel" | "initrd" | "answer":
                # Installers fetch twice; the second time is news only where it comes from elsewhere.
                first, here = what not in self._seen, f"{what} {address}"
                known = here in self._seen
                self._seen |= {what, here}
                if known:
                    return None
                title = "answer file fetched" if what == "answer" else f"{what} fetched"
                if first:
                    return Mark.DONE, title, file.rpartition("/")[2]
                return Mark.WARN, f"{title} again", f"from a second address, {address}"
            case "dhcp":
                elsewhere = data.get("kind") == "elsewhere"
                return (Mark.WARN if elsewhere else Mark.STAGE), "DHCP", str(event["note"]).partition(": ")[2]
            case "log":
                self.logs.append(file)
                return Mark.STAGE, "log uploaded", file
            case "missing":
                return Mark.WARN, "file missing", file
            case "refused" | "render":
                return Mark.WARN, what.replace("render", "not rendered"), str(event["note"])
        if event["kind"] == "audit" and event.get("run") == self.run:
            return Mark.WARN, "operator", str(event["note"])
        return None

    # -- the ends --

    def _close(self, reason: str) -> tuple[Mark, str, str]:
        self._closing = True
        self.code, self.reason = split_code(reason)
        return Mark.FAIL, "giving up", reason

    def _fail(self, note: str) -> tuple[Mark, str, str]:
        text = note.removeprefix("failed: ")
        self.code, self.reason = split_code(text)
        return Mark.FAIL, "failed", text

    def _end(self, event: Mapping[str, Any], at: datetime) -> list[Row]:
        self.ended = str(event["to_state"])
        flow = self._flow()
        self.failed = flow is None or self.ended != flow.ends or self._closing
        if self.failed:
            self.reason = self.reason or str(event["note"])
            return []
        return [self._row(event, at, Mark.END, self.ended)]

    def _flow(self) -> Workflow | None:
        known = self.verb in tuple(Verb)
        if not known:
            return None
        return WORKFLOWS.get((Verb(self.verb), self.wipe, self.way))

    def _step(self, index: int) -> str:
        flow = self._flow()
        if flow is None:
            return ""
        steps = flow.closing if self._closing else flow.steps
        return steps[index].name if index < len(steps) else ""

    def _disk(self, name: str) -> str:
        for disk in self.disks:
            if disk.get("name") == name:
                size = f"{human_size(int(disk['size']))}" if disk.get("size") else ""
                return " · ".join(part for part in (name, str(disk.get("serial") or ""), size) if part)
        return name


def ends_run(event: Mapping[str, Any]) -> bool:
    """Whether a run ended with this event: it left the moving states."""
    state, before = event.get("to_state"), event.get("from_state")
    return event["kind"] == "decision" and bool(state) and state not in _MOVING and before in _MOVING


def began_to_wait(event: Mapping[str, Any]) -> bool:
    """Whether a deploy was asked for and waits for its turn."""
    data = event.get("data") or {}
    return data.get("what") == "queue" and data.get("kind") == "waits"


def _left_queue(event: Mapping[str, Any]) -> bool:
    """Whether a deploy that waited for its turn was given up."""
    data = event.get("data") or {}
    return data.get("what") == "queue" and data.get("kind") == "left"


def waiting_for(server: Mapping[str, Any]) -> str:
    """Say what a server's open run, or a deploy that has not begun, is waiting for; "" without one."""
    run = server.get("run")
    if not run:
        waiting = server.get("waiting")
        if not waiting:
            return ""
        first = "next" if waiting["place"] == 1 else f"{waiting['place'] - 1} before it"
        return f"{waiting['verb']} of {waiting['profile']} waits for its turn, {first}"
    step = str(run.get("step") or "")
    text = _DOING.get(step, step)
    if run.get("verb") in _ERRANDS and step in ("started", "complete"):
        return f"{_ERRANDS[run['verb']]}: {run.get('last_sign') or 'no sign of life yet'}"
    if step == "complete" and run.get("last_sign"):
        sign, disk = str(run["last_sign"]), str((run.get("go") or {}).get("disk") or "")
        text = f"installing: {sign}"
        if sign.startswith("go"):
            text = f"installing on {disk}" if disk else "installing"
    if step in _NETBOOT and int(run.get("attempt") or 1) > 1:
        text += f" (attempt {run['attempt']})"
    return text


def split_code(text: str) -> tuple[str, str]:
    """Take the BM code off a sentence: it begins with one, or carries one."""
    found = _CODE.search(text)
    if found is None:
        return "", text
    return found[1], (text[: found.start()] + text[found.end() :]).strip()


def parse_time(value: str | datetime) -> datetime:
    """Read a time of the API."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value.replace("Z", "+00:00"))


def human_size(size: int) -> str:
    """Write a disk's size as its label does: 480 GB, 4.0 TB; small ones in MiB."""
    if size < 1 << 30:
        return f"{size / (1 << 20):.0f} MiB"
    for unit in ("GB", "TB", "PB"):
        size_in = size / 1000 ** {"GB": 3, "TB": 4, "PB": 5}[unit]
        if size_in < 1000 or unit == "PB":
            return f"{size_in:.1f} {unit}" if size_in < 10 else f"{size_in:.0f} {unit}"
    return str(size)


def human_time(seconds: float) -> str:
    """Write a duration: 4.3 s, 2:05, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def _way(asked: Mapping[str, Any]) -> Way:
    """Say which of its verb's rows a run takes, by the words of an event that may be of a newer program."""
    method, target = str(asked.get("method")), str(asked.get("target"))
    known = method in tuple(Method) and target in tuple(BootTarget)
    return Way.of(Method(method), BootTarget(target)) if known else Way.DISK
