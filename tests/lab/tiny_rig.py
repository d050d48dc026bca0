"""A minimal netboot side for the tiny system's own tests: one HTTP server and one QEMU guest, without BMC and service.

Owns the guest's life on the host and records when it asked for what. Knows the calls a kickstart makes only as paths.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from baremetal.lab.tiny.build import KERNEL_ARGS, TinyMedia

MAC = "52:54:00:aa:00:01"
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

# The shape of a kickstart that this project serves: ask for go, name the disk, report at each end.
KICKSTART = """\
# run: server-1/1
lang C.UTF-8
keyboard us
timezone UTC --utc
network --bootproto=dhcp --hostname=node1.example --activate
rootpw --lock
{sshkey}
%include /tmp/storage.ks
liveimg --url={base}/media/tiny/image.raw {checksum}
reboot

%packages
@core
%end

%pre --interpreter=/usr/bin/bash --erroronfail --log=/tmp/pre.log
set -eu
disks='' names='' comma=''
for folder in /sys/block/*; do
    name=${{folder##*/}}
    case $name in loop*|ram*|sr*|fd*|zram*|dm-*|md*) continue ;; esac
    size=$(($(cat "$folder/size") * 512))
    serial=$(cat "$folder/serial" 2>/dev/null || cat "$folder/device/serial" 2>/dev/null || true)
    disks="$disks$comma{{\\"name\\":\\"$name\\",\\"serial\\":\\"$serial\\",\\"size\\":$size}}"
    names="$names $name"
    comma=,
done
set -- $names
if [ $# -ne 1 ]; then
    curl -fsS --retry 5 -d stage=disk --data-urlencode "message=not one disk: $*" {base}/callback/t/install-failed
    exit 1
fi
answer=$(curl -sS --retry 30 --retry-delay 1 --retry-all-errors -w ' %{{http_code}}' \\
    --data-urlencode "boot_id=$(cat /proc/sys/kernel/random/boot_id)" --data-urlencode "disks=[$disks]" -d disk=$1 \\
    {base}/callback/t/install-started)
case $answer in
    *go*' 200') ;;
    *) poweroff -f ;;
esac
echo "ignoredisk --only-use=$1" >/tmp/storage.ks
echo "clearpart --all --initlabel --drives=$1" >>/tmp/storage.ks
%end

%post --nochroot
echo "from outside" >/mnt/sysroot/etc/baremetal/outside
%end

%post --erroronfail --log=/root/post.log
set -eu
umask 077
mkdir -p /etc/baremetal /root/.ssh
echo server-1/1 >/etc/baremetal/run
chmod 644 /etc/baremetal/run
echo 'command="cat /etc/baremetal/run",no-port-forwarding,no-pty {proof_key}' >>/root/.ssh/authorized_keys
ssh-keygen -A
cat >/etc/baremetal/first-boot <<'END'
curl -fsS --retry 10 -d boot_id=x --data-urlencode "run=$(cat /etc/baremetal/run)" {base}/callback/t/first-boot
END
keys=''
for file in /etc/ssh/ssh_host_*_key.pub; do keys="$keys,\\"$(cat "$file")\\""; done
sync
curl -fsS --retry 30 --retry-delay 1 --retry-all-errors -o /dev/null \\
    --data-urlencode "boot_id=$(cat /proc/sys/kernel/random/boot_id)" --data-urlencode "ssh_host_keys=[${{keys#,}}]" \\
    {base}/callback/t/install-complete
%end

%onerror
tail -n 30 /tmp/anaconda.log >/tmp/tail.log
curl -fsS --retry 3 -T /tmp/anaconda.log {base}/callback/t/log/anaconda.log
curl -fsS --retry 5 -d stage=install --data-urlencode message@/tmp/tail.log {base}/callback/t/install-failed
%end

%traceback
curl -fsS --retry 5 -d stage=traceback -d message=crash {base}/callback/t/install-failed
%end
"""


@dataclass
class Call:
    """One request the guest made: `at_s` counts from the rig's start."""

    at_s: float
    method: str
    path: str
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Orchestrator:
    """The other side of the wire; `answers` says what a signal hears, one (status, text) a call, the last for good."""

    def __init__(self, media: TinyMedia, kernel_args: str = "") -> None:
        self.media = media
        self.kernel_args = kernel_args
        self.kickstart = KICKSTART
        self.proof_key = "ssh-ed25519 AAAA none"
        self.sshkey = ""
        self.checksum = ""
        self.answers: dict[str, list[tuple[int, str]]] = {}
        self.calls: list[Call] = []
        self.heard = threading.Condition()
        self.began = time.monotonic()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port: int = self._server.server_address[1]
        self.base = f"http://10.0.2.2:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def render(self) -> str:
        return self.kickstart.format(
            base=self.base, proof_key=self.proof_key, sshkey=self.sshkey, checksum=self.checksum
        )

    def script(self) -> str:
        boot_mac = MAC.replace(":", "-")
        args = f"BOOTIF=01-{boot_mac} inst.ks={self.base}/answer/f/ks.cfg {KERNEL_ARGS} {self.kernel_args}"
        media = f"{self.base}/media/tiny"
        return f"#!ipxe\nkernel {media}/vmlinuz initrd=initrd {args}\ninitrd {media}/initrd\nboot\n"

    def answer(self, call: Call) -> tuple[int, bytes | Path]:
        """Record the call, then decide."""
        signal = call.path.rsplit("/", 1)[-1] if call.path.startswith("/callback/t/") else ""
        with self.heard:
            self.calls.append(call)
            self.heard.notify_all()
        if call.path == "/boot.ipxe":
            return 200, self.script().encode()
        if call.path == "/answer/f/ks.cfg":
            return 200, self.render().encode()
        if call.path.startswith("/media/tiny/") and not call.path.endswith(".missing"):
            return 200, self.media.folder / call.path.rsplit("/", 1)[-1]
        if signal:
            given = self.answers.get(signal)
            if given:
                status, text = given.pop(0) if len(given) > 1 else given[0]
            else:
                status, text = 200, "go" if signal == "install-started" else "ok"
            return status, text.encode()
        return 404, b"not found"

    def paths(self) -> list[str]:
        with self.heard:
            return [call.path for call in self.calls]

    def find(self, end: str) -> Call | None:
        with self.heard:
            return next((call for call in self.calls if call.path.endswith(end)), None)

    def wait_for(self, end: str, deadline_s: float) -> Call:
        """Wait until some call's path ends so."""
        until = time.monotonic() + deadline_s
        with self.heard:
            while True:
                found = next((call for call in self.calls if call.path.endswith(end)), None)
                if found:
                    return found
                left = until - time.monotonic()
                assert left > 0, f"no {end} within {deadline_s} s; heard {[call.path for call in self.calls]}"
                self.heard.wait(left)


def _handler(orchestrator: Orchestrator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            fields = dict(urllib.parse.parse_qsl(body.decode())) if self.command == "POST" else {}
            path = self.path.split("?", 1)[0]
            call = Call(time.monotonic() - orchestrator.began, self.command, path, fields, body)
            status, content = orchestrator.answer(call)
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            self.send_response(status)
            self.send_header("Content-Length", str(size))
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            if isinstance(content, Path):
                with content.open("rb") as file, contextlib.suppress(ConnectionError):
                    shutil.copyfileobj(file, self.wfile, 1 << 20)
            else:
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent: the calls are recorded."""

    return Handler


class Guest:
    """One emulated server: 256 MB, one virtio NIC with iPXE, one virtio disk with a serial number."""

    def __init__(
        self, folder: Path, orchestrator: Orchestrator, *, uefi: bool = False, disk_mib: int = 256
    ) -> None:
        self.folder = folder
        self.orchestrator = orchestrator
        self.uefi = uefi
        self.disk = folder / "disk.img"
        self.serial = folder / "serial.log"
        self.ssh_port = _free_port()
        self.more: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: socket.socket | None = None
        with self.disk.open("wb") as disk:
            disk.truncate(disk_mib << 20)
        if uefi:
            shutil.copyfile(OVMF_VARS, folder / "vars.fd")

    def power_on(self, *, netboot: bool) -> None:
        """Start with one boot order; a reboot is a power-off here, so that the next order can be chosen."""
        monitor = self.folder / "qmp"
        monitor.unlink(missing_ok=True)
        nic_first, disk_first = (1, 2) if netboot else (2, 1)
        url = f"http://10.0.2.2:{self.orchestrator.port}/boot.ipxe"
        machine = "q35" if self.uefi else "pc,graphics=off"
        command = ["nice", "qemu-system-x86_64", "-machine", machine, "-accel", "tcg,tb-size=512", *self.more]
        command += ["-m", "256", "-display", "none", "-nodefaults", "-no-reboot", "-boot", "strict=on"]
        command += [
            "-chardev",
            f"file,id=serial,path={self.serial},append=on",
            "-serial",
            "chardev:serial",
            "-qmp",
            f"unix:{monitor},server=on,wait=off",
        ]
        command += ["-netdev", f"user,id=n0,bootfile={url},hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"]
        rom = ",romfile=/usr/lib/ipxe/qemu/efi-virtio.rom" if self.uefi else ""
        command += ["-device", f"virtio-net-pci,id=nic0,netdev=n0,mac={MAC},bootindex={nic_first}{rom}"]
        command += ["-drive", f"if=none,id=d0,file={self.disk},format=raw,cache=unsafe"]
        command += ["-device", f"virtio-blk-pci,id=disk0,drive=d0,serial=TINY0001,bootindex={disk_first}"]
        command += ["-device", "virtio-rng-pci"]
        if self.uefi:
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF_CODE}"]
            command += ["-drive", f"if=pflash,format=raw,file={self.folder / 'vars.fd'}"]
        with (self.folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while self._monitor is None:
            channel = socket.socket(socket.AF_UNIX)
            try:
                channel.connect(str(monitor))
                self._monitor = channel
            except OSError:
                channel.close()
                assert time.monotonic() < until, (self.folder / "qemu.log").read_text()
                time.sleep(0.05)
        self._monitor.settimeout(10)
        self._stream = self._monitor.makefile("r")
        self._stream.readline()
        self.ask("qmp_capabilities")

    def boot_installed(self, deadline_s: float) -> None:
        """Wait for the installer's reboot, then start from the disk."""
        self.wait_until_off(deadline_s)
        self.stop()
        self.power_on(netboot=False)

    def ask(self, command: str, **arguments: Any) -> Any:
        assert self._monitor is not None
        self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._stream.readline())
            if "event" not in answer:
                assert "error" not in answer, answer
                return answer["return"]

    def wait_until_off(self, deadline_s: float) -> None:
        assert self._process is not None
        self._process.wait(deadline_s)

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def console(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def wait_for_console(self, text: str, deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while text not in self.console():
            assert self.is_on, f"off before {text!r}:\n{self.console()[-3000:]}"
            assert time.monotonic() < until, f"no {text!r} on the console:\n{self.console()[-3000:]}"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._monitor is not None:
            self._stream.close()
            self._monitor.close()
            self._monitor = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


@contextlib.contextmanager
def running(
    media: TinyMedia, folder: Path, *, uefi: bool = False, kernel_args: str = ""
) -> Iterator[tuple[Orchestrator, Guest]]:
    """An orchestrator and a guest that is still off; both gone afterwards."""
    orchestrator = Orchestrator(media, kernel_args)
    guest = Guest(folder, orchestrator, uefi=uefi)
    try:
        yield orchestrator, guest
    finally:
        guest.stop()
        orchestrator.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
