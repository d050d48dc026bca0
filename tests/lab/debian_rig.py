"""A run of the real Debian installer on a virtual server, with the boot script and preseed that the product renders.

Owns an HTTP side that serves what a run would be served and writes down every request. Knows nothing of states: each
signal is answered as a healthy run would be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

from baremetal.lab.debian import DebianInstaller
from baremetal.lab.firmware import find_firmware
from baremetal.lab.machine import MachineSpec, QemuMachine, VirtualDisk
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer, render_install_script
from baremetal.netboot.templates import Templates, freeze
from baremetal.sim.chassis import BootOrder

MAC = "52:54:00:de:b1:01"
PROFILE = Profile(
    "debian",
    Family.PRESEED,
    "debian-installer/amd64/linux",
    "debian-installer/amd64/initrd.gz",
    "preseed/debian.cfg.j2",
    '{% include "preseed/_args.j2" %}',
    {"console": "ttyS0"},
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the guest; seconds count from power-on."""

    at_s: float
    path: str
    agent: str
    fields: dict[str, str] = field(default_factory=dict)


class DebianRun:
    """One virtual server and what it is served."""

    def __init__(
        self, folder: Path, installer: DebianInstaller, *, mode: BootMode, memory_mib: int, **variables: Any
    ) -> None:
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        base = f"http://10.0.2.2:{self._server.server_port}"
        spec = MachineSpec(
            name="debian",
            directory=folder,
            mac=MAC,
            uuid=uuid4(),
            serial="LABDEB1",
            disks=(VirtualDisk(folder / "disk0.img", 4096, "LABDEB1-0"),),
            boot_url=f"{base}/boot.ipxe",
            boot_mode=mode,
            memory_mib=memory_mib,
        )
        context = Context(
            server=ServerFacts(
                id="0" * 32,
                name="debian-1",
                macs=(MAC,),
                boot_mac=MAC,
                uuid=str(spec.uuid),
                serial=spec.serial,
                boot_mode=str(mode),
            ),
            run=1,
            profile=PROFILE,
            variables=merge_variables(PROFILE.variables, variables),
            urls=Urls.of(base, PROFILE.name, "fetch", "callback"),
            proof_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0F0000000000000000000000000000000000000000 proof",
        )
        frozen = freeze(PROFILE, Templates.with_own())
        media = f"/media/{PROFILE.name}"
        self._served: dict[str, bytes | Path] = {
            "/boot.ipxe": render_install_script(frozen, context).encode(),
            f"{media}/{PROFILE.kernel}": installer.kernel,
            f"{media}/{PROFILE.initrd}": installer.initrd,
        }
        for name in PROFILE.answer_files:
            self._served[f"/answer/fetch/{name}"] = render_answer(frozen, name, context).encode()
        self.machine = QemuMachine(spec, find_firmware(mode))

    def power_on(self) -> None:
        self._began = time.monotonic()
        self.machine.power_on(BootOrder(BootDevice.PXE))

    def close(self) -> None:
        self.machine.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, end: str, within_s: float) -> Request:
        """Wait for a request whose path ends so. Fails the test with the last of the console."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while True:
                for request in self.requests:
                    if request.path.endswith(end):
                        return request
                left = deadline - time.monotonic()
                if left <= 0 or not self.machine.is_on:
                    heard = [request.path for request in self.requests]
                    raise AssertionError(
                        f"no {end} within {within_s} s; heard {heard}; {self.console()[-1500:]}"
                    )
                self._changed.wait(min(left, 1.0))

    def console(self) -> str:
        log = self.machine.spec.serial_log
        return log.read_text(errors="replace") if log.exists() else ""

    def _hear(self, path: str, agent: str, body: bytes) -> tuple[int, bytes | Path]:
        where, _, query = path.partition("?")
        fields = dict(urllib.parse.parse_qsl(query) + urllib.parse.parse_qsl(body.decode(errors="replace")))
        with self._changed:
            self.requests.append(Request(time.monotonic() - self._began, where, agent, fields))
            self._changed.notify_all()
        if where.startswith("/callback/"):
            return 200, b"go" if where.endswith("/install-started") else b"ok"
        if where == "/boot.ipxe" and agent.startswith("debian-installer"):
            return 200, b""  # it takes DHCP's boot file for a second preseed
        found = self._served.get(where)
        return (404, b"not found") if found is None else (200, found)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        run = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, content = run._hear(self.path, self.headers.get("User-Agent", ""), body)
                self.send_response(status)
                size = content.stat().st_size if isinstance(content, Path) else len(content)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                if isinstance(content, Path):
                    with content.open("rb") as file, contextlib.suppress(ConnectionError):
                        shutil.copyfileobj(file, self.wfile, 1 << 20)
                else:
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent: the requests are recorded."""

        return Handler


@contextlib.contextmanager
def debian_run(
    folder: Path,
    installer: DebianInstaller,
    *,
    mode: BootMode = BootMode.BIOS,
    memory_mib: int = 1024,
    **variables: Any,
) -> Iterator[DebianRun]:
    run = DebianRun(folder, installer, mode=mode, memory_mib=memory_mib, **variables)
    try:
        yield run
    finally:
        run.close()


def cache_folder() -> Path:
    """Where what was fetched once stays for the next run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baremetal"
