"""Runs the shell of answer files for real: under a real shell, against a real HTTP server and a made-up /sys tree.

Two things are never real: `poweroff` and `chroot` are shell functions put in front of the script. Functions, because
busybox' shell prefers its own applets to what PATH holds, and its own poweroff would be this machine's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

SHELLS = [("dash", "curl"), ("bash", "curl"), ("dash", "wget"), ("busybox", "wget")]
OFF = 86
TOOLS = [
    "cat",
    "rm",
    "sed",
    "tail",
    "head",
    "tr",
    "readlink",
    "sleep",
    "mkdir",
    "chmod",
    "ln",
    "ls",
    "sync",
    "touch",
    "grep",
    "cp",
]
GUARD = """
poweroff() { echo "$@" >"$BM_TMP/off"; exit 86; }
chroot() { echo "$@" >>"$BM_TMP/chroot"; case "$*" in *ssh-keygen*)
    mkdir -p "$1/etc/ssh"; echo 'ssh-ed25519 AAAAhost root@installer' >"$1/etc/ssh/ssh_host_ed25519_key.pub" ;; esac; }
"""


@dataclass
class Call:
    """One call-back as it arrived."""

    signal: str
    fields: dict[str, str]
    method: str


@dataclass
class Office:
    """The other end: answers each signal with the next of its replies, the last one for ever."""

    replies: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    url: str = ""

    def reply(self, signal: str) -> tuple[int, str]:
        waiting = self.replies.get(signal) or [(200, "go" if signal == "install-started" else "ok")]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def look_around(self) -> None:
        """Note every command line on this host that shows a token, while the one who asks is still waiting."""
        for process in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):  # it may end at any moment
                line = (
                    Path("/proc", process, "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode("utf-8", "replace")
                )
                if f"{self.url}/callback/" in line:
                    self.shown.append(line)

    def signals(self, *but: str) -> list[str]:
        return [call.signal for call in self.calls if call.signal not in ("progress", *but)]

    def last(self, signal: str) -> dict[str, str]:
        return next(call.fields for call in reversed(self.calls) if call.signal == signal)


@contextmanager
def office() -> Iterator[Office]:
    """Serve an office on a loopback port of its own."""
    here = Office()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _heard(self, body: str) -> None:
            url = urlsplit(self.path)
            signal = url.path.rsplit("/", 1)[1]
            here.calls.append(
                Call(signal, dict(parse_qsl(url.query or body, keep_blank_values=True)), self.command)
            )
            status, text = here.reply(signal)
            self._say(status, text)

        def _say(self, status: int, text: str) -> None:
            here.look_around()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text) + 1))
            self.end_headers()
            self.wfile.write(f"{text}\n".encode())

        def do_GET(self) -> None:
            self._heard("")

        def do_POST(self) -> None:
            self._heard(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def do_PUT(self) -> None:
            here.uploads[self.path.rsplit("/", 1)[1]] = self.rfile.read(int(self.headers["Content-Length"]))
            self._say(200, "ok")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FC = "pci0000:00/0000:00:03.0/host1/rport-1:0-0/target1:0:0/1:0:0:1"
ISCSI = "platform/host3/session1/target3:0:0/3:0:0:1"
"""Where the kernel shows disks that lie in a storage network."""


def section(text: str, name: str) -> str:
    """Cut a script section out of a rendered kickstart."""
    found = re.search(rf"^%{name}[^\n]*\n(.*?)^%end$", text, re.S | re.M)
    assert found, f"no %{name}"
    return found[1]


@dataclass
class Machine:
    """A made-up machine: its /sys tree and its /tmp."""

    folder: Path
    shell: str = "dash"
    fetcher: str = "curl"

    def __post_init__(self) -> None:
        for part in ("sys/block", "sys/class/net/lo", "sys/class/dmi/id", "tmp", "bin", "root"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.write("sys/class/net/lo/address", "00:00:00:00:00:00")
        for tool in (*TOOLS, self.fetcher):
            if found := shutil.which(tool):
                (self.folder / "bin" / tool).symlink_to(found)

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text + "\n")

    def nic(self, name: str, mac: str) -> Machine:
        self.write(f"sys/class/net/{name}/address", mac)
        return self

    def disk(self, name: str, sectors: int, **files: str) -> Machine:
        """Add a disk; `files` are the files of its sysfs folder, with / written as __."""
        for file, text in (
            {"size": str(sectors), "removable": "0", "ro": "0", "queue__rotational": "0"} | files
        ).items():
            self.write(f"sys/block/{name}/{file.replace('__', '/')}", text)
        return self

    def through(self, name: str, where: str) -> Machine:
        """Put a disk where the kernel shows one that it has through a transport; the block folder then has a link."""
        block, real = self.folder / "sys/block" / name, self.folder / "sys/devices" / where / "block" / name
        real.parent.mkdir(parents=True, exist_ok=True)
        block.rename(real)
        block.symlink_to(real)
        return self

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script as an installer would; a refusal ends with status OFF."""
        file = self.folder / "script.sh"
        file.write_text(GUARD + script)
        shell = ["busybox", "sh"] if self.shell == "busybox" else [self.shell]
        return subprocess.run(
            [shutil.which(shell[0]) or shell[0], *shell[1:], str(file)],
            env={
                "PATH": str(self.folder / "bin"),
                "BM_SYS": str(self.folder / "sys"),
                "BM_TMP": str(self.folder / "tmp"),
                "BM_ROOT": str(self.folder / "root"),
                "BM_PAUSE": "0.05",
                "BM_GO_TRIES": "8",
                "BM_TRIES": "8",
                "HOME": os.environ.get("HOME", "/"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @property
    def is_off(self) -> bool:
        return (self.folder / "tmp" / "off").exists()

    def include(self) -> str | None:
        """What the pre stage allows the installer to write, if it allowed anything."""
        path = self.folder / "tmp" / "bm-disk.ks"
        return path.read_text() if path.exists() else None


def disks_of(fields: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Read the reported disks, by name."""
    return {disk["name"]: disk for disk in json.loads(fields["disks"])}
