"""Inspect, rescue and wipe on a real kernel: the RAM system boots, reports, lets the operator in, and zeroes disks."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from baremetal.cli.demo import cache_folder
from baremetal.drivers.keys import generate_keypair
from baremetal.lab.server import VirtualServer
from baremetal.lab.tiny.build import KERNEL_ARGS
from baremetal.ramsystem.architecture import Architecture
from baremetal.ramsystem.build import build
from tests.lab.rig import DEPLOY_S, STEP_S, Lab, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SECOND_MIB = 64


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[tuple[Lab, VirtualServer]]:
    with running_lab(tmp_path, servers=1, boot_mode="uefi", more_disks_mib=(SECOND_MIB,)) as (lab, (server,)):
        folder = lab.data / "media" / "ramdisk"
        folder.mkdir(mode=0o700)
        build(folder, cache_folder(), Architecture.X86_64)
        variables = {"kernel_args": KERNEL_ARGS}
        lab.api.patch(f"/v1/servers/{server.name}", {"vars": variables})
        yield lab, server


def ends_in(lab: Lab, server: VirtualServer, state: str) -> dict[str, object]:
    shown = lab.wait_for_end(server)
    told = f"{shown['last_error']}\n{lab.notes(server)}\n{lab.console(server)[-3000:]}"
    assert shown["provision_state"] == state, told
    return shown


def log_in(server: VirtualServer, key: paramiko.PKey, host_key: str, command: str) -> str:
    """Log in as root with the operator's key, trusting only the host key that was reported."""
    kind, data = host_key.split()[:2]
    host, _, port = server.ssh_address.rpartition(":")
    client = paramiko.SSHClient()
    known = paramiko.PKey.from_type_string(kind, base64.b64decode(data))
    client.get_host_keys().add(f"[{host}]:{port}", kind, known)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    with contextlib.closing(client):
        client.connect(
            host, int(port), "root", pkey=key, timeout=STEP_S, banner_timeout=STEP_S, auth_timeout=STEP_S,
            allow_agent=False, look_for_keys=False,
        )  # fmt: skip
        _, output, _ = client.exec_command(command, timeout=STEP_S)
        return output.read().decode()


def is_zero(path: Path) -> bool:
    with path.open("rb") as image:
        while block := image.read(1 << 20):
            if block.count(0) != len(block):
                return False
    return True


def test_a_server_is_inspected_rescued_and_wiped(setting: tuple[Lab, VirtualServer]) -> None:
    lab, server = setting
    second = server.disks[1]

    lab.ask(server, "manage")
    ends_in(lab, server, "manageable")
    lab.ask(server, "inspect")
    found = ends_in(lab, server, "manageable")["inventory"]
    assert isinstance(found, dict)
    assert {disk["serial"]: disk["size"] for disk in found["disks"]} == {
        server.disk.serial[:20]: 512 << 20,
        second.serial[:20]: SECOND_MIB << 20,
    }
    assert [nic["mac"] for nic in found["nics"]] == [server.mac]
    assert 256 < found["memory_mib"] <= 512
    assert (found["cpus"], found["arch"]) == (1, "x86_64")

    lab.ask(server, "provide")
    lab.wait_for(server, lambda shown: shown["provision_state"] == "available", STEP_S, "available")
    serial = server.disk.serial[:20]
    plan = lab.api.post(
        f"/v1/servers/{server.name}/plan", {"profile": "tiny", "vars": {"disk": f"serial={serial}"}}
    )
    name = next(disk["name"] for disk in found["disks"] if disk["serial"] == serial)
    assert plan["disk"]["chosen"] == name
    deployed = lab.ask(server, "deploy", profile="tiny", vars={"disk": f"serial={serial}"})
    ends_in(lab, server, "active")
    with second.path.open("r+b") as image:
        image.write(b"\x5a" * (SECOND_MIB << 20))
    assert not is_zero(server.disk.path)

    pair = generate_keypair("operator")
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))
    lab.ask(server, "rescue", vars={"ssh_authorized_keys": pair.public})
    rescued = ends_in(lab, server, "rescue")["rescue"]
    assert isinstance(rescued, dict)
    (host_key,) = rescued["ssh_host_keys"]
    seen = log_in(server, key, host_key, "cat /proc/cmdline; grep -c . /proc/mounts; cat /etc/hostname")
    assert "bm.script=" in seen
    assert "root=" not in seen.split("bm.script=")[0]
    lab.ask(server, "unrescue")
    back = ends_in(lab, server, "active")
    assert back["deployed_run"] == deployed
    assert any("answered with this run's id" in note for note in lab.notes(server))

    lab.ask(server, "release", wipe=True)
    lab.wait_for(
        server,
        lambda shown: shown["run"] is None and shown["provision_state"] == "available",
        DEPLOY_S,
        "wipe",
    )
    assert is_zero(server.disk.path)
    assert is_zero(second.path)
    assert "is off" in lab.ipmitool(server, "power", "status")
    notes = lab.notes(server)
    for disk in (server.disk, second):
        assert any(f"serial {disk.serial[:20]}" in note and "zero" in note for note in notes), notes
        assert any(note.startswith("go: run") and disk.serial[:20] in note for note in notes), notes
