"""The parent's hold on a child process that may hang: start it, ask it with a deadline, kill it.

Knows pipes and processes; deliberately knows nothing of what is said over them, except for the permit that a write
needs. Children are forked from one small process (`nursery.py`), which is started when the first is wanted, and again
when it has died.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe
from typing import Any

from baremetal.drivers.base import Permit
from baremetal.drivers.nursery import FORK, NUMBER
from baremetal.errors import BmcError, BmcErrorKind

__all__ = ["Child", "warm"]

# Forking takes a millisecond, starting the nursery a third of a second; a machine may be very busy.
_PATIENCE_S = 20.0


class _Nursery:
    """One nursery process and the socket to it. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_PATIENCE_S)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "baremetal.drivers.nursery", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                )
            except BaseException:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, pipe: int) -> int:
        """Fork a child on this end of a pipe, and return its process id. Raises OSError."""
        socket.send_fds(self._socket, [FORK], [pipe])
        return self._answer()

    def end(self, pid: int) -> None:
        """Kill and reap a child. Raises OSError."""
        self._socket.send(NUMBER.pack(pid))
        self._answer()

    def _answer(self) -> int:
        answer = self._socket.recv(NUMBER.size)
        if not answer:
            raise ConnectionResetError("the process that forks children has ended")
        (pid,) = NUMBER.unpack(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return int(pid)

    def close(self) -> None:
        """Let it go: it leaves by itself when the socket closes. Idempotent."""
        self._socket.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Nurseries:
    """The nursery of this process, one at a time; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: _Nursery | None = None

    def warm(self) -> None:
        with self._lock:
            self._start()

    def fork(self, pipe: int) -> int:
        """Fork a child on this end of a pipe. Raises OSError; ConnectionError, TimeoutError where the nursery has gone.

        It may have forked just before it went: a second try needs another pipe, or two children might hear one parent.
        """
        with self._lock:
            try:
                return self._start().fork(pipe)
            except (ConnectionError, TimeoutError):
                self._drop()
                raise

    def end(self, pid: int) -> None:
        """Kill a child. Never raises."""
        with self._lock, contextlib.suppress(OSError):
            if self._now is not None:
                try:
                    self._now.end(pid)
                    return
                except (ConnectionError, TimeoutError):
                    self._drop()
            os.kill(pid, signal.SIGKILL)  # it has outlived its nursery

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _start(self) -> _Nursery:
        if self._now is None:
            self._now = _Nursery()
        return self._now

    def _drop(self) -> None:
        gone, self._now = self._now, None
        if gone is not None:
            gone.close()


_nurseries = _Nurseries()
atexit.register(_nurseries.close)


def warm() -> None:
    """Start the process that children are forked from, so that the first conversation need not wait for it."""
    _nurseries.warm()


class Child:
    """One running child. Not for use by two threads at once. After a missed deadline it is dead."""

    def __init__(self) -> None:
        try:
            self._fork()
        except ConnectionError:
            self._fork()
        self._alive = True

    def _fork(self) -> None:
        self._pipe, theirs = Pipe()
        try:
            self._pid = _nurseries.fork(theirs.fileno())
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()

    @property
    def alive(self) -> bool:
        """Whether the child can still be asked; false once it was killed or has gone."""
        return self._alive

    @property
    def pid(self) -> int:
        """The child's process id, its own until `kill` is called."""
        return self._pid

    def ask(
        self, request: tuple[Any, ...], deadline_s: float, permit: Permit | None = None
    ) -> tuple[Any, ...]:
        """Ask and wait for the answer; when the child is about to write, let `permit` decide.

        Raises BmcError DEADLINE (the child is then dead), PROTOCOL when it died by itself, or what `permit` raised:
        then nothing was sent and the child can be asked again.
        """
        deadline = time.monotonic() + deadline_s
        refusal: BaseException | None = None
        try:
            self._pipe.send(request)
            answer = self._hear(deadline, deadline_s)
            if answer == ("permit?",):
                refusal = _refusal(permit, deadline, deadline_s)
                self._pipe.send(("yes",) if refusal is None else ("no",))
                answer = self._hear(deadline if refusal is None else time.monotonic() + 1.0, deadline_s)
        except (OSError, EOFError):
            self.kill()
            raise BmcError("the driver's child process ended unexpectedly", BmcErrorKind.PROTOCOL) from None
        except BaseException:
            self.kill()  # an answer may be under way that the next question would take for its own
            raise
        if refusal is not None:
            raise refusal
        return answer

    def _hear(self, deadline: float, deadline_s: float) -> tuple[Any, ...]:
        if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
            raise BmcError(f"the BMC took longer than {deadline_s:g} s", BmcErrorKind.DEADLINE)
        answer: tuple[Any, ...] = self._pipe.recv()
        return answer

    def kill(self) -> None:
        """End the child at once, whatever it is doing. Idempotent; never raises."""
        if self._alive:
            self._alive = False
            self._pipe.close()
            _nurseries.end(self._pid)


def _refusal(permit: Permit | None, deadline: float, deadline_s: float) -> BaseException | None:
    """Run the permit just before the first byte of a write; return what forbids it."""
    try:
        if permit is not None:
            permit()
    except BaseException as error:
        return error
    if time.monotonic() >= deadline:
        return BmcError(f"no time was left of {deadline_s:g} s to send the write", BmcErrorKind.DEADLINE)
    return None
