"""The whole service on loopback sockets, over a file database, with simulated BMCs plugged into its process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from baremetal import wiring
from baremetal.config import load
from baremetal.drivers import sim as board
from baremetal.serving import run
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.wiring import App

MAC = "52:54:00:00:00:01"
TEMPLATE = (Path(__file__).parents[2] / "kickstart" / "tiny.ks.j2").read_text()
SETTINGS = """
[server]
boot_listen = "127.0.0.1:0"
control_listen = "127.0.0.1:0"
data_dir = "{data}"
templates_dir = "{templates}"
trusted_proxies = ["127.0.0.1"]

[bmc]
observe_interval_s = 0

[deploy]
sweep_interval_s = 0.2
{deploy}

[profile.test]
family = "kickstart"
kernel = "vmlinuz"
initrd = "initrd.img"
template = "test.ks.j2"
proof = "{proof}"
"""


@dataclass
class Service:
    """One running service. `api` carries the first token; `machine` is what a booting machine would ask with."""

    folder: Path
    app: App
    boot_url: str
    control_url: str
    api: httpx2.Client
    machine: httpx2.Client
    chassis: dict[str, DummyChassis] = field(default_factory=dict)
    bmcs: dict[str, SimulatedBmc] = field(default_factory=dict)

    def plug(self, name: str) -> SimulatedBmc:
        self.chassis[name] = DummyChassis()
        self.bmcs[name] = SimulatedBmc(self.chassis[name], time.monotonic)
        board.plug(name, self.bmcs[name], time.sleep)
        return self.bmcs[name]

    def enrol(self, name: str = "r1", mac: str = MAC, **more: Any) -> dict[str, Any]:
        """Enrol a server behind a simulated BMC and wait until it is available."""
        self.plug(name)
        self.post("/v1/servers", enrolment(name, mac, **more), 201)
        return self.wait(name, lambda server: server["provision_state"] == "available")

    def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = self.api.get(path, params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 202) -> Any:
        answer = self.api.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def wait(
        self, name: str, done: Callable[[dict[str, Any]], bool], within_s: float = 60.0
    ) -> dict[str, Any]:
        until = time.monotonic() + within_s
        while True:
            server: dict[str, Any] = self.get(f"/v1/servers/{name}")
            if done(server):
                return server
            assert time.monotonic() < until, server
            time.sleep(0.05)

    def deploy_until_window(self, name: str = "r1") -> int:
        """Deploy and wait until the machine is on and may netboot; returns the run's number."""
        number: int = self.post(f"/v1/servers/{name}/deploy", {"profile": "test"})["run"]
        self.wait(name, lambda server: (server["run"] or {}).get("step") == "script")
        return number

    def script(self, mac: str = MAC) -> str:
        return self.machine.get("/ipxe", params={"mac": mac}).text

    def tokens(self, script: str) -> tuple[str, str]:
        """Follow an install script like an installer: the answer file's path, and the call-back URL in it."""
        answer = next(word for word in script.split() if word.startswith("inst.ks=")).removeprefix("inst.ks=")
        text = self.machine.get(answer).text
        line = next(line for line in text.splitlines() if line.startswith("BM_CALLBACK="))
        return answer, line.removeprefix("BM_CALLBACK=").strip("'")

    @property
    def template(self) -> Path:
        return self.folder / "templates" / "kickstart" / "test.ks.j2"

    def unplug(self) -> None:
        """Take all simulated BMCs out."""
        for name in self.bmcs:
            board.unplug(name)
        self.bmcs.clear()

    def close(self) -> None:
        """Let go of both connections."""
        self.api.close()
        self.machine.close()

    def clear(self) -> None:
        """Leave nothing of one test to the next: servers, BMCs, and what was written over the template."""
        for server in self.get("/v1/servers")["servers"]:
            assert self.api.delete(f"/v1/servers/{server['name']}?force=true").status_code == 204
        self.unplug()
        self.chassis.clear()
        if self.template.read_text() != TEMPLATE:
            self.template.write_text(TEMPLATE)


def enrolment(name: str = "r1", mac: str = MAC, **more: Any) -> dict[str, Any]:
    return {"name": name, "bmc": f"sim://admin@{name}", "bmc_password": "password", "macs": [mac], **more}


class Runner(threading.Thread):
    """The service in a thread with a loop of its own."""

    def __init__(self, config_file: Path) -> None:
        super().__init__(daemon=True)
        self.config = load(config_file)
        self.ready = threading.Event()
        self.urls = ("", "")
        self.error: BaseException | None = None
        self.app: App | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._halt: asyncio.Event | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error
        finally:
            self.ready.set()

    async def _main(self) -> None:
        self._loop, self._halt = asyncio.get_running_loop(), asyncio.Event()

        def built(config: Any, **more: Any) -> App:
            self.app = wiring.build(config, **more)
            return self.app

        def ready(boot: str, control: str) -> None:
            self.urls = (boot, control)
            self.ready.set()

        await run(self.config, self._halt, ready, build=built)

    def begin(self) -> None:
        self.start()
        assert self.ready.wait(100)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        if self._loop is not None and self._halt is not None and self.is_alive():
            self._loop.call_soon_threadsafe(self._halt.set)
        self.join(100)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


def prepare(folder: Path, proof: str = "none", more: str = "", deploy: str = "") -> Path:
    """Lay out a data directory with a small profile; returns the settings' file.

    `more` is added at its end, `deploy` to its section [deploy].
    """
    data, templates = folder / "data", folder / "templates"
    (templates / "kickstart").mkdir(parents=True)
    (templates / "kickstart" / "test.ks.j2").write_text(TEMPLATE)
    (data / "media" / "test").mkdir(parents=True)
    (data / "media" / "test" / "vmlinuz").write_bytes(b"kernel")
    (data / "media" / "test" / "initrd.img").write_bytes(bytes(range(256)) * 64)
    (data / "media" / "test" / "image.raw").write_bytes(b"system")
    settings = folder / "config.toml"
    settings.write_text(SETTINGS.format(data=data, templates=templates, proof=proof, deploy=deploy) + more)
    return settings


def connect(folder: Path, runner: Runner) -> Service:
    assert runner.app is not None
    token = runner.app.token_file.read_text().strip()
    boot, control = runner.urls
    return Service(
        folder,
        runner.app,
        boot,
        control,
        httpx2.Client(
            base_url=control, headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=60
        ),
        httpx2.Client(base_url=boot, trust_env=False, timeout=60),
    )


@contextmanager
def running(folder: Path, more: str = "", deploy: str = "") -> Iterator[Service]:
    runner = Runner(prepare(folder, more=more, deploy=deploy))
    runner.begin()
    service = connect(folder, runner)
    try:
        yield service
    finally:
        service.close()
        runner.end()
        service.unplug()


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    """A service without servers. It is shared within a module, because a profile is linted at its first deploy."""
    yield shared_service
    shared_service.clear()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Service]:
    """A service of one's own, to be broken."""
    with running(tmp_path) as service:
        yield service
