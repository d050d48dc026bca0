"""Commands on another machine by SSH: the shell of a storage host that is not this one.

Owns one connection that is opened when it is needed and again after it broke, with a pinned host key, our own key,
argument arrays through `shlex.join`, deadlines and caps. A connection that is cut leaves open whether the command ran.
Deliberately unknown: what the commands are.
"""

from __future__ import annotations

import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import paramiko
from paramiko.ssh_exception import AuthenticationException, BadHostKeyException, SSHException

from baremetal.errors import LoginError, StorageError, StorageErrorKind
from baremetal.ssh import known_hosts, own_key
from baremetal.storage.base import Output

CONNECT_S = 12.0
_CAP = 64 << 20
_CHUNK = 32768


@dataclass(slots=True)
class SshShell:
    """See `base.Shell`. `host_key` is one line of a public key. For threads."""

    address: str
    port: int
    user: str
    private_key: str = field(repr=False)
    host_key: str
    _client: paramiko.SSHClient | None = field(default=None, repr=False)
    _held: paramiko.Transport | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def place(self) -> str:
        return f"{self.address}:{self.port}" if self.port != paramiko.config.SSH_PORT else self.address

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        return self.send(argv, iter((stdin,)), deadline_s=deadline_s)

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        deadline = time.monotonic() + deadline_s
        channel = self._start(argv, deadline)
        try:
            return _converse(channel, source, deadline)
        except (SSHException, OSError, EOFError) as error:
            raise self._cut(argv, error, deadline_s) from error
        finally:
            channel.close()

    @contextmanager
    def holding(self, argv: Sequence[str], *, deadline_s: float) -> Iterator[None]:
        deadline = time.monotonic() + deadline_s
        channel = self._start(argv, deadline)
        try:
            try:
                channel.settimeout(max(0.05, deadline - time.monotonic()))
                first = channel.recv(64)
            except (SSHException, OSError) as error:
                raise self._cut(argv, error, deadline_s) from error
            if not first:
                said = channel.recv_stderr(300).decode("utf-8", "replace").strip()
                raise StorageError(
                    f"{argv[0]} on {self.place} ended at once", StorageErrorKind.FAILED, seen=said or None
                )
            self._held = channel.get_transport()
            yield
        finally:
            self._held = None
            channel.close()

    def _start(self, argv: Sequence[str], deadline: float) -> paramiko.Channel:
        for fresh in (False, True):
            held = self._held
            if held is not None and not held.is_active():
                # what was held on that connection is held no more: nothing may go on as if it were
                raise self._cut(argv, EOFError("the connection that held the lock is gone"), 0.0)
            transport = self._transport()
            try:
                channel = transport.open_session(timeout=max(0.05, deadline - time.monotonic()))
                # sbin is not on the path of every user's shell, and texts are compared, so they are English
                command = shlex.join(["env", "LC_ALL=C", f"PATH={_PATH}", *argv])
                channel.exec_command(command)
                return channel
            except (SSHException, OSError, EOFError) as error:
                self._drop()
                if fresh:
                    raise self._cut(argv, error, 0.0) from error
        raise AssertionError("unreachable")

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            known = self._client.get_transport() if self._client is not None else None
            if known is not None and known.is_active():
                return known
            self._client = self._connect()
            transport = self._client.get_transport()
            assert transport is not None
            transport.set_keepalive(15)
            return transport

    def _connect(self) -> paramiko.SSHClient:
        try:
            client = known_hosts(
                self.place if self.port == 22 else f"[{self.address}]:{self.port}", [self.host_key]
            )
            client.connect(
                self.address,
                port=self.port,
                username=self.user,
                pkey=own_key(self.private_key),
                timeout=CONNECT_S,
                banner_timeout=CONNECT_S,
                auth_timeout=CONNECT_S,
                channel_timeout=CONNECT_S,
                allow_agent=False,
                look_for_keys=False,
            )
        except BadHostKeyException as error:
            raise StorageError(
                f"{self.place} showed another host key than the pinned one",
                StorageErrorKind.HOST_KEY,
                seen=error.key.fingerprint,
                fix="find out why; if the machine was set up anew, remove the storage host and add it again",
            ) from error
        except LoginError as error:
            raise StorageError(str(error), StorageErrorKind.HOST_KEY) from error
        except AuthenticationException as error:
            raise StorageError(
                f"{self.place} refused our key for {self.user}",
                StorageErrorKind.MISSING,
                seen=str(error) or None,
                fix=f"put this line into the authorized_keys of {self.user} there: {_public(self.private_key)}",
            ) from error
        except (SSHException, OSError, EOFError) as error:
            raise StorageError(
                f"no SSH answer from {self.place}",
                StorageErrorKind.UNREACHABLE,
                seen=str(error) or type(error).__name__,
            ) from error
        return client

    def _drop(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _cut(self, argv: Sequence[str], error: Exception, deadline_s: float) -> StorageError:
        late = isinstance(error, TimeoutError | socket.timeout)
        if not late:  # a command that is slow is no reason to cut the others of this connection
            self._drop()
        what = f"was not done within {deadline_s:g} s" if late else "was cut off"
        return StorageError(
            f"{argv[0]} on {self.place} {what}",
            StorageErrorKind.UNREACHABLE,
            seen=None if late else str(error) or type(error).__name__,
        )


def scan_host_key(address: str, port: int) -> str:
    """Return the public host key that a machine shows, as one line: to be pinned once somebody has compared it.

    Raises StorageError.
    """
    place = f"{address}:{port}"
    try:
        with socket.create_connection((address, port), timeout=CONNECT_S) as sock:
            transport = paramiko.Transport(sock)
            try:
                transport.start_client(timeout=CONNECT_S)
                key = transport.get_remote_server_key()
            finally:
                transport.close()
    except (SSHException, OSError, EOFError) as error:
        raise StorageError(
            f"no SSH answer from {place}",
            StorageErrorKind.UNREACHABLE,
            seen=str(error) or type(error).__name__,
        ) from error
    return f"{key.get_name()} {key.get_base64()}"


def _public(private_key: str) -> str:
    key = own_key(private_key)
    return f"{key.get_name()} {key.get_base64()} baremetal"


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _converse(channel: paramiko.Channel, source: Iterator[bytes], deadline: float) -> Output:
    """Write in this thread and read in two others, so that neither side waits for the other."""
    out, err = bytearray(), bytearray()
    readers = [
        threading.Thread(target=_drain, args=(read, kept), daemon=True)
        for read, kept in ((channel.recv, out), (channel.recv_stderr, err))
    ]
    for reader in readers:
        reader.start()
    try:
        for part in source:
            view = memoryview(part)
            while view:
                channel.settimeout(max(0.05, deadline - time.monotonic()))
                view = view[channel.send(bytes(view[:_CHUNK])) :]
        channel.shutdown_write()
    except OSError:
        if not channel.exit_status_ready():  # what has read enough says why by its status
            raise
    if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
        raise TimeoutError
    for reader in readers:
        reader.join(max(0.05, deadline - time.monotonic()))
    if channel.exit_status < 0:
        raise EOFError("no exit status")
    return Output(channel.exit_status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def _drain(read: object, kept: bytearray) -> None:
    try:
        while len(kept) < _CAP and (data := read(_CHUNK)):  # type: ignore[operator]
            kept += data
    except (SSHException, OSError):
        pass
