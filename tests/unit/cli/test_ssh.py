"""What the ssh client is told: the pinned keys and nothing else, the command as it was given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from baremetal.cli.app import main
from baremetal.cli.ssh import log_in
from baremetal.client import Client
from baremetal.errors import Invalid, LoginError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvZ1Qm0yJ9eFiJtVvXqg3n8c0m6yVbq3v6tHhJmQd0Z root@r1"
PLACE = {"host": "127.0.0.1", "port": 2222, "user": "root", "host_keys": [KEY]}
PROGRAM = f"""#!{sys.executable}
import json, sys
words = sys.argv[1:]
file = next(word for word in words if word.startswith("UserKnownHostsFile=")).partition("=")[2]
print(json.dumps({{"words": words, "known": open(file).read()}}))
sys.exit(7)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called ssh first on PATH; it prints what it was told, and ends with 7."""
    file = tmp_path / "ssh"
    file.write_text(PROGRAM)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_only_the_reported_host_keys_are_trusted(program: None) -> None:
    done = log_in("r1", PLACE, ["uptime"], identity=Path("/k"), capture=True)
    told = json.loads(done.stdout)
    assert done.returncode == 7
    assert told["known"] == f"r1 {' '.join(KEY.split()[:2])}\n"
    options = told["words"][1::2]
    for wanted in ("StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null", "HostKeyAlias=r1"):
        assert wanted in options
    assert told["words"][-3:] == ["--", "127.0.0.1", "uptime"]


def test_an_address_is_never_an_option(program: None) -> None:
    told = json.loads(log_in("r1", PLACE | {"host": "-oProxyCommand=x"}, capture=True).stdout)
    assert told["words"][-2:] == ["--", "-oProxyCommand=x"]


def test_without_host_keys_nobody_is_trusted(program: None) -> None:
    with pytest.raises(LoginError, match="reported no host keys"):
        log_in("r1", PLACE | {"host_keys": []})


def test_without_an_ssh_client_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Invalid, match="no ssh client"):
        log_in("r1", PLACE)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["r1"], []),
        (["r1", "hostname"], ["hostname"]),
        (["r1", "-i", "/k", "--", "ls", "-l", "/"], ["ls", "-l", "/"]),
        (["-i", "/k", "r1", "--", "echo a; echo b"], ["echo a; echo b"]),
    ],
)
def test_the_command_arrives_as_it_was_given(
    program: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    command: list[str],
) -> None:
    monkeypatch.setenv("BAREMETAL_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("BAREMETAL_TOKEN", "x")
    monkeypatch.setattr(Client, "get", lambda self, path, **query: PLACE)
    assert main(["ssh", *words]) == 7
    told = json.loads(capfd.readouterr().out)["words"]
    assert told[told.index("127.0.0.1") + 1 :] == command
