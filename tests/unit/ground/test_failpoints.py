from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from baremetal import failpoints
from baremetal.failpoints import FailpointError, arm, failpoint, hits

PASS_ONE = "from baremetal.failpoints import failpoint; failpoint('power_on.send:after'); print('lived')"


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def run(spec: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASS_ONE],
        env=os.environ | {failpoints.VARIABLE: spec},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_every_crash_point_has_a_before_and_an_after() -> None:
    assert len(failpoints.PLACES) == 23
    assert {"boot_set.send:before", "boot_set.send:after"} <= failpoints.NAMES


def test_unarmed_does_nothing() -> None:
    failpoint("boot_set.send:before")


def test_raises_each_time_or_only_at_the_time_asked_for() -> None:
    arm("boot_set.send:before=raise, ssh.verify:after=raise@2")
    for _ in range(2):
        with pytest.raises(FailpointError, match=r"boot_set\.send:before"):
            failpoint("boot_set.send:before")
    failpoint("ssh.verify:after")
    with pytest.raises(FailpointError):
        failpoint("ssh.verify:after")
    failpoint("ssh.verify:after")
    assert hits("ssh.verify:after") == 3
    failpoint("ssh.verify:before")


def test_stands_around_an_effect_and_leaves_its_own_failure_alone() -> None:
    arm("acl.set:after=raise")
    done = []
    with pytest.raises(FailpointError), failpoints.failpoints("acl.set"):
        done.append("set")
    assert done == ["set"]
    with pytest.raises(OSError, match="refused"), failpoints.failpoints("acl.set"):
        raise OSError("refused")


def test_delays() -> None:
    arm("boot.serve:before=delay:0.05")
    began = time.monotonic()
    failpoint("boot.serve:before")
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("boot_sett.send:before=kill", "did you mean 'boot_set.send:before'"),
        ("boot_set.send=kill", "no failpoint"),
        ("boot_set.send:before", "not NAME=MODE"),
        ("boot_set.send:before=explode", "none of kill, raise, pause, delay"),
        ("boot_set.send:before=delay:soon", "not a number of seconds"),
        ("boot_set.send:before=raise@0", "not a count from 1"),
    ],
)
def test_a_bad_spec_is_named_and_arms_nothing(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        arm(spec)
    failpoint("boot_set.send:before")


def test_a_name_that_does_not_exist_is_caught_while_armed() -> None:
    arm("boot_set.send:before=delay:0")
    with pytest.raises(ValueError, match="no failpoint"):
        failpoint("boot_set.sent:before")


def test_kills_a_process_that_was_armed_by_its_environment() -> None:
    done = run("power_on.send:after=kill")
    assert done.returncode == -signal.SIGKILL
    assert (done.stdout, done.stderr) == ("", "failpoint power_on.send:after: kill\n")
    lived = run("power_on.send:before=kill")
    assert (lived.stdout, lived.stderr) == ("lived\n", "")


def test_pauses_a_process_until_it_is_told_to_go_on() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PASS_ONE],
        env=os.environ | {failpoints.VARIABLE: "power_on.send:after=pause"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(child.pid, signal.SIGCONT)
        out, _ = child.communicate(timeout=30)
        assert out == "lived\n"
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()
