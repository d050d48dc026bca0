"""The parent's hold on a child process that may hang: start it, ask it with a deadline, kill it.

Knows pipes and processes; deliberately knows nothing of what is said over them, except for the permit that a write
needs. Children are forked from a small server process that has `child.py` loaded and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import threading
import time
from multiprocessing import forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.connection import Connection, wait
from typing import Any

from baremetal.drivers.base import Permit
from baremetal.errors import BmcError, BmcErrorKind

__all__ = ["Child", "warm"]

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["baremetal.drivers.child", "baremetal.drivers.process"]

# multiprocessing's list of children is not made for threads that start and close processes at once
_lock = threading.Lock()


class _Popen(popen_forkserver.Popen):
    """Start a child without importing the parent's `__main__` in it.

    The stock launcher does, and with a web stack in `__main__` fifty children took 42 s instead of 0.6.
    The body is the standard library's (3.11 to 3.14) but for two lines.
    """

    def _launch(self, process_obj: Any) -> None:
        preparation = spawn.get_preparation_data(process_obj._name)
        preparation.pop("init_main_from_name", None)
        preparation.pop("init_main_from_path", None)
        buffer = io.BytesIO()
        multiprocessing.context.set_spawning_popen(self)
        try:
            reduction.dump(preparation, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            multiprocessing.context.set_spawning_popen(None)
        self.sentinel, writer = forkserver.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        parent_writer = os.dup(writer)
        self.finalizer = util.Finalize(self, _close_all, (parent_writer, self.sentinel))
        with open(writer, "wb", closefd=True) as pipe:
            pipe.write(buffer.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _Process(multiprocessing.context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


def warm() -> None:
    """Start the server process that children are forked from, so that the first conversation need not wait for it."""
    with _lock:
        _CONTEXT.set_forkserver_preload(_PRELOAD)
        forkserver.ensure_running()


def _enter(pipe: Connection) -> None:
    from baremetal.drivers import child  # not in the parent: it drags pyghmi in

    child.serve(pipe)


class Child:
    """One running child. Not for use by two threads at once. After a missed deadline it is dead."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._pipe = ours
        try:
            with _lock:
                _CONTEXT.set_forkserver_preload(_PRELOAD)
                self._process = _Process(target=_enter, args=(theirs,), daemon=True)
                self._process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._alive = True

    @property
    def alive(self) -> bool:
        """Whether the child can still be asked; false once it was killed or has gone."""
        return self._alive

    @property
    def pid(self) -> int:
        """The child's process id, while it lives."""
        pid = self._process.pid
        assert pid is not None
        return pid

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
        self.close(grace_s=0.0)

    def close(self, grace_s: float = 2.0) -> None:
        """Let the child end by itself within the grace, then make sure. Idempotent; never raises."""
        if not self._alive:
            return
        self._alive = False
        self._pipe.close()
        with contextlib.suppress(OSError, ValueError):
            if not wait([self._process.sentinel], grace_s):
                self._process.kill()
                wait([self._process.sentinel], 5.0)
        with _lock, contextlib.suppress(OSError, ValueError):
            self._process.join(0)
            self._process.close()


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
