"""A rack's folder and refusals, without starting a guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.lab import rack as rack_module
from baremetal.lab.firmware import Firmware
from baremetal.lab.machine import boot_indexes
from baremetal.lab.process import end, is_running, read_pid
from baremetal.lab.rack import Rack, available
from baremetal.lab.vbmc import STATE, read_state
from baremetal.lifecycle.model import BootDevice
from baremetal.ramsystem.architecture import Architecture
from baremetal.sim.chassis import OWN_ORDER, BootOrder

URL = "http://10.0.2.2:8080/boot.ipxe"


@pytest.fixture
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Design and remember a rack, and start nothing."""
    monkeypatch.setattr(rack_module, "find_firmware", lambda mode, **_: Firmware(Path("/qemu"), Path("/rom")))
    monkeypatch.setattr(Rack, "_start", lambda self, attached: None)


@pytest.mark.usefixtures("_no_process")
def test_state_file_says_the_same_servers_again(tmp_path: Path) -> None:
    rack = Rack(tmp_path / "rack")
    servers = rack.up(servers=3, boot_mode="mixed", boot_url=URL, memory_mib=300, knobs={"settle_s": 1.0})
    assert read_state(rack.directory) == servers == Rack(rack.directory).servers
    assert [server.name for server in servers] == ["r1", "r2", "r3"]
    assert [str(server.boot_mode) for server in servers] == ["bios", "uefi", "bios"]
    everything = [[s.mac, s.uuid, s.serial, s.bmc_port, s.disk.serial] for s in servers]
    assert all(len(set(column)) == 3 for column in zip(*everything, strict=True))
    assert all(len(server.disk.serial) <= 20 for server in servers)
    assert [status.power for status in rack.status()] == ["unknown"] * 3
    assert rack.password not in (rack.directory / STATE).read_text()
    rack.down()
    assert not rack.directory.exists()


@pytest.mark.usefixtures("_no_process")
def test_a_rack_of_one_architecture_is_not_taken_for_one_of_another(tmp_path: Path) -> None:
    rack = Rack(tmp_path / "rack")
    (server,) = rack.up(boot_mode="uefi", architecture=Architecture.ARM64, boot_url=URL)
    assert read_state(rack.directory) == [server]
    assert server.machine().architecture is Architecture.ARM64
    with pytest.raises(LabError, match="another rack") as caught:
        rack.up(boot_mode="uefi", boot_url=URL)
    assert caught.value.seen == f"r1 uefi arm64 {URL}"


@pytest.mark.usefixtures("_no_process")
def test_a_diskless_server_has_the_network_alone(tmp_path: Path) -> None:
    rack = Rack(tmp_path / "rack")
    (server,) = rack.up(boot_url=URL, disk_mib=0)
    assert read_state(rack.directory) == [server]
    assert server.machine().disks == ()
    for order in (OWN_ORDER, BootOrder(BootDevice.DISK), BootOrder(BootDevice.PXE, persistent=True)):
        assert boot_indexes(server.machine(), order) == {"nic0": 0}
    with pytest.raises(LabError, match="no disk"):
        _ = server.disk
    with pytest.raises(LabError, match="another rack") as caught:
        rack.up(boot_url=URL)
    assert caught.value.seen == f"r1 bios x86_64 {URL} diskless"
    with pytest.raises(LabError, match="no further ones"):
        rack.up(boot_url=URL, disk_mib=0, more_disks_mib=(64,))


@pytest.mark.usefixtures("_no_process")
def test_down_leaves_files_that_are_not_ours(tmp_path: Path) -> None:
    rack = Rack(tmp_path)
    rack.up(boot_url=URL)
    (tmp_path / "notes").write_text("mine")
    rack.down()
    assert os.listdir(tmp_path) == ["notes"]


def test_nothing_there_is_nothing_to_take_down(tmp_path: Path) -> None:
    rack = Rack(tmp_path / "none")
    rack.down()
    assert rack.servers == []
    assert rack.status() == []
    assert not rack.is_running
    with pytest.raises(LabError, match="no rack"):
        _ = rack.password


@pytest.mark.parametrize("state", ["", "[]", '{"servers": [{"name": "r1"}]}', '{"servers": [1]}'])
def test_state_file_that_is_not_ours_is_refused(tmp_path: Path, state: str) -> None:
    (tmp_path / STATE).write_text(state)
    with pytest.raises(LabError, match="cannot be read"):
        Rack(tmp_path).up(boot_url=URL)


@pytest.mark.parametrize(("servers", "mode"), [(0, "bios"), (65, "bios"), (1, "coreboot")])
def test_impossible_racks_are_refused(tmp_path: Path, servers: int, mode: str) -> None:
    with pytest.raises(LabError):
        Rack(tmp_path).up(servers=servers, boot_mode=mode, boot_url=URL)


def test_missing_qemu_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there, reason = available()
    assert not there
    assert "apt-get install qemu-system-x86" in reason
    with pytest.raises(LabError, match="qemu-system-x86"):
        Rack(tmp_path / "rack").up(boot_url=URL)
    assert not (tmp_path / "rack").exists()


@pytest.mark.usefixtures("_no_process")
def test_stale_process_id_is_not_believed(tmp_path: Path) -> None:
    rack = Rack(tmp_path)
    rack.up(boot_url=URL)
    (tmp_path / "vbmc.pid").write_text(f"{os.getpid()}\n")
    (tmp_path / "vbmc.json").write_text(json.dumps({"servers": {"r1": {"power": "on"}}}))
    assert not rack.is_running
    assert rack.status()[0].power == "unknown"
    (tmp_path / "r1" / "qemu.pid").write_text(f"{os.getpid()}\n")
    rack.down()  # and this process is still here


def test_a_process_is_ended_only_when_it_is_the_one_we_mean() -> None:
    code = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, "lab-test"], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()  # before its first word it may have no arguments yet
        assert is_running(process.pid, "lab-test")
        assert not is_running(process.pid, "lab")
        assert not end(process.pid, "other", grace_s=1)
        assert is_running(process.pid)
        assert end(process.pid, "lab-test", grace_s=5)
        assert not is_running(process.pid)
        assert not end(process.pid, "lab-test", grace_s=1)
    finally:
        process.kill()
        process.communicate()


def test_process_that_ignores_the_request_is_killed() -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, "lab-test"], stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        process.stdout.readline()
        assert end(process.pid, "lab-test", grace_s=0.2)


def test_process_id_file_without_a_number_is_none(tmp_path: Path) -> None:
    assert read_pid(tmp_path / "none") is None
    (tmp_path / "pid").write_text("\n")
    assert read_pid(tmp_path / "pid") is None
