"""The lab's storage hosts: several beside each other, each on its own port, gone when they are told or left alone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.lab.process import is_running
from baremetal.lab.targets import TargetDaemon
from tests.lab.guests import wait_until

pytestmark = pytest.mark.lab

NAME = "iqn.2026-01.example.lab:one"


@pytest.fixture(autouse=True)
def _tgt() -> None:
    if shutil.which("tgtd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("tgt is not installed")


def add_target(targets: TargetDaemon) -> None:
    targets.admin("--mode", "target", "--op", "new", "--tid", "1", "-T", NAME)


def show(targets: TargetDaemon) -> str:
    return targets.admin("--mode", "target", "--op", "show")


def test_two_beside_each_other_know_nothing_of_one_another(tmp_path: Path) -> None:
    with TargetDaemon(tmp_path / "a") as one, TargetDaemon(tmp_path / "b") as other:
        assert one.port != other.port
        for each in (one, other):
            socket.create_connection((each.address, each.port), 5).close()
        add_target(one)
        assert NAME in show(one)
        assert NAME not in show(other)
    assert not one.is_running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((one.address, one.port), 5)


def test_a_restarted_one_has_its_port_and_no_targets(tmp_path: Path) -> None:
    with TargetDaemon(tmp_path) as targets:
        add_target(targets)  # with one it does not heed SIGTERM
        port = targets.port
        targets.restart()
        assert targets.port == port
        assert NAME not in show(targets)
        add_target(targets)
        targets.stop()
        targets.stop()
        with pytest.raises(LabError, match="tgtadm --mode target --op show failed"):
            show(targets)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        targets = TargetDaemon(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(LabError, match="cannot have its portal"):
            targets.start()
    assert not targets.is_running


def test_a_name_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="too long"):
        TargetDaemon(tmp_path / ("x" * 100))


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from baremetal.lab.targets import TargetDaemon\n"
        "targets = TargetDaemon(Path(sys.argv[1])); targets.start()\n"
        "print(targets._process.pid, targets.port, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, port = owner.stdout.readline().split()
        words = ("-f", f"portal=127.0.0.1:{port}")
        assert is_running(int(pid), *words)
        owner.kill()
    wait_until(lambda: not is_running(int(pid), *words), 10, "the end of the daemon")
