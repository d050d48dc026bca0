"""SSH to what was deployed: the proof that the machine which answers runs what we installed.

Owns one login: pinned host keys only (`RejectPolicy`), our key only, one total deadline, a capped answer. The key is
bound to a forced command on the machine (`netboot/context.py`): nothing else can be run, and what comes back is that
command's output. Deliberately unknown: what the output should say, when to try again, and for how long.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

import paramiko
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    ChannelException,
    PasswordRequiredException,
    SSHException,
)

from baremetal.errors import LoginError
from baremetal.ssh import LOGIN_REFUSED, UNREACHABLE, WRONG_HOST_KEY, known_hosts, own_key, own_key_unreadable

ANSWER_CAP = 4096

# A key without its forced command would run this: harmless, and its empty answer proves nothing.
_ASKED = "true"


def check_login(
    address: str,
    port: int,
    user: str,
    private_key: str,
    host_keys: Sequence[str],
    deadline_s: float,
    asked: str = _ASKED,
) -> str:
    """Log in once and return what the forced command printed, at most `ANSWER_CAP` bytes of it.

    `asked`: what the forced command may look at: `poweroff` or `reboot`, which it prints and does.
    `host_keys` are public key lines; a machine that shows none of them is refused before our key is offered.
    Takes at most `deadline_s` in all. Raises LoginError: transient where nothing answered properly (UNREACHABLE) or
    another machine did (WRONG_HOST_KEY: an address that was reported may be somebody else's by now, and the lease may
    move back); final where no host key is known, for a refused key or a forced command that failed (LOGIN_REFUSED).
    """
    deadline = time.monotonic() + deadline_s
    place = f"[{address}]:{port}" if port != paramiko.config.SSH_PORT else address
    client = known_hosts(place, host_keys)
    key = own_key(private_key)
    try:
        sock = socket.create_connection((address, port), timeout=deadline_s)
    except OSError as error:
        raise _unreachable(place, error) from error
    # paramiko's waits each have their own time-out, and some have none: cutting the wire ends them all.
    expired = threading.Event()

    def cut() -> None:
        expired.set()
        _shut(sock)

    watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        return _converse(client, sock, place, address, port, user, key, deadline, asked)
    except LoginError:
        if expired.is_set():
            raise _too_late(place, deadline_s) from None
        raise
    except (SSHException, OSError, EOFError) as error:
        if expired.is_set():
            raise _too_late(place, deadline_s) from error
        raise _unreachable(place, error) from error
    finally:
        watchdog.cancel()
        _shut(sock)
        client.close()
        sock.close()


def _converse(
    client: paramiko.SSHClient,
    sock: socket.socket,
    place: str,
    address: str,
    port: int,
    user: str,
    key: paramiko.PKey,
    deadline: float,
    asked: str,
) -> str:
    left = _left(deadline)
    try:
        client.connect(
            address,
            port=port,
            username=user,
            pkey=key,
            sock=sock,
            timeout=left,
            banner_timeout=left,
            auth_timeout=left,
            channel_timeout=left,
            allow_agent=False,
            look_for_keys=False,
        )
    except BadHostKeyException as error:
        raise _wrong_host_key(place, error.key.fingerprint) from error
    except PasswordRequiredException as error:
        raise own_key_unreadable() from error
    except AuthenticationException as error:
        # paramiko has one class for a refusal and for a connection that ended in the middle
        if "EOF" in str(error) or "timeout" in str(error).lower():
            raise _unreachable(place, error) from error
        raise LoginError(
            f"{place} refused our key for {user}",
            transient=False,
            code=LOGIN_REFUSED,
            seen=str(error) or None,
            fix="check that the profile's template writes the proof key to authorized_keys",
        ) from error
    transport = client.get_transport()
    if transport is None:
        raise _unreachable(place, EOFError("the connection was closed"))
    try:
        channel = transport.open_session(timeout=_left(deadline))
        channel.settimeout(_left(deadline))
        channel.exec_command(asked)
    except ChannelException as error:
        raise LoginError(
            f"{place} let us in and would not run a command",
            transient=False,
            code=LOGIN_REFUSED,
            seen=str(error),
        ) from error
    return _read(channel, place, deadline)


def _read(channel: paramiko.Channel, place: str, deadline: float) -> str:
    answer = b""
    while chunk := channel.recv(ANSWER_CAP + 1 - len(answer)):
        answer += chunk
        if len(answer) > ANSWER_CAP:
            raise LoginError(
                f"{place} answered with more than {ANSWER_CAP} bytes",
                transient=False,
                code=LOGIN_REFUSED,
                fix="check the forced command of the proof key in authorized_keys",
            )
        channel.settimeout(_left(deadline))
    # recv_exit_status() would wait without end.
    if not channel.status_event.wait(_left(deadline)):
        raise TimeoutError("no exit status")
    if channel.exit_status > 0:
        said = channel.recv_stderr(ANSWER_CAP) if channel.recv_stderr_ready() else b""
        raise LoginError(
            f"the proof command on {place} failed with status {channel.exit_status}",
            transient=False,
            code=LOGIN_REFUSED,
            seen=said.decode("utf-8", "replace").strip()[:200] or None,
        )
    return answer.decode("utf-8", "replace")


def _left(deadline: float) -> float:
    # Never 0 or less: that would make a socket non-blocking, and the watchdog ends it anyway.
    return max(0.05, deadline - time.monotonic())


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed by the other side, or already by us


def _unreachable(place: str, error: Exception) -> LoginError:
    return LoginError(
        f"no SSH answer from {place}",
        transient=True,
        silent=True,
        code=UNREACHABLE,
        seen=str(error) or type(error).__name__,
    )


def _too_late(place: str, deadline_s: float) -> LoginError:
    return LoginError(
        f"SSH to {place} was not done within {deadline_s:g} s",
        transient=True,
        silent=True,
        code=UNREACHABLE,
        seen="a time-out",
    )


def _wrong_host_key(place: str, fingerprint: str) -> LoginError:
    return LoginError(
        f"{place} showed a host key that the installer of this run did not report",
        transient=True,
        code=WRONG_HOST_KEY,
        seen=fingerprint,
        fix="see which machine answers at this address; it is not the system that was deployed",
    )
