"""A real service in a process of its own, on free ports and a throw-away data directory.

Owns starting and ending it, and asking its control API. What it costs is read from the kernel, not from the service.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

READY_S = 60.0
COMMAND = (str(Path(sys.executable).with_name("baremetal")),)
_TICKS = os.sysconf("SC_CLK_TCK")

SETTINGS = """
[server]
boot_listen = "127.0.0.1:{boot}"
control_listen = "127.0.0.1:{control}"
data_dir = "{data}"
log_level = "warning"
"""


class Service:
    """`with Service("…more settings…") as service: service.post(…)`. It is ready when both apps answer."""

    def __init__(self, settings: str = "", command: Sequence[str] = COMMAND) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="baremetal-bench-")
        self.folder = Path(self._folder.name)
        self.data = self.folder / "data"
        self._command = command
        boot, control = free_ports(2)
        self.boot_port = boot
        self.boot_url, self.control_url = f"http://127.0.0.1:{boot}", f"http://127.0.0.1:{control}"
        text = SETTINGS.format(boot=boot, control=control, data=self.data) + settings
        (self.folder / "config.toml").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None
        self._api: httpx2.Client | None = None
        self.took_s = 0.0
        """How long the first start took until both apps answered."""

    def __enter__(self) -> Self:
        self.took_s = self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._folder.cleanup()

    def start(self) -> float:
        """Start the service; return the seconds until both apps answered. Raises RuntimeError with what it said."""
        self.data.mkdir(exist_ok=True, mode=0o700)
        with (self.folder / "log").open("ab") as log:
            began = time.monotonic()
            self._process = subprocess.Popen(
                [*self._command, "serve", "--config", str(self.folder / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        for url in (f"{self.boot_url}/boot.ipxe", f"{self.control_url}/healthz"):
            while not _answers(url):
                if self._process.poll() is not None or time.monotonic() - began > READY_S:
                    raise RuntimeError(f"the service does not start:\n{self.said()}")
                time.sleep(0.005)
        return time.monotonic() - began

    def stop(self) -> None:
        """End the service as an operator would, and wait for it."""
        if self._api is not None:
            self._api.close()
            self._api = None
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def said(self) -> str:
        """Return the end of what the service wrote to its log."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def media(self, profile: str, *files: str) -> None:
        """Lay small files where a profile's kernel and initrd are looked for; their bytes are never booted here."""
        for name in files:
            path = self.data / "media" / profile / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(1024))

    # -- the control API --

    @property
    def api(self) -> httpx2.Client:
        if self._api is None:
            token = (self.data / "control.token").read_text().strip()
            self._api = httpx2.Client(
                base_url=self.control_url,
                headers={"authorization": f"Bearer {token}"},
                timeout=120.0,
                trust_env=False,
                verify=False,
            )
        return self._api

    def get(self, path: str) -> Any:
        return self._read(self.api.get(path))

    def post(self, path: str, body: Any) -> Any:
        return self._read(self.api.post(path, json=body))

    def _read(self, answer: httpx2.Response) -> Any:
        if answer.status_code >= 400:
            raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.text[:500]}")
        return answer.json()

    def wait(self, names: set[str], until: Callable[[Any], bool], within_s: float = 120.0) -> None:
        """Wait until all named servers fulfil a condition. Raises TimeoutError showing one that does not."""
        deadline = time.monotonic() + within_s
        while True:
            servers = [one for one in self.get("/v1/servers")["servers"] if one["name"] in names]
            late = [one for one in servers if not until(one)]
            if len(servers) == len(names) and not late:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(late)} of {len(names)} servers: {late[:1]}\n{self.said()}")
            time.sleep(0.05)

    # -- what it costs --

    def cpu_s(self) -> float:
        """Return the processor seconds that the service's process has used, in user and in system mode."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> float:
        """Return the memory of the process and of every child it has, in megabytes of 10⁶ bytes.

        Proportional (PSS): a page that several processes share, such as Python's own code, is counted once among them.
        """
        assert self._process is not None
        return sum(_pss(pid) for pid in _tree(self._process.pid)) / 1e6


def enrolments(count: int, bmc: Callable[[int], str], **more: Any) -> list[dict[str, Any]]:
    """Make the rows that enrol `count` servers, each with a NIC of its own."""
    return [
        {
            "name": f"server-{number}",
            "bmc": bmc(number),
            "bmc_password": "password",
            "macs": [mac(number)],
            **more,
        }
        for number in range(count)
    ]


def mac(number: int) -> str:
    return f"52:54:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on; all are held until all are known."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _tree(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
