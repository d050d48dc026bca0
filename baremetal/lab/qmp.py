"""A client for QEMU's monitor protocol (QMP): commands, replies and events over one connected socket.

Owns the framing and the bounds on time. Knows nothing of what the commands mean, and never connects by itself: the
owner of the machine hands QEMU one end of a socket pair, so there is no socket file to race for or to leave behind.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from baremetal.errors import LabError

_CHUNK = 65536
_LONGEST_LINE = 1 << 20


class QmpClosed(LabError):
    """QEMU hung up: it has ended, or is about to."""


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """Something that QEMU reported unasked, such as SHUTDOWN or RESET."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


class QmpClient:
    """One conversation with one QEMU, for one thread. Events that arrive while a reply is awaited are kept in order."""

    def __init__(self, connected: socket.socket, *, timeout_s: float = 30.0) -> None:
        self._socket = connected
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        self._events: deque[QmpEvent] = deque()

    def fileno(self) -> int:
        """Give the descriptor, for a selector: readable means that `poll` has something to read, or the end."""
        return self._socket.fileno()

    def negotiate(self, timeout_s: float) -> None:
        """Take the greeting and leave negotiation mode. Raises LabError; QmpClosed when QEMU ended instead."""
        deadline = time.monotonic() + timeout_s
        while "QMP" not in self._receive(deadline, "the greeting"):
            pass
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command and return what it returned. Raises LabError on refusal or silence, QmpClosed at the end."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        deadline = time.monotonic() + self._timeout_s
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpClosed(f"QEMU took no {command}", seen=str(error)) from error
        while True:
            message = self._receive(deadline, command)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise LabError(f"QEMU refused {command}", seen=str(message["error"].get("desc")))
            self._keep(message)

    def poll(self) -> list[QmpEvent]:
        """Return the events that are there, without waiting. Raises QmpClosed when QEMU has hung up."""
        self._socket.settimeout(0.0)
        closed = False
        try:
            while data := self._socket.recv(_CHUNK):
                self._buffer += data
            closed = True
        except BlockingIOError:
            pass
        except OSError:
            closed = True
        while (message := self._next_line()) is not None:
            self._keep(message)
        events = list(self._events)
        self._events.clear()
        if closed and not events:
            raise QmpClosed("QEMU has ended")
        return events

    def close(self) -> None:
        """Hang up. QEMU itself goes on."""
        self._socket.close()

    def _keep(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._events.append(QmpEvent(str(message["event"]), dict(message.get("data", {}))))

    def _receive(self, deadline: float, awaited: str) -> dict[str, Any]:
        while (message := self._next_line()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(f"QEMU did not answer in time: {awaited}")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                continue
            except OSError as error:
                raise QmpClosed(f"QEMU ended before {awaited}", seen=str(error)) from error
            if not data:
                raise QmpClosed(f"QEMU ended before {awaited}")
            self._buffer += data
        return message

    def _next_line(self) -> dict[str, Any] | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            if len(self._buffer) > _LONGEST_LINE:
                raise LabError("QEMU's monitor sent a line without end")
            return None
        self._buffer = rest
        try:
            message = json.loads(line)
        except ValueError as error:
            raise LabError(
                "QEMU's monitor sent something that is not JSON", seen=repr(bytes(line[:80]))
            ) from error
        if not isinstance(message, dict):
            raise LabError("QEMU's monitor sent something unexpected", seen=repr(bytes(line[:80])))
        return message
