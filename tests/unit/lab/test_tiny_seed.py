"""The tiny system's script for a clone's seed, run by busybox as the root of a small tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from baremetal.lab.tiny import trees

pytestmark = pytest.mark.slow
CHROOT = ("unshare", "--user", "--map-root-user", "--uts", "chroot")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with busybox, the script and what the installed system keeps; it has no ssh-keygen."""
    busybox = shutil.which("busybox")
    if busybox is None or shutil.which("unshare") is None:
        pytest.skip("busybox-static or unshare is not installed")
    root = tmp_path / "root"
    for name in (
        "bin",
        "etc/tiny",
        "etc/ssh",
        "etc/baremetal",
        "var/lib/tiny",
        "var/log",
        "run",
        "proc",
        "dev",
        "seed",
    ):
        (root / name).mkdir(parents=True)
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for name in subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    shutil.copyfile(trees.SCRIPTS / "seed", root / "etc/tiny/seed")
    (root / "proc/uptime").write_text("1.0 1.0\n")
    (root / "dev/null").touch()
    if subprocess.run([*CHROOT, str(root), "/bin/true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    return root


def seed(root: Path, meta_data: str, user_data: str | None = None) -> tuple[int, str]:
    """Run the script on this seed; return its status and what it said."""
    (root / "seed/meta-data").write_text(meta_data)
    if user_data is not None:
        (root / "seed/user-data").write_text(user_data)
    command = [*CHROOT, str(root), "/bin/sh", "/etc/tiny/seed", "/seed"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=20,
        env={"PATH": "/bin:/usr/bin:/sbin:/usr/sbin"},
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("instance-id: i-1", "i-1"),
        ("instance-id:   'r1/7'  # a run", "r1/7"),
        ('instance-id: "r1/7"\r', "r1/7"),
        ("dsmode: local\ninstance-id: i-1\ninstance-id: i-2", "i-1"),
    ],
)
def test_the_instance_is_read_as_yaml_says_it(root: Path, line: str, wanted: str) -> None:
    assert seed(root, f"{line}\nlocal-hostname: one.example\n")[0] == 0
    assert (root / "var/lib/tiny/instance-id").read_text() == f"{wanted}\n"
    assert (root / "etc/hostname").read_text() == "one.example\n"


def test_a_seed_without_an_instance_changes_nothing(root: Path) -> None:
    status, said = seed(root, "local-hostname: one\n", "#!/bin/sh\necho >/ran\n")
    assert status == 1
    assert "meta-data has no instance-id" in said
    assert not (root / "ran").exists()
    assert not (root / "etc/hostname").exists()


def test_an_odd_name_is_not_taken(root: Path) -> None:
    _, said = seed(root, "instance-id: i-1\nlocal-hostname: a;reboot\n")
    assert "not a host name: a;reboot" in said
    assert not (root / "etc/hostname").exists()


def test_a_script_runs_once_for_an_instance_and_again_only_where_it_failed(root: Path) -> None:
    failing = "#!/bin/sh\necho ran >>/ran\necho reason\nexit 3\n"
    for times in (1, 2):
        status, said = seed(root, "instance-id: i-1\n", failing)
        assert status == 1
        assert "reason" in said
        assert "user-data of i-1 ended with 3" in said
        assert (root / "ran").read_text() == "ran\n" * times
        assert not (root / "var/lib/tiny/instance-id").exists()
    for _ in range(2):
        assert seed(root, "instance-id: i-1\n", "#!/bin/sh\necho well >>/ran\n")[0] == 0
    assert (root / "ran").read_text() == "ran\nran\nwell\n"


def test_nothing_of_the_cloned_system_is_left(root: Path) -> None:
    assert seed(root, "instance-id: golden\n")[0] == 0
    old = (
        "etc/ssh/ssh_host_ed25519_key",
        "etc/baremetal/run",
        "etc/baremetal/first-boot",
        "var/lib/tiny/first-boot-done",
    )
    for name in old:
        (root / name).write_text("golden\n")
    (root / "etc/machine-id").write_text("golden\n")
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/uuid").write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    assert seed(root, "instance-id: clone\n", "#cloud-config\n")[0] == 0
    assert [name for name in old if (root / name).exists()] == []
    assert (root / "etc/machine-id").read_text() == "0123456789abcdef0123456789abcdef\n"
    assert (root / "var/lib/tiny/instance-id").read_text() == "clone\n"
