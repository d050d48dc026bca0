"""Our IPMI 2.0 server against the clients that people use: ipmitool, freeipmi and pyghmi, unmodified."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from baremetal.lifecycle.model import BootDevice
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import OWN_ORDER, BootOrder, DummyChassis
from baremetal.sim.knobs import HEALTHY, Knobs
from baremetal.sim.rmcp import BmcFarm


@dataclass
class Rig:
    """A served BMC and the means to call clients on it."""

    bmc: SimulatedBmc
    chassis: DummyChassis
    farm: BmcFarm
    port: int

    def run(self, *command: str, timeout_s: float = 40.0) -> subprocess.CompletedProcess[str]:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def ipmitool(self, *words: str, password: str = "password") -> subprocess.CompletedProcess[str]:
        place = ("-I", "lanplus", "-H", "127.0.0.1", "-p", str(self.port))
        return self.run("ipmitool", *place, "-U", "admin", "-P", password, *words)

    def freeipmi(
        self, tool: str, *words: str, password: str = "password"
    ) -> subprocess.CompletedProcess[str]:
        place = ("-h", f"127.0.0.1:{self.port}", "-D", "LAN_2_0")
        return self.run(tool, *place, "-u", "admin", "-p", password, *words)

    def pyghmi(self, lines: str, password: str = "password") -> subprocess.CompletedProcess[str]:
        """Run lines on a logged-in `Command` named c, in a process of its own."""
        script = (
            "from pyghmi.ipmi.command import Command\n"
            f"c = Command(bmc='127.0.0.1', port={self.port}, userid=b'admin', password=b'{password}')\n"
            f"{lines}\n"
            "c.ipmi_session.logout()\n"
        )
        return self.run(sys.executable, "-c", script)

    def last_boot(self) -> BootOrder | None:
        return self.chassis.log[-1][1]


@pytest.fixture
def rig() -> Iterator[Rig]:
    chassis = DummyChassis()
    bmc = SimulatedBmc(chassis, time.monotonic, rng=random.Random(11))
    with BmcFarm() as farm:
        yield Rig(bmc, chassis, farm, farm.add(bmc))


@pytest.fixture(params=[(), ("-C", "3"), ("-C", "17")], ids=["default", "suite 3", "suite 17"])
def suite(request: pytest.FixtureRequest) -> tuple[str, ...]:
    words: tuple[str, ...] = request.param
    return words


def test_ipmitool_drives_power(rig: Rig, suite: tuple[str, ...]) -> None:
    assert rig.ipmitool(*suite, "power", "status").stdout == "Chassis Power is off\n"
    assert rig.ipmitool(*suite, "power", "on").returncode == 0
    assert rig.ipmitool(*suite, "power", "status").stdout == "Chassis Power is on\n"
    assert rig.ipmitool(*suite, "power", "reset").returncode == 0
    assert rig.ipmitool(*suite, "power", "cycle").returncode == 0
    assert rig.ipmitool(*suite, "power", "soft").returncode == 0
    assert rig.ipmitool(*suite, "power", "status").stdout == "Chassis Power is off\n"
    assert rig.ipmitool(*suite, "power", "on").returncode == 0
    assert rig.ipmitool(*suite, "power", "off").returncode == 0
    done = [what for what, _ in rig.chassis.log]
    assert done == ["on", "reset", "off", "on", "soft-off", "on", "off"]
    assert len(rig.bmc.sessions) == 0
    assert not rig.farm.servers[rig.port].dropped


def test_ipmitool_sets_and_shows_the_boot_device(rig: Rig, suite: tuple[str, ...]) -> None:
    assert "Set Boot Device to pxe" in rig.ipmitool(*suite, "chassis", "bootdev", "pxe").stdout
    shown = rig.ipmitool(*suite, "chassis", "bootparam", "get", "5").stdout
    assert "Boot Flag Valid" in shown
    assert "Options apply to only next boot" in shown
    assert "Force PXE" in shown
    rig.ipmitool(*suite, "power", "on")
    assert rig.last_boot() == BootOrder(BootDevice.PXE)
    shown = rig.ipmitool(*suite, "chassis", "bootparam", "get", "5").stdout
    assert "Boot Flag Invalid" in shown
    words = ("chassis", "bootdev", "disk", "options=persistent,efiboot")
    assert rig.ipmitool(*suite, *words).returncode == 0
    shown = rig.ipmitool(*suite, "chassis", "bootparam", "get", "5").stdout
    assert "Options apply to all future boots" in shown
    assert "Boot parameter data: e008000000" in shown, "valid, persistent, EFI; disk"
    assert "Force Boot from default Hard-Drive" in shown
    rig.ipmitool(*suite, "power", "reset")
    assert rig.last_boot() == BootOrder(BootDevice.DISK, efi=True, persistent=True)
    assert rig.ipmitool(*suite, "chassis", "bootdev", "none").returncode == 0
    rig.ipmitool(*suite, "power", "reset")
    assert rig.last_boot() == OWN_ORDER


@pytest.mark.parametrize(("word", "device"), [("cdrom", BootDevice.CDROM), ("bios", BootDevice.BIOS)])
def test_ipmitool_knows_our_other_boot_devices(rig: Rig, word: str, device: BootDevice) -> None:
    rig.ipmitool("chassis", "bootdev", word)
    rig.ipmitool("power", "on")
    assert rig.last_boot() == BootOrder(device)


def test_ipmitool_asks_who_it_is(rig: Rig) -> None:
    shown = rig.ipmitool("mc", "info").stdout
    assert "IPMI Version              : 2.0" in shown
    assert "Firmware Revision         : 1.42" in shown
    assert "System GUID" in rig.ipmitool("mc", "guid").stdout
    assert "passed" in rig.ipmitool("mc", "selftest").stdout
    assert "privilege level               : ADMINISTRATOR" in rig.ipmitool("session", "info", "active").stdout
    assert "Channel supports IPMI v2.0 : yes" in rig.ipmitool("channel", "authcap", "1", "4").stdout
    shown = rig.ipmitool("channel", "info", "1").stdout
    assert "802.3 LAN" in shown
    shown = rig.ipmitool("channel", "getciphers", "ipmi", "1").stdout
    assert shown.count("aes_cbc_128") + shown.count("aes-cbc-128") == 2


def test_ipmitool_hears_what_is_refused(rig: Rig) -> None:
    refused = rig.ipmitool("power", "reset")
    assert refused.returncode == 1
    assert "Command not supported in present state" in refused.stderr
    assert rig.ipmitool("power", "status", password="wrong").returncode == 1
    assert rig.ipmitool("-C", "1", "power", "status").returncode == 1
    assert not rig.chassis.log


def test_ipmitool_restarts_the_bmc(rig: Rig) -> None:
    rig.bmc.knobs = replace(HEALTHY, reboot_s=1.0)
    rig.ipmitool("power", "on")
    assert rig.ipmitool("mc", "reset", "cold").returncode == 0
    assert rig.ipmitool("power", "status").stdout == "Chassis Power is on\n"


def test_ipmitool_works_over_a_bad_network(rig: Rig) -> None:
    rig.bmc.knobs = Knobs(dup=0.3, reorder=0.2, delay=0.02, reply_delay_s=0.01)
    for word in ("on", "off"):
        assert rig.ipmitool("power", word).returncode == 0
        assert rig.ipmitool("power", "status").stdout == f"Chassis Power is {word}\n"
    assert {"dup", "reorder", "delay"} <= set(rig.bmc.fired)
    rig.bmc.knobs = HEALTHY


@pytest.mark.parametrize("number", ["3", "17"])
def test_ipmipower_drives_power(rig: Rig, number: str) -> None:
    def ipmipower(word: str) -> str:
        return rig.freeipmi("ipmipower", "-I", number, word).stdout.split(": ")[-1].strip()

    assert ipmipower("--stat") == "off"
    assert ipmipower("--on") == "ok"
    assert ipmipower("--stat") == "on"
    assert ipmipower("--reset") == "ok"
    assert ipmipower("--soft") == "ok"
    assert ipmipower("--stat") == "off"
    assert ipmipower("--on") == "ok"
    assert ipmipower("--off") == "ok"
    assert not rig.chassis.is_on
    assert not rig.farm.servers[rig.port].dropped


def test_ipmipower_hears_of_a_wrong_password_and_cipher_suite(rig: Rig) -> None:
    refused = rig.freeipmi("ipmipower", "--stat", password="wrong")
    assert "password invalid" in refused.stdout + refused.stderr
    rig.bmc.knobs = replace(HEALTHY, suites=(3,))
    refused = rig.freeipmi("ipmipower", "-I", "17", "--stat")
    assert "cipher suite" in refused.stdout + refused.stderr


def test_ipmi_chassis_reads_and_sets(rig: Rig) -> None:
    shown = rig.freeipmi("ipmi-chassis", "--get-chassis-status").stdout
    assert "System Power                        : off" in shown
    assert rig.freeipmi("ipmi-chassis", "--chassis-control=power-up").returncode == 0
    assert rig.chassis.is_on


def test_ipmi_chassis_config_commits_and_checks_out_boot_flags(rig: Rig) -> None:
    commit = ("--commit", "-e", "Chassis_Boot_Flags:Boot_Device=PXE")
    assert rig.freeipmi("ipmi-chassis-config", *commit).returncode == 0
    commit = ("--commit", "-e", "Chassis_Boot_Flags:Boot_Flags_Persistent=No")
    assert rig.freeipmi("ipmi-chassis-config", *commit).returncode == 0
    shown = rig.freeipmi("ipmi-chassis-config", "--checkout", "-S", "Chassis_Boot_Flags").stdout
    found = [line.split() for line in shown.splitlines()]
    assert ["Boot_Device", "PXE"] in found
    assert ["Boot_Flags_Persistent", "No"] in found


def test_bmc_info_of_freeipmi_is_content(rig: Rig) -> None:
    shown = rig.freeipmi("bmc-info").stdout
    assert ["IPMI Version", "2.0"] in [
        [part.strip() for part in line.split(":")] for line in shown.splitlines()
    ]


def test_pyghmi_drives_power_and_boot_device(rig: Rig) -> None:
    ran = rig.pyghmi(
        "print(c.get_power()['powerstate'])\n"
        "print(c.set_bootdev('network', persist=False, uefiboot=True))\n"
        "print(c.get_bootdev())\n"
        "print(c.set_power('on', wait=5)['powerstate'])\n"
        "print(c.get_bootdev())\n"
        "print(c.set_power('off', wait=5)['powerstate'])"
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "off",
        "{'bootdev': 'network'}",
        "{'bootdev': 'network', 'persistent': False, 'uefimode': True}",
        "on",
        "{'bootdev': 'default', 'persistent': True}",
        "off",
    ]
    assert rig.chassis.log == [("on", BootOrder(BootDevice.PXE, efi=True)), ("off", None)]
    assert len(rig.bmc.sessions) == 0


def test_pyghmi_raw_commands_keep_the_completion_code(rig: Rig) -> None:
    ran = rig.pyghmi(
        "from pyghmi.exceptions import IpmiException\n"
        "try:\n"
        "    c.xraw_command(netfn=0, command=2, data=b'\\x03')\n"
        "except IpmiException as error:\n"
        "    print(hex(error.ipmicode))\n"
        "c.xraw_command(netfn=0, command=8, data=b'\\x05\\x80\\x04\\0\\0\\0')\n"
        "print(bytes(c.xraw_command(netfn=0, command=9, data=b'\\x05\\0\\0')['data']).hex())"
    )
    assert ran.stdout.splitlines() == ["0xd5", "01058004000000"]


def test_pyghmi_falls_back_to_suite_3(rig: Rig) -> None:
    rig.bmc.knobs = replace(HEALTHY, suites=(3,))
    ran = rig.pyghmi("print(c.get_power()['powerstate'])")
    assert ran.stdout == "off\n"
    assert rig.bmc.fired["suites"] == 1


def test_pyghmi_hears_of_a_wrong_password(rig: Rig) -> None:
    ran = rig.pyghmi("pass", password="wrong")
    assert "Incorrect password provided" in ran.stderr


def test_pyghmi_repeats_what_the_network_lost(rig: Rig) -> None:
    rig.bmc.rng.seed(3)
    rig.bmc.knobs = Knobs(loss=0.15)
    ran = rig.pyghmi("print(c.set_power('on')); print(c.get_power()['powerstate'])")
    rig.bmc.knobs = HEALTHY
    assert ran.stdout.endswith("on\n"), ran.stderr
    assert rig.bmc.fired["loss"] >= 1
    assert rig.bmc.requests["chassis-control"] >= 1


def test_one_process_serves_many_bmcs(rig: Rig) -> None:
    chassis = [DummyChassis() for _ in range(20)]
    ports = [rig.farm.add(SimulatedBmc(each, time.monotonic)) for each in chassis]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    ran = rig.run("ipmipower", "-h", hosts, "-D", "LAN_2_0", "-u", "admin", "-p", "password", "--on")
    assert ran.stdout.count(": ok") == 20
    assert all(each.is_on for each in chassis)
