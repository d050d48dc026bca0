"""The command line against a running service, with a simulated server behind a BMC that speaks real IPMI."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from baremetal.cli.app import main
from baremetal.cli.simulated import SimulatedServer
from baremetal.sim.machine import Timing
from tests.integration.conftest import Service

QUICK = Timing(post_s=0.3, kernel_s=0.2, install_s=0.6, boot_s=0.3, wipe_s=0.6)
PASSWORD = "correct horse"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bml(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run one command as a person on this host would; returns exit code, stdout and stderr."""
    monkeypatch.setenv("BAREMETAL_URL", service.control_url)
    monkeypatch.setenv("BAREMETAL_TOKEN", service.app.token_file.read_text().strip())
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        assert PASSWORD not in out.out + out.err
        return code, out.out, out.err

    return run


@pytest.fixture
def machine(service: Service) -> Iterator[SimulatedServer]:
    with SimulatedServer(service.boot_url, PASSWORD, QUICK) as server:
        yield server


@pytest.fixture
def enrolled(bml: Run, machine: SimulatedServer, monkeypatch: pytest.MonkeyPatch) -> SimulatedServer:
    monkeypatch.setenv("BAREMETAL_BMC_PASSWORD", PASSWORD)
    code, out, _ = bml(
        "enroll",
        "r1",
        "--bmc",
        machine.bmc_url,
        "--mac",
        machine.mac,
        "--serial",
        machine.serial,
        "--tag",
        "rack=1",
    )
    assert (code, out) == (0, "r1: available, power off\n")
    return machine


def test_the_whole_life_of_a_server(bml: Run, enrolled: SimulatedServer) -> None:
    code, out, _ = bml("list")
    assert code == 0
    assert out.splitlines()[0].split() == ["NAME", "STATE", "POWER", "PROFILE", "BMC", "MAC", "NOW"]
    assert out.splitlines()[1].split() == [
        "r1",
        "available",
        "off",
        "-",
        f"127.0.0.1:{enrolled.bmc_port}",
        enrolled.mac,
        "rack=1",
    ]

    code, out, _ = bml("plan", "r1", "--profile", "test", "-o", "json")
    plan = json.loads(out)
    assert (code, plan["ok"], plan["steps"][0]["what"]) == (0, True, "power off, read back")

    code, out, _ = bml("deploy", "r1", "--profile", "test")
    assert code == 0, out
    titles = [line[31:59].strip() for line in out.splitlines() if line.startswith("  ")]
    assert [title for title in titles if title != "answer file fetched"] == [
        "deploy",
        "power off",
        "boot device pxe, once",
        "power on",
        "boot script fetched",
        "go",
        "packages",
        "install complete",
        "boot device disk, persistent",
        "active",
    ]
    assert "vda · SIM0001 · 69 GB" in out
    assert out.splitlines()[-1].startswith("✓ r1 is active after")

    code, out, err = bml("deploy", "r1", "--profile", "test")
    assert code == 4
    assert "--rebuild" in err

    code, recorded, _ = bml("events", "r1")
    assert code == 0
    assert "install complete" in recorded
    code, out, _ = bml("watch", "r1")
    assert (code, out.splitlines()[-1][:14]) == (0, "✓ r1 is active")

    code, out, _ = bml("release", "r1")
    assert (code, out.splitlines()[-1][:17]) == (0, "✓ r1 is available")
    code, out, _ = bml("forget", "r1")
    assert (code, out) == (0, "r1: forgotten\n")
    assert bml("show", "r1")[0] == 3


def test_inspected_wiped_rescued_and_back(
    bml: Run, enrolled: SimulatedServer, service: Service, tmp_path: Path
) -> None:
    media = service.folder / "data" / "media" / "ramdisk"
    media.mkdir(exist_ok=True)
    for name in ("vmlinuz", "initrd.img"):
        (media / name).write_bytes(b"a RAM system")
    code, _, err = bml("inspect", "r1")
    assert (code, "manage" in err) == (4, True)
    assert bml("manage", "r1")[0] == 0
    code, out, _ = bml("inspect", "r1")
    assert code == 0
    assert "inspect complete" in out
    assert "4 CPUs · 8.0 GiB" in bml("show", "r1")[1]
    code, out, _ = bml("provide", "r1", "--wipe")
    assert code == 0
    assert "to wipe vda SIM0001" in out
    assert [write.what for write in enrolled.machine.disk.log] == ["wiping", "wiped"]
    assert bml("deploy", "r1", "--profile", "test")[0] == 0
    key = tmp_path / "id_ed25519.pub"
    key.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1hZGVVcEtleUZvclRlc3RzT25seTAwMDAwMDAwMDA me\n")
    code, _, err = bml("rescue", "r1")
    assert (code, "nobody could log in" in err) == (2, True)
    code, out, _ = bml("rescue", "r1", "--ssh-key", str(key))
    assert (code, "rescue started" in out) == (0, True)
    assert "log in as root at 10.0.0.5" in bml("show", "r1")[1]
    assert bml("unrescue", "r1")[0] == 0
    code, out, _ = bml("release", "r1", "--wipe")
    assert (code, "available" in out) == (0, True)
    assert [write.what for write in enrolled.machine.disk.log][-2:] == ["wiping", "wiped"]
    assert enrolled.machine.disk.system == ""


def test_a_deploy_that_is_not_waited_for_can_be_aborted(bml: Run, enrolled: SimulatedServer) -> None:
    code, out, _ = bml("deploy", "r1", "--profile", "test", "--no-wait")
    assert code == 0
    assert out.startswith("r1: run 2 began")
    code, out, _ = bml("abort", "r1")
    assert code == 0
    assert "aborted by first-start" in out
    assert json.loads(bml("show", "r1", "-o", "json")[1])["provision_state"] == "deploy failed"
    assert bml("abort", "r1")[0] == 4


def test_one_bad_name_starts_nothing(bml: Run, enrolled: SimulatedServer) -> None:
    code, _, err = bml("deploy", "r1", "r7", "--profile", "test")
    assert code == 3
    assert "no server 'r7'" in err
    for words in (
        ["power", "on", "r1", "r7"],
        ["maintenance", "on", "r1", "r7"],
        ["forget", "r1", "r7"],
        ["deploy", "r1", "r7", "--profile", "test", "--max-failures", "1"],
    ):
        assert bml(*words)[0] == 3
    server = json.loads(bml("show", "r1", "-o", "json")[1])
    assert (server["provision_state"], server["power_state"], server["maintenance"]) == (
        "available",
        "off",
        False,
    )


def test_a_bulk_deploy_begins_no_more_than_may_fail(
    bml: Run, enrolled: SimulatedServer, service: Service
) -> None:
    service.enrol("r0", "52:54:00:00:00:02")

    def give_up_r0() -> None:
        service.wait("r0", lambda server: (server["run"] or {}).get("step") == "script")
        service.post("/v1/servers/r0/abort")

    helper = threading.Thread(target=give_up_r0)
    helper.start()
    code, out, err = bml("deploy", "r0", "r1", "--profile", "test", "--max-failures", "1")
    helper.join()
    assert code == 1, out + err
    assert "Stopped: 1 failed. Not begun: r1" in err
    assert json.loads(bml("show", "r1", "-o", "json")[1])["provision_state"] == "available"
    code, out, err = bml("deploy", "--tag", "rack=1", "--profile", "test", "--max-failures", "1")
    assert code == 0, out + err


def test_a_bulk_deploy_tells_every_server(bml: Run, enrolled: SimulatedServer, service: Service) -> None:
    with SimulatedServer(service.boot_url, PASSWORD, QUICK) as other:
        assert bml("enroll", "r2", "--bmc", other.bmc_url, "--mac", other.mac, "--tag", "rack=1")[0] == 0
        code, out, _ = bml("deploy", "--tag", "rack=1", "--profile", "test")
        assert code == 0, out
        for name in ("r1", "r2"):
            assert f"✓ {name} is active after" in out
    code, _, err = bml("deploy", "--tag", "rack=9", "--profile", "test")
    assert code == 2
    assert "no server has the tags" in err


def test_output_forms(bml: Run, enrolled: SimulatedServer) -> None:
    assert bml("list", "-o", "name")[1] == "r1\n"
    assert yaml.safe_load(bml("list", "-o", "yaml")[1])[0]["name"] == "r1"
    assert json.loads(bml("list", "-o", "json")[1])[0]["tags"] == {"rack": "1"}
    assert bml("list", "--tag", "rack=2", "-o", "json")[1] == "[]\n"
    code, out, _ = bml("deploy", "r1", "--profile", "test", "-o", "json")
    assert (code, json.loads(out)[0]["provision_state"]) == (0, "active")


def test_hands_on(bml: Run, enrolled: SimulatedServer) -> None:
    assert bml("power", "on", "r1")[:2] == (0, "r1: on\n")
    assert bml("power", "status", "r1")[:2] == (0, "r1: on\n")
    code, out, _ = bml("bootdev", "pxe", "r1")
    assert (code, out.splitlines()[1].split()) == (0, ["r1", "pxe", "yes", "no", "no"])
    assert bml("bootdev", "pxe", "r1", "--persistent")[0] == 4
    assert bml("power", "off", "r1")[:2] == (0, "r1: off\n")
    assert bml("maintenance", "on", "r1")[:2] == (0, "r1: maintenance on\n")
    assert bml("power", "on", "r1")[0] == 4
    assert "in maintenance" in bml("show", "r1")[1]


def test_looking(bml: Run, enrolled: SimulatedServer) -> None:
    code, out, _ = bml("explain", "r1")
    assert code == 0
    assert "nothing to install" in out
    code, out, _ = bml("render", "r1", "--profile", "test")
    assert code == 0
    assert "#!ipxe" in out
    code, out, _ = bml("plan", "r1", "--profile", "test", "--var", "disk=bogus=1")
    assert code == 7
    code, out, _ = bml("doctor", "r1")
    assert code == 0
    assert "No problem found" in out
    assert bml("profile", "list", "-o", "name")[1].split().count("test") == 1
    assert bml("profile", "lint", "test")[:2] == (0, "test: fine\n")
    assert bml("secrets", "rotate-key")[:2] == (0, "1 BMC account sealed with a new key\n")
    assert bml("power", "status", "r1")[:2] == (0, "r1: off\n")
    assert bml("profile", "show", "tets")[0] == 3
    assert bml("logs", "r1")[:2] == (0, "")
    assert bml("events", "r1", "--all")[1].count("\n") >= 4


def test_facts_are_changed_and_removed(bml: Run, enrolled: SimulatedServer) -> None:
    code, out, _ = bml(
        "set", "r1", "--var", "timezone=Asia/Seoul", "--tag", "rack=", "--ip", "10.0.0.5/24", "-o", "json"
    )
    server = json.loads(out)
    assert (code, server["vars"], server["tags"], server["ip"]) == (
        0,
        {"timezone": "Asia/Seoul"},
        {},
        "10.0.0.5/24",
    )


def test_a_file_of_servers_is_taken_as_a_whole_or_not_at_all(
    bml: Run, machine: SimulatedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAREMETAL_BMC_PASSWORD", PASSWORD)
    file = tmp_path / "servers.csv"
    rows = f"name,bmc,mac,boot_mode\na1,{machine.bmc_url},{machine.mac},bios\n"
    file.write_text(
        rows + "a2,ipmi://x@127.0.0.1:9,no-mac,bios\na3,ipmi://x@127.0.0.1:8,52:54:00:00:00:03,bois\n"
    )
    code, _, err = bml("enroll", "--file", str(file))
    assert code == 2
    assert "row 2 (a2)" in err
    assert "row 3 (a3)" in err
    assert bml("list", "-o", "json")[1] == "[]\n"
    file.write_text(rows)
    assert bml("enroll", "--file", str(file))[:2] == (0, "a1: available, power off\n")


def test_a_wrong_bmc_password_is_told_with_its_remedy(
    bml: Run, machine: SimulatedServer, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    code, out, err = bml(
        "enroll", "r1", "--bmc", machine.bmc_url, "--mac", machine.mac, "--bmc-password-file", str(secret)
    )
    assert (code, out) == (5, "r1: enroll\n")
    assert "BM102" in err
    assert "baremetal set r1" in err


def wait_for_strangers(service: Service, *macs: str) -> None:
    """Machines are answered before it is written down that they asked."""
    until = time.monotonic() + 30
    while not set(macs) <= {one["mac"] for one in service.get("/v1/unknown")["unknown"]}:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_strangers_are_listed_and_taken_in(
    bml: Run, machine: SimulatedServer, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pain 17: seen, and enrolled by one command."""
    service.machine.get("/ipxe", params={"mac": machine.mac, "serial": machine.serial, "arch": "x86_64"})
    wait_for_strangers(service, machine.mac)
    code, out, _ = bml("list", "--unknown")
    assert code == 0
    assert machine.mac in out
    monkeypatch.setenv("BAREMETAL_BMC_PASSWORD", PASSWORD)
    code, out, err = bml(
        "enroll", "n1", "--from-unknown", machine.mac, "--bmc", machine.bmc_url, "-o", "json"
    )
    assert code == 0, err
    assert json.loads(out)[0]["serial"] == machine.serial
    assert bml("enroll", "n2", "--from-unknown", "52:54:00:ff:ff:ff", "--bmc", "ipmi://a@127.0.0.9")[0] == 3


def test_several_strangers_are_taken_in_together_or_not_at_all(
    bml: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = "52:54:00:00:0a:01", "52:54:00:00:0a:02"
    for mac, serial in ((a, "S-A"), (b, "S-B")):
        service.machine.get("/ipxe", params={"mac": mac, "serial": serial, "arch": "x86_64"})
    wait_for_strangers(service, a, b)
    monkeypatch.setenv("BAREMETAL_BMC_PASSWORD", PASSWORD)
    bmcs = ["--bmc", "sim://admin@s1", "--bmc", "sim://admin@s2", "--no-verify", "--tag", "rack=9"]
    assert bml("enroll", "--from-unknown", f"s1={a}", f"s2={b}", *bmcs[:2])[0] == 2
    assert bml("enroll", "--from-unknown", f"s1={a}", f"s2={b}", "--serial", "X", *bmcs)[0] == 2
    assert bml("enroll", "--from-unknown", f"s1={a}", "--from-unknown", f"S 2={b}", *bmcs)[0] == 2
    assert service.get("/v1/servers")["servers"] == []
    code, out, err = bml("enroll", "--from-unknown", f"s1={a}", "--from-unknown", b, *bmcs, "-o", "json")
    assert code == 0, err
    assert f"s1: {a}, BMC sim://admin@s1" in err
    taken = [(one["name"], one["macs"], one["serial"], one["bmc"]["url"]) for one in json.loads(out)]
    assert taken == [
        ("s1", [a], "S-A", "sim://s1"),
        ("server-525400000a02", [b], "S-B", "sim://s2"),
    ]
    assert service.get("/v1/unknown")["unknown"] == []


def test_tokens(bml: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = bml("token", "create", "viewer-1", "--role", "viewer")
    assert code == 0
    assert "not shown again" in err
    monkeypatch.setenv("BAREMETAL_TOKEN", out.strip())
    assert bml("list")[0] == 0
    assert bml("token", "list")[0] == 9
    monkeypatch.setenv("BAREMETAL_TOKEN", "bml_nonsense")
    assert bml("list")[0] == 9


def test_ssh_needs_something_that_was_deployed(bml: Run, enrolled: SimulatedServer) -> None:
    code, _, err = bml("ssh", "r1")
    assert code == 4
    assert "nothing that was deployed" in err
