"""The small process that conversation children are forked from: `python -m baremetal.drivers.nursery DESCRIPTOR`.

Has `child.py` loaded and nothing of the service, so that a child costs a fork and shares what is loaded. It does two
things, over a socket of packets: fork a child on the pipe that comes with a packet, and end one. A child is reaped only
when its parent says so: until then no other process can have its number, and nobody else is killed in its place.
Leaves when the socket closes, as the children do when their pipes close.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

NUMBER = struct.Struct("!q")
"""Every answer, and the request to end a child: a process id; of an answer, below zero for an errno."""
FORK = b"fork"
# A killed process ends at once or takes its time; others want to be forked meanwhile.
_REAPING_S = 0.02


def serve(parent: socket.socket) -> None:
    """Answer requests until the other end of the socket is closed."""
    ending: set[int] = set()
    while True:
        while ending and not select.select([parent], (), (), _REAPING_S)[0]:
            ending = {pid for pid in ending if not _reaped(pid)}
        request, pipes, _, _ = socket.recv_fds(parent, NUMBER.size, 1)
        if not request:
            return
        if pipes:
            answer = _fork(parent, pipes[0])
        else:
            (answer,) = NUMBER.unpack(request)
            with suppress(ProcessLookupError):
                os.kill(answer, signal.SIGKILL)
            if not _reaped(answer, within_s=_REAPING_S):
                ending.add(answer)
        parent.send(NUMBER.pack(answer))


def _fork(parent: socket.socket, pipe: int) -> int:
    try:
        pid = os.fork()
    except OSError as error:
        os.close(pipe)
        return -(error.errno or 1)
    if pid == 0:
        _live(parent, pipe)
    os.close(pipe)
    return pid


def _live(parent: socket.socket, pipe: int) -> NoReturn:
    """Be the child: whatever happens here must not come back into the loop of the nursery."""
    try:
        from baremetal.drivers import child

        parent.close()
        child.serve(Connection(pipe))
    finally:
        os._exit(1)


def _reaped(pid: int, within_s: float = 0.0) -> bool:
    deadline = time.monotonic() + within_s
    try:
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.0005)
    except ChildProcessError:
        pass
    return True


if __name__ == "__main__":
    # not above: the parent imports this module, for what the two say to each other
    import baremetal.drivers.child  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    gc.freeze()  # what is loaded is never garbage, and collecting would unshare it in every child
    with suppress(OSError):
        serve(socket.socket(fileno=int(sys.argv[1])))
