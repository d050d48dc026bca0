"""A storage host beside the service under test: a real tgtd, volumes in a folder, a machine that the test plays."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from baremetal.drivers.keys import generate_keypair
from baremetal.lab.targets import CONTROL, TargetDaemon
from baremetal.storage.shell import LocalShell
from baremetal.storage.tgt import Tgt
from tests.integration.conftest import Service, running
from tests.iscsi import SUCCESS, knock

BASE = "iqn.2026-01.org.example"
HOST = generate_keypair("host")
HOST_KEY = HOST.public
MIB = 1 << 20
PROFILE = """
[profile.clone]
family = "nocloud"
method = "clone"
template = "nocloud/clone.sh.j2"
golden = "tiny"
proof = "first-boot"

[profile.onto]
family = "kickstart"
kernel = "vmlinuz"
initrd = "initrd.img"
template = "kickstart/tiny.ks.j2"
proof = "first-boot"
"""


def settings_of(script: str) -> dict[str, str]:
    return dict(re.findall(r"^set (\S+) (.*)$", script, re.MULTILINE))


@dataclass
class Hall:
    """A storage host beside the service, known to it as `nas`, with the golden image `tiny`."""

    service: Service
    daemon: TargetDaemon
    folder: Path
    clones: int = field(default=0)

    @property
    def socket(self) -> str:
        return f"{self.daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}"

    def facts(self, **more: Any) -> dict[str, Any]:
        portal = f"{self.daemon.address}:{self.daemon.port}"
        return {
            "kind": "tgt",
            "portal": portal,
            "base_iqn": BASE,
            "folder": str(self.folder),
            "socket": self.socket,
        } | more

    def targets(self) -> dict[str, Any]:
        return dict(Tgt(LocalShell(), self.socket).targets())

    def volumes(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.service.get("/v1/volumes")["volumes"]}

    def script(self) -> str:
        return self.service.script()

    def settings(self) -> dict[str, str]:
        """What iPXE is told to set."""
        return settings_of(self.script())

    def knock(self, *, target: str = f"{BASE}:r1.main") -> bool:
        """Log in with what the script says, to this target or another one."""
        said = self.settings()
        account = said.get("username", ""), said.get("password", "")
        return (
            knock((self.daemon.address, self.daemon.port), target, said["initiator-iqn"], *account) == SUCCESS
        )

    def seed(self) -> dict[str, str]:
        """Read the files of the newest seed."""
        image = max(self.folder.glob("bm-*/seed.img"), key=lambda path: path.stat().st_mtime_ns)
        return {name: self.file(image, name) for name in ("user-data", "meta-data")}

    def file(self, image: Path, name: str) -> str:
        command = ["mcopy", "-i", str(image), f"::/{name}", "-"]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=30).stdout

    def deploy(self, verb: str = "deploy", **more: Any) -> int:
        """Deploy by clone and stop where the machine may netboot."""
        body = {"profile": "clone", **more}
        number: int = self.service.post(f"/v1/servers/r1/{verb}", body)["run"]
        self.service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
        return number

    def boot_first(self, host_key: str = HOST_KEY) -> None:
        """Be the clone: fetch the script, read the seed, call home. The proof is the lab's affair."""
        assert "sanboot" in self.script()
        url = re.search(r"http\S+/callback/[A-Za-z0-9_-]+", self.seed()["user-data"])
        assert url is not None
        path = url.group().removeprefix(self.service.boot_url)
        body = {"boot_id": "b1", "ssh_host_keys": json.dumps([host_key]), "addresses": '["192.0.2.7"]'}
        answer = self.service.machine.post(f"{path}/first-boot", data=body)
        assert answer.status_code == 200, answer.text

    def make_active(self) -> int:
        number = self.deploy()
        self.boot_first()
        self.service.wait("r1", lambda server: server["provision_state"] == "active")
        return number

    def rest(self) -> dict[str, Any]:
        """Wait until nothing is under way."""
        return self.service.wait("r1", lambda server: server["run"] is None)


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("storage"), more=PROFILE) as service:
        yield service


@pytest.fixture
def hall(service: Service, tmp_path: Path) -> Iterator[Hall]:
    folder = tmp_path / "volumes"
    folder.mkdir()
    image = tmp_path / "tiny.raw"
    image.write_bytes(b"golden" * 1000)
    with TargetDaemon(tmp_path / "t") as daemon:
        here = Hall(service, daemon, folder)
        service.post("/v1/storage", {"name": "nas", **here.facts()}, 201)
        service.post("/v1/volumes", {"name": "tiny", "path": str(image)}, 201)
        try:
            yield here
        finally:
            daemon.start()
            for server in service.get("/v1/servers")["servers"]:
                assert service.api.delete(f"/v1/servers/{server['name']}?force=true").status_code == 204
            for name in sorted(here.volumes()):
                assert service.api.delete(f"/v1/volumes/{name}").status_code == 204, name
            assert service.api.delete("/v1/storage/nas").status_code == 204
            assert [one for one in os.listdir(folder) if one != ".lock"] == []
            assert here.targets() == {}


@pytest.fixture
def diskless(hall: Hall) -> Hall:
    hall.service.enrol(boot_target="iscsi")
    return hall
