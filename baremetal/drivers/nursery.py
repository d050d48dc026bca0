"""The small process that conversation children are forked from: `python -m baremetal.drivers.nursery`.

Has `child.py` loaded and nothing of the service, so that a child costs a fork and shares what is loaded. It does two
things, over a socket of packets that is its standard input: fork a child on the pipe that comes with a packet, and
answer its process id; and reap one that its parent has killed, to which there is no answer. Until then no other process
can have its number. Leaves when the socket closes, as the children do when their pipes close.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

NUMBER = struct.Struct("!q")
"""The answer to a fork, and the request to reap: a process id; in an answer, below zero for an errno."""
FORK = b"fork"
# Who is let go has just been killed, and takes a moment to end.
_REAPING_MS = 20


def serve(parent: socket.socket) -> None:
    """Serve requests until the other end of the socket is closed."""
    ending: set[int] = set()
    asked = select.poll()
    asked.register(parent, select.POLLIN)
    while True:
        while ending and not asked.poll(_REAPING_MS):
            ending = {pid for pid in ending if not _reaped(pid)}
        request, pipes, _, _ = socket.recv_fds(parent, NUMBER.size, 1)
        if not request:
            return
        if pipes:
            parent.send(NUMBER.pack(_fork(parent, pipes[0])))
        elif not _reaped(pid := NUMBER.unpack(request)[0]):
            ending.add(pid)


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


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    # not above: the parent imports this module, for what the two say to each other
    import baremetal.drivers.child  # noqa: F401

    gc.freeze()  # what is loaded is never garbage, and collecting would unshare it in every child
    with suppress(OSError):
        serve(socket.socket(fileno=0))
