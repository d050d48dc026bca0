"""Commands on another machine, against a real sshd: what comes back, what is refused, and what a cut leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetal.drivers.keys import generate_keypair
from baremetal.errors import StorageError, StorageErrorKind
from baremetal.storage.remote import SshShell, scan_host_key
from tests.openssh import OpenSsh, openssh

PAIR = generate_keypair("baremetal")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[OpenSsh]:
    with openssh(tmp_path / "sshd", PAIR.public) as daemon:
        yield daemon


@pytest.fixture
def shell(daemon: OpenSsh) -> SshShell:
    return SshShell("127.0.0.1", daemon.port, daemon.user, PAIR.private, daemon.host_key)


def test_what_it_says_and_how_it_ends(shell: SshShell) -> None:
    done = shell.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.status, done.out, done.err) == (3, "out\n", "err\n")


def test_words_are_words_whatever_is_in_them(shell: SshShell) -> None:
    words = ["a b", "$(id)", "`id`", "'", '"', ";", "|", "*", "\\", "-n", "ü"]
    assert shell.run(["printf", "%s\\n", *words]).out.splitlines() == words


def test_what_is_given_comes_by_standard_input(shell: SshShell) -> None:
    assert shell.run(["cat"], stdin=b"secret").out == "secret"
    sent = iter([b"x" * 100_000] * 50)
    assert shell.send(["wc", "-c"], sent, deadline_s=60).out.strip() == "5000000"


def test_programs_of_the_system_are_found_and_speak_english(shell: SshShell) -> None:
    said = shell.run(["sh", "-c", "echo $LC_ALL; echo $PATH"]).out.splitlines()
    assert said[0] == "C"
    assert {"/usr/sbin", "/sbin"} <= set(said[1].split(":"))


def test_one_connection_serves_several_at_once_and_a_slow_one_cuts_no_other(shell: SshShell) -> None:
    late: list[StorageErrorKind] = []

    def slow() -> None:
        try:
            shell.run(["sleep", "30"], deadline_s=1.0)
        except StorageError as error:
            late.append(error.kind)

    waiting = threading.Thread(target=slow)
    waiting.start()
    with shell.holding(["sh", "-c", "echo held; exec cat"], deadline_s=10.0):
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            assert shell.run(["echo", "here"]).out == "here\n"
        waiting.join()
    assert late == [StorageErrorKind.UNREACHABLE]


def test_what_cannot_be_held_says_why(shell: SshShell) -> None:
    with (
        pytest.raises(StorageError) as error,
        shell.holding(["sh", "-c", "echo no >&2; exit 1"], deadline_s=10.0),
    ):
        pytest.fail("nothing is held")
    assert (error.value.kind, error.value.seen) == (StorageErrorKind.FAILED, "no")


def test_who_is_not_let_in_is_told_which_line_to_add(daemon: OpenSsh) -> None:
    stranger = generate_keypair("stranger")
    shell = SshShell("127.0.0.1", daemon.port, daemon.user, stranger.private, daemon.host_key)
    with pytest.raises(StorageError) as error:
        shell.run(["true"])
    assert error.value.kind is StorageErrorKind.MISSING
    assert " ".join(stranger.public.split()[:2]) in str(error.value)


def test_another_machine_at_that_address_is_not_believed(daemon: OpenSsh, shell: SshShell) -> None:
    assert shell.run(["true"]).status == 0
    daemon.renew_host_key()
    with pytest.raises(StorageError) as error:
        shell.run(["true"])
    assert error.value.kind is StorageErrorKind.HOST_KEY
    assert scan_host_key("127.0.0.1", daemon.port) == daemon.host_key


def test_a_connection_that_broke_is_opened_again_and_a_lock_on_it_is_lost(shell: SshShell) -> None:
    assert shell.run(["true"]).status == 0
    _cut(shell)
    assert shell.run(["echo", "again"]).out == "again\n"
    with shell.holding(["sh", "-c", "echo held; exec cat"], deadline_s=10.0):
        _cut(shell)
        with pytest.raises(StorageError, match="was cut off") as error:
            shell.run(["true"])
    assert "the lock is gone" in str(error.value.seen)


def _cut(shell: SshShell) -> None:
    """Have a connection break, as a network does."""
    client = shell._client
    assert client is not None
    transport = client.get_transport()
    assert transport is not None
    transport.sock.close()
    until = time.monotonic() + 10.0
    while transport.is_active() and time.monotonic() < until:
        time.sleep(0.05)


def test_nobody_there(daemon: OpenSsh, shell: SshShell) -> None:
    daemon.stop()
    for ask in (lambda: shell.run(["true"]), lambda: scan_host_key("127.0.0.1", daemon.port)):
        with pytest.raises(StorageError) as error:
            ask()
        assert error.value.kind is StorageErrorKind.UNREACHABLE
