"""The monitor client against a scripted other end: framing, events, refusals, silence, hang-ups."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from baremetal.errors import LabError
from baremetal.lab.qmp import QmpClient, QmpClosed, QmpEvent

GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def send(theirs: socket.socket, *messages: dict[str, Any]) -> None:
    theirs.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))


def answer_each(
    theirs: socket.socket, reply: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> threading.Thread:
    def serve() -> None:
        with theirs.makefile("rb") as lines:
            for line in lines:
                send(theirs, *reply(json.loads(line)))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_negotiates_and_executes(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    send(theirs, GREETING)
    asked: list[dict[str, Any]] = []

    def reply(request: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append(request)
        return [{"event": "RESUME", "timestamp": {}}, {"return": {"done": len(asked)}}]

    thread = answer_each(theirs, reply)
    client = QmpClient(ours)
    client.negotiate(5)
    assert client.execute("qom-set", some_name="x", value=-1) == {"done": 2}
    assert asked[0] == {"execute": "qmp_capabilities"}
    assert asked[1] == {"execute": "qom-set", "arguments": {"some-name": "x", "value": -1}}
    assert client.poll() == [QmpEvent("RESUME"), QmpEvent("RESUME")]
    assert client.poll() == []
    client.close()
    thread.join()


def test_refusal_is_an_error_that_says_why(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    send(theirs, {"error": {"class": "GenericError", "desc": "no such device"}})
    with pytest.raises(LabError, match="no such device"):
        QmpClient(ours).execute("qom-set")


def test_silence_is_bounded(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(LabError, match="did not answer in time: cont"):
        QmpClient(ends[0], timeout_s=0.05).execute("cont")


def test_events_before_the_end_are_told_first(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    send(theirs, {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}})
    theirs.close()
    client = QmpClient(ours)
    assert client.poll() == [QmpEvent("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})]
    with pytest.raises(QmpClosed):
        client.poll()
    with pytest.raises(QmpClosed):
        client.execute("cont")


@pytest.mark.parametrize("rubbish", [b"hello\n", b"[]\n", b"\xff\n"])
def test_rubbish_is_refused(ends: tuple[socket.socket, socket.socket], rubbish: bytes) -> None:
    ours, theirs = ends
    theirs.sendall(rubbish)
    with pytest.raises(LabError, match="monitor sent something"):
        QmpClient(ours).poll()


def test_split_lines_are_put_together(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    client = QmpClient(ours)
    theirs.sendall(b'{"event": "ST')
    assert client.poll() == []
    theirs.sendall(b'OP"}\n')
    assert client.poll() == [QmpEvent("STOP")]
