"""A rack's whole life: up, driven over the wire, killed, and down without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.lab.process import is_running, read_pid
from baremetal.lab.rack import Rack, ServerStatus, available
from baremetal.lab.server import VirtualServer
from baremetal.lab.vbmc import PID
from baremetal.lifecycle.model import BootDevice, BootMode
from tests.lab.guests import DISK_GREETING, BootHost, boot_host, boot_sector, text_of, wait_until

pytestmark = pytest.mark.lab

NO_HOST = "http://10.0.2.2:9/boot.ipxe"


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    there, reason = available("mixed")
    if not there:
        pytest.skip(reason)
    rack = Rack(tmp_path / "rack")
    yield rack
    rack.down()


@pytest.fixture
def host() -> Iterator[BootHost]:
    with boot_host() as host:
        yield host


def ipmitool(rack: Rack, server: VirtualServer, *words: str) -> str:
    if shutil.which("ipmitool") is None:
        pytest.skip("ipmitool is not installed")
    address = ["-I", "lanplus", "-H", "127.0.0.1", "-p", str(server.bmc_port), "-U", "admin", "-E"]
    done = subprocess.run(
        ["ipmitool", *address, *words],
        env=os.environ | {"IPMI_PASSWORD": rack.password},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def only(rack: Rack) -> ServerStatus:
    (status,) = rack.status()
    return status


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def rack_pid(rack: Rack) -> int:
    pid = read_pid(rack.directory / PID)
    assert pid
    return pid


def guest_pid(rack: Rack) -> int:
    """Wait for the only guest's process. An ended one may stay as a zombie where nobody reaps: not a running one."""
    pid = wait_until(lambda: only(rack).pid, 30, "QEMU")
    assert pid
    return pid


def test_up_and_down_leave_nothing_behind(rack: Rack) -> None:
    before = descriptors()
    servers = rack.up(servers=2, boot_mode="mixed", boot_url=NO_HOST)
    assert [server.boot_mode for server in servers] == [BootMode.BIOS, BootMode.UEFI]
    assert len({server.mac for server in servers}) == 2
    assert stat.S_IMODE(servers[0].password_file.stat().st_mode) == 0o600
    assert all(rack.password not in server.bmc_url for server in servers)
    pid = rack_pid(rack)
    assert rack.up(servers=2, boot_mode="mixed", boot_url=NO_HOST) == servers
    assert rack_pid(rack) == pid
    for server in servers:
        ipmitool(rack, server, "power", "on")
    wait_until(lambda: all(status.pid for status in rack.status()), 30, "both guests")
    guests = [status.pid for status in rack.status()]
    rack.down()
    rack.down()
    assert not rack.directory.exists()
    assert not any(is_running(process) for process in [pid, *guests] if process)
    assert descriptors() == before


def test_machine_behind_the_bmc_boots_and_reboots_as_its_flags_say(rack: Rack, host: BootHost) -> None:
    host.script = b"#!ipxe\nreboot\n"
    (server,) = rack.up(boot_url=host.url)
    server.disk.path.write_bytes(boot_sector())
    os.truncate(server.disk.path, 8 << 20)
    ipmitool(rack, server, "chassis", "bootdev", "pxe")
    ipmitool(rack, server, "power", "on")
    wait_until(lambda: DISK_GREETING in text_of(server.serial_log), 45, "the disk's system after the reboot")
    assert len(host.requests) == 1
    assert only(rack).boots == 2
    assert "is on" in ipmitool(rack, server, "power", "status")
    ipmitool(rack, server, "power", "soft")
    wait_until(lambda: "is off" in ipmitool(rack, server, "power", "status"), 30, "off")


def test_a_guest_that_reboots_finds_the_flags_set_meanwhile(rack: Rack, host: BootHost) -> None:
    host.script = b"#!ipxe\nsleep 3\nreboot\n"
    (server,) = rack.up(boot_url=host.url, own_order=(BootDevice.PXE, BootDevice.DISK))
    server.disk.path.write_bytes(boot_sector())
    os.truncate(server.disk.path, 8 << 20)
    ipmitool(rack, server, "power", "on")
    wait_until(lambda: host.requests, 40, "the network")
    ipmitool(rack, server, "chassis", "bootdev", "disk", "options=persistent")
    wait_until(lambda: DISK_GREETING in text_of(server.serial_log), 45, "the disk's system after the reboot")
    assert len(host.requests) == 1


def test_killed_process_takes_its_guests_along_and_the_rack_comes_up_again(
    rack: Rack, host: BootHost
) -> None:
    (server,) = rack.up(boot_url=host.url)
    ipmitool(rack, server, "power", "on")
    guest = guest_pid(rack)
    os.kill(rack_pid(rack), signal.SIGKILL)
    wait_until(lambda: not rack.is_running, 20, "the end of the rack's process")
    assert only(rack).power == "unknown"
    (again,) = rack.up(boot_url=host.url)
    assert again == server
    assert not is_running(guest)
    assert "is off" in ipmitool(rack, server, "power", "status")
    os.kill(rack_pid(rack), signal.SIGKILL)
    rack.down()
    assert not rack.directory.exists()


def test_down_ends_a_guest_that_nobody_owns(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    without = [folder for folder in os.environ["PATH"].split(":") if not Path(folder, "setpriv").exists()]
    bin_folder = rack.directory.parent / "bin"
    bin_folder.mkdir()
    for name in ("qemu-system-x86_64", "ipmitool"):
        found = shutil.which(name)
        assert found
        (bin_folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", ":".join([str(bin_folder), *without]))
    (server,) = rack.up(boot_url=NO_HOST)
    ipmitool(rack, server, "power", "on")
    guest = guest_pid(rack)
    pid_file = server.machine().pid_file
    os.kill(rack_pid(rack), signal.SIGKILL)
    wait_until(lambda: not rack.is_running, 20, "the end of the rack's process")
    assert is_running(guest, "-pidfile", str(pid_file))
    rack.down()
    assert not is_running(guest)


def test_disks_are_kept_on_request(rack: Rack) -> None:
    (server,) = rack.up(boot_url=NO_HOST)
    ipmitool(rack, server, "power", "on")
    wait_until(lambda: only(rack).pid, 30, "QEMU")
    rack.down(keep=True)
    assert not rack.is_running
    assert server.disk.path.exists()
    assert rack.up(boot_url=NO_HOST) == [server]


def test_another_rack_in_the_same_folder_is_refused(rack: Rack) -> None:
    rack.up(boot_url=NO_HOST)
    with pytest.raises(LabError, match="another rack"):
        rack.up(servers=2, boot_url=NO_HOST)


def test_taken_port_is_named(rack: Rack) -> None:
    (server,) = rack.up(boot_url=NO_HOST)
    rack.down(keep=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", server.bmc_port))
        with pytest.raises(LabError, match=str(server.bmc_port)) as refused:
            rack.up(boot_url=NO_HOST)
    assert refused.value.code == "BM303"
    assert not rack.is_running


def test_attached_rack_ends_with_its_owner(rack: Rack) -> None:
    code = (
        "import sys, time, pathlib; from baremetal.lab.rack import Rack\n"
        "Rack(pathlib.Path(sys.argv[1])).up(boot_url='http://10.0.2.2:9/', attached=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(rack.directory)])
    try:
        wait_until(lambda: rack.is_running and (rack.directory / "vbmc.json").exists(), 20, "the rack")
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not rack.is_running, 30, "the end of the rack's process")
