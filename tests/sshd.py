"""An SSH server on the loopback (paramiko's own) whose one key is bound to a forced command, as in deployed systems."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import paramiko

from baremetal.drivers.keys import generate_keypair

OWN = generate_keypair()
HOST = generate_keypair("host")


def private(pair_private: str) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pair_private))


class ForcedCommand(paramiko.ServerInterface):
    """An sshd whose only key is bound to a forced command: it prints the run, or what `answers` says."""

    def __init__(
        self, prints: bytes, status: int | None, key: str = OWN.private, answers: Mapping[str, bytes] = {}
    ) -> None:
        self.prints = prints
        self.answers = answers
        self.asked: list[str] = []
        self.status = status
        self.key = private(key)
        self.offered: list[str] = []

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.offered.append(key.fingerprint)
        good = username == "root" and key == self.key
        return paramiko.common.AUTH_SUCCESSFUL if good else paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.append(command.decode())
        # a little later: paramiko's server sends the "yes" to this request only after it returns
        later = threading.Timer(0.05, self.run, args=(channel,))
        later.daemon = True
        later.start()
        return True

    def run(self, channel: paramiko.Channel) -> None:
        try:
            channel.sendall(self.answers.get(self.asked[-1], self.prints))
            if self.status is None:
                return  # hang: say something and never finish
            if self.status:
                channel.sendall_stderr(b"cat: /etc/baremetal/run: No such file or directory\n")
            channel.send_exit_status(self.status)
            channel.close()
        except (OSError, EOFError, paramiko.SSHException):
            pass  # the client has heard enough


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread, on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for connection in accepted:
            connection.close()


@contextmanager
def sshd(
    prints: bytes = b"bm-1/7\n",
    status: int | None = 0,
    host: str = HOST.private,
    accepts: str = OWN.private,
    answers: Mapping[str, bytes] = {},
) -> Iterator[tuple[int, ForcedCommand]]:
    command = ForcedCommand(prints, status, accepts, answers)
    transports: list[paramiko.Transport] = []

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transports.append(transport)
        transport.add_server_key(private(host))
        try:
            transport.start_server(server=command)
        except (paramiko.SSHException, EOFError, OSError):
            pass  # the client turned away

    with listening(serve) as port:
        try:
            yield port, command
        finally:
            for transport in transports:
                transport.close()
