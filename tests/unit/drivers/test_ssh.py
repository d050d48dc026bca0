"""`check_login` against a real SSH server (paramiko's own) on the loopback, and against servers that misbehave."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

import paramiko
import pytest

from baremetal.drivers.keys import generate_keypair
from baremetal.drivers.ssh import ANSWER_CAP, check_login
from baremetal.engine.perform import LoginTarget, Performer
from baremetal.errors import LoginError
from baremetal.ssh import LOGIN_REFUSED, UNREACHABLE, WRONG_HOST_KEY
from tests.sshd import HOST, OWN, ForcedCommand, listening, private, sshd

pytestmark = pytest.mark.slow  # real sockets, and deadlines that are waited out

OTHER = generate_keypair("other")


def login(port: int, deadline_s: float = 10, **more: object) -> str:
    asked: dict[str, object] = {"private_key": OWN.private, "host_keys": [HOST.public], "user": "root"} | more
    return check_login("127.0.0.1", port, deadline_s=deadline_s, **asked)  # type: ignore[arg-type]


def test_returns_what_the_forced_command_printed() -> None:
    with sshd() as (port, _):
        assert login(port) == "bm-1/7\n"


def test_what_is_asked_reaches_the_forced_command_and_nothing_else_does() -> None:
    """S4-17."""
    with sshd(answers={"poweroff": b"poweroff\n"}) as (port, command):
        assert login(port, asked="poweroff") == "poweroff\n"
        assert login(port) == "bm-1/7\n"
        assert command.asked == ["poweroff", "true"]


def test_finds_the_right_one_among_the_reported_host_keys() -> None:
    ecdsa = paramiko.ECDSAKey.generate()
    rsa = paramiko.RSAKey.generate(2048)
    reported = [
        f"ssh-rsa {rsa.get_base64()} root@bm-1",
        f"{ecdsa.get_name()} {ecdsa.get_base64()} root@bm-1",
        "sk-ssh-ed25519@openssh.com AAAAGnNr root@bm-1",
        "garbage",
        "ssh-ed25519 not*base64",
        HOST.public,
    ]
    with sshd() as (port, _):
        assert login(port, host_keys=reported) == "bm-1/7\n"


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_speaks_with_servers_that_have_other_kinds_of_host_key(kind: str) -> None:
    key = paramiko.RSAKey.generate(2048) if kind == "rsa" else paramiko.ECDSAKey.generate()

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.add_server_key(key)
        transport.start_server(server=ForcedCommand(b"bm-1/7\n", 0))

    with listening(serve) as port:
        assert login(port, host_keys=[f"{key.get_name()} {key.get_base64()} x"]) == "bm-1/7\n"


def test_a_wrong_host_key_is_refused_before_our_key_is_offered() -> None:
    with sshd(host=OTHER.private) as (port, command):
        with pytest.raises(
            LoginError, match="host key that the installer of this run did not report"
        ) as caught:
            login(port)
        assert command.offered == []
    assert caught.value.transient
    assert caught.value.code == WRONG_HOST_KEY
    assert caught.value.seen == private(OTHER.private).fingerprint


def test_a_stranger_at_a_stale_address_does_not_end_the_proof() -> None:
    """Another machine has the lease that the installer had; the system itself answers at its other address."""

    def prove(places: list[int]) -> str:
        def asked(address: str, port: int, host_keys: Sequence[str], deadline_s: float) -> str:
            return check_login(address, port, "root", OWN.private, host_keys, deadline_s)

        told = LoginTarget(tuple(("127.0.0.1", port) for port in places), (HOST.public,), "bm-1/7")
        return Performer(time.sleep, asked, login_deadline_s=10).prove(told).text

    with sshd(host=OTHER.private) as (stale, stranger), sshd() as (moved, _):
        assert f"port {moved} " in prove([stale, moved])
        with pytest.raises(LoginError, match="did not report") as caught:
            prove([stale])
        assert stranger.offered == []
    assert (caught.value.transient, caught.value.code) == (True, WRONG_HOST_KEY)


@pytest.mark.parametrize("host_keys", [[], ["garbage", "sk-ssh-ed25519@openssh.com AAAAGnNr x"]])
def test_without_a_pinned_host_key_nothing_is_tried(host_keys: list[str]) -> None:
    with sshd() as (port, command):
        with pytest.raises(LoginError, match="no usable host key is known") as caught:
            login(port, host_keys=host_keys)
        assert command.offered == []
    assert not caught.value.transient


def test_a_refused_key_is_final() -> None:
    with (
        sshd(accepts=OTHER.private) as (port, _),
        pytest.raises(LoginError, match="refused our key for root") as caught,
    ):
        login(port)
    assert not caught.value.transient
    assert caught.value.code == LOGIN_REFUSED


def test_a_failing_command_is_final_and_shows_what_it_said() -> None:
    with sshd(prints=b"", status=1) as (port, _), pytest.raises(LoginError, match="status 1") as caught:
        login(port)
    assert not caught.value.transient
    assert "No such file" in str(caught.value)


def test_a_flood_is_cut_off() -> None:
    with (
        sshd(prints=b"x" * 1_000_000) as (port, _),
        pytest.raises(LoginError, match=f"more than {ANSWER_CAP}"),
    ):
        login(port)


def test_as_much_as_the_cap_is_fine() -> None:
    with sshd(prints=b"x" * ANSWER_CAP) as (port, _):
        assert login(port) == "x" * ANSWER_CAP


def test_a_closed_port_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LoginError, match="no SSH answer from") as caught:
        login(port)
    assert caught.value.transient
    assert caught.value.code == UNREACHABLE


def silent(connection: socket.socket) -> None:
    connection.recv(1)
    time.sleep(5)


def hangs_up(connection: socket.socket) -> None:
    connection.close()


def speaks_http(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.close()


def banner_only(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-dropbear\r\n")
    time.sleep(5)


def dribbles(connection: socket.socket) -> None:
    try:
        for _ in range(100):
            connection.sendall(b"x\r\n")
            time.sleep(0.05)
    except OSError:
        pass  # the client has given up, as it should


@pytest.mark.parametrize("serve", [silent, hangs_up, speaks_http, banner_only, dribbles])
def test_whatever_answers_the_deadline_holds_and_it_is_transient(
    serve: Callable[[socket.socket], None],
) -> None:
    with listening(serve) as port:
        began = time.monotonic()
        with pytest.raises(LoginError) as caught:
            login(port, deadline_s=0.4)
        assert time.monotonic() - began < 2
    assert caught.value.transient
    assert caught.value.code == UNREACHABLE


def test_a_command_that_never_ends_is_bounded() -> None:
    with sshd(status=None) as (port, _):
        began = time.monotonic()
        with pytest.raises(LoginError) as caught:
            login(port, deadline_s=0.8)
        assert time.monotonic() - began < 3
    assert caught.value.transient


def test_an_own_key_that_cannot_be_read_is_final_and_not_shown() -> None:
    with pytest.raises(LoginError, match="our own proof key cannot be read") as caught:
        login(1, private_key="-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n")
    assert not caught.value.transient
    assert "hunter2" not in str(caught.value)
