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


class _Refused(OSError):
    """The nursery lives, and could not fork."""


class _Nursery:
    """One nursery process and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_PATIENCE_S)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "baremetal.drivers.nursery"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                )
            except BaseException:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, pipe: int) -> int:
        """Fork a child on this end of a pipe, and return its process id. Not for two threads at once.

        Raises _Refused; after anything else that is raised here it may yet answer, and must not be asked again.
        """
        socket.send_fds(self._socket, [FORK], [pipe])
        answer = self._socket.recv(NUMBER.size)
        if not answer:
            raise ConnectionResetError("the process that forks children has ended")
        pid = int(NUMBER.unpack(answer)[0])
        if pid < 0:
            raise _Refused(-pid, os.strerror(-pid))
        return pid

    def reap(self, pid: int) -> None:
        """Have a child reaped that was killed. Waits for nothing, and never raises: without a nursery init does it."""
        with contextlib.suppress(OSError):
            self._socket.send(NUMBER.pack(pid), socket.MSG_DONTWAIT)

    def close(self) -> None:
        """End it. Its children are their parent's to kill."""
        self._socket.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)


class _Nurseries:
    """The nursery of this process, one at a time; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: _Nursery | None = None

    def warm(self) -> None:
        with self._lock:
            self._start()

    def fork(self, pipe: int) -> tuple[_Nursery, int]:
        """Fork a child on this end of a pipe. Raises OSError; ConnectionError where the nursery has died.

        It may have forked just before it died: a second try needs another pipe, or two children might hear one parent.
        """
        with self._lock:
            nursery = self._start()
            try:
                return nursery, nursery.fork(pipe)
            except _Refused:
                raise
            except BaseException:
                self._drop()
                raise

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
            self._nursery, self._pid = _nurseries.fork(theirs.fileno())
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()
        self._handle = _handle(self._pid)

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
        """End the child at once, whatever it is doing, or its nursery. Idempotent; never raises."""
        if not self._alive:
            return
        self._alive = False
        self._pipe.close()
        with contextlib.suppress(OSError):
            if self._handle is None:
                os.kill(self._pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        if self._handle is not None:
            os.close(self._handle)
        self._nursery.reap(self._pid)


def _handle(pid: int) -> int | None:
    """Open what means this process and never another one that gets its number; None before Linux 5.3."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


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
