"""Three independent IPMI clients drive the lab's BMC over the wire; they must agree with each other and the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baremetal.lab.rack import Rack, available
from baremetal.lab.server import VirtualServer
from tests.lab.guests import DISK_GREETING, boot_sector, text_of, wait_until

pytestmark = pytest.mark.lab

Client = Callable[..., str]
# pyghmi keeps sockets and threads in its module: a process of its own, as the driver gives it
PYGHMI = """
import os, sys
from pyghmi.ipmi.command import Command
bmc = Command(bmc="127.0.0.1", port=int(sys.argv[1]), userid=b"admin", password=os.environb[b"IPMI_PASSWORD"])
match sys.argv[2:]:
    case ["status"]: print(bmc.get_power()["powerstate"])
    case ["bootdev"]: print(bmc.get_bootdev())
    case ["bootdev", device, persist, uefi]: bmc.set_bootdev(device, persist=persist == "y", uefiboot=uefi == "y")
    case [target]: bmc.set_power(target, wait=False)
bmc.ipmi_session.logout()
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    there, reason = available()
    if not there:
        pytest.skip(reason)
    rack = Rack(tmp_path_factory.mktemp("clients") / "rack")
    yield rack
    rack.down()


@pytest.fixture
def server(rack: Rack) -> VirtualServer:
    """A server that is off, without boot flags, whose disk obeys the power button; flags expire after 3 s."""
    (server,) = rack.up(boot_url="http://10.0.2.2:9/", knobs={"boot_expiry_s": 3.0})
    server.disk.path.write_bytes(boot_sector())
    os.truncate(server.disk.path, 8 << 20)
    by_ipmitool(rack, server, "power", "off")
    by_ipmitool(rack, server, "chassis", "bootdev", "none")
    return server


def run(rack: Rack, *words: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    environment = os.environ | {"IPMI_PASSWORD": rack.password}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def by_ipmitool(rack: Rack, server: VirtualServer, *words: str, suite: str = "17") -> str:
    address = [
        "-I",
        "lanplus",
        "-C",
        suite,
        "-H",
        "127.0.0.1",
        "-p",
        str(server.bmc_port),
        "-U",
        "admin",
        "-E",
    ]
    return run(rack, "ipmitool", *address, *words)


def by_pyghmi(rack: Rack, server: VirtualServer, *words: str) -> str:
    return run(rack, sys.executable, "-c", PYGHMI, str(server.bmc_port), *words)


def by_ipmipower(rack: Rack, server: VirtualServer, action: str) -> str:
    config = rack.directory / "freeipmi.conf"
    config.write_text(f"username admin\npassword {rack.password}\n")  # off the command line
    config.chmod(0o600)
    try:
        host = f"127.0.0.1:{server.bmc_port}"
        return run(
            rack, "ipmipower", "--config-file", str(config), "-D", "LAN_2_0", "-h", host, f"--{action}"
        )
    finally:
        config.unlink()


def power_by(client: str, rack: Rack, server: VirtualServer, action: str) -> str:
    match client:
        case "ipmitool":
            return by_ipmitool(rack, server, "power", action)
        case "ipmipower":
            return by_ipmipower(rack, server, {"status": "stat"}.get(action, action))
        case _:
            return by_pyghmi(rack, server, {"soft": "shutdown"}.get(action, action))


def power(rack: Rack, server: VirtualServer) -> list[str]:
    """What all three clients and the rack itself say, as one word each."""
    said = [power_by(client, rack, server, "status") for client in ("ipmitool", "ipmipower", "pyghmi")]
    words = [text.split()[-1] for text in said]
    # the rack reads the file that its process writes a moment later
    wait_until(lambda: rack.status()[0].power == words[-1], 5, f"the rack says {words[-1]} too")
    return [*words, rack.status()[0].power]


@pytest.mark.parametrize("client", ["ipmitool", "ipmipower", "pyghmi"])
def test_power_soft_off_and_status(rack: Rack, server: VirtualServer, client: str) -> None:
    greeted = text_of(server.serial_log).count(DISK_GREETING)
    assert power(rack, server) == ["off"] * 4
    power_by(client, rack, server, "on")
    assert power(rack, server) == ["on"] * 4
    wait_until(lambda: text_of(server.serial_log).count(DISK_GREETING) > greeted, 40, "the disk's system")
    power_by(client, rack, server, "reset")
    wait_until(
        lambda: text_of(server.serial_log).count(DISK_GREETING) > greeted + 1, 40, "the disk's system again"
    )
    power_by(client, rack, server, "soft")
    wait_until(lambda: rack.status()[0].power == "off", 30, "off")
    assert power(rack, server) == ["off"] * 4
    power_by(client, rack, server, "on")
    power_by(client, rack, server, "off")
    assert power(rack, server) == ["off"] * 4


def flags(rack: Rack, server: VirtualServer) -> str:
    return by_ipmitool(rack, server, "chassis", "bootparam", "get", "5")


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("efi", [False, True])
@pytest.mark.parametrize("client", ["ipmitool", "pyghmi"])
def test_boot_device(rack: Rack, server: VirtualServer, client: str, efi: bool, persistent: bool) -> None:
    if client == "ipmitool":
        options = ",".join(["efiboot"] * efi + ["persistent"] * persistent)
        by_ipmitool(rack, server, "chassis", "bootdev", "pxe", *([f"options={options}"] if options else []))
    else:
        by_pyghmi(rack, server, "bootdev", "network", "ny"[persistent], "ny"[efi])
    read = flags(rack, server)
    assert "Boot Flag Valid" in read
    assert "Force PXE" in read
    assert ("Options apply to all future boots" in read) is persistent
    assert ("BIOS EFI boot" in read) is efi
    said = by_pyghmi(rack, server, "bootdev")
    assert "'bootdev': 'network'" in said
    assert f"'uefimode': {efi}" in said
    assert f"'persistent': {persistent}" in said


def test_flags_for_one_boot_run_out_and_persistent_ones_stay(rack: Rack, server: VirtualServer) -> None:
    by_ipmitool(
        rack, server, "raw", "0x00", "0x08", "0x03", "0x00"
    )  # expire, as a BMC does unless told otherwise
    by_ipmitool(rack, server, "raw", "0x00", "0x08", "0x05", "0x80", "0x04", "0x00", "0x00", "0x00")
    assert "Boot Flag Valid" in flags(rack, server)
    time.sleep(3.2)
    assert "Boot Flag Invalid" in flags(rack, server)
    by_ipmitool(rack, server, "raw", "0x00", "0x08", "0x05", "0xc0", "0x04", "0x00", "0x00", "0x00")
    time.sleep(3.2)
    assert "Boot Flag Valid" in flags(rack, server)


def test_flag_for_one_boot_is_gone_after_it(rack: Rack, server: VirtualServer) -> None:
    by_ipmitool(rack, server, "chassis", "bootdev", "pxe")
    by_ipmitool(rack, server, "power", "on")
    assert "Boot Flag Invalid" in flags(rack, server)


@pytest.mark.parametrize("suite", ["3", "17"])
def test_cipher_suites(rack: Rack, server: VirtualServer, suite: str) -> None:
    assert "off" in by_ipmitool(rack, server, "power", "status", suite=suite)


def test_wrong_password_is_refused(rack: Rack, server: VirtualServer, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    words = [
        "ipmitool",
        "-I",
        "lanplus",
        "-H",
        "127.0.0.1",
        "-p",
        str(server.bmc_port),
        "-U",
        "admin",
        "-f",
        str(wrong),
    ]
    done = subprocess.run([*words, "power", "on"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert rack.status()[0].power == "off"
