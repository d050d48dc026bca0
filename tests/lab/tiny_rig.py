"""A minimal netboot side for the tiny system's own tests: one HTTP server and one virtual machine, no BMC, no service.

Owns the machine's life on the host and records when it asked for what. Knows the calls a kickstart makes only as paths.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import paramiko

from baremetal.lab.firmware import find_firmware
from baremetal.lab.machine import MachineSpec, QemuMachine, VirtualDisk
from baremetal.lab.tiny.build import KERNEL_ARGS, TinyMedia
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer
from baremetal.netboot.templates import Templates, freeze
from baremetal.sim.chassis import BootOrder

MAC = "52:54:00:aa:00:01"
MACHINE_UUID = UUID("6b1c2b1e-0f0e-4c43-9a6f-0d2c5a3b7e11")
SERIAL = "TINYBOX1"
SERVER_ID = "0123456789abcdef0123456789abcdef"

# A kickstart that uses what the shipped template does not: checksum, sshkey, a post script inside, files uploaded.
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
    curl -fsS --retry 5 -d stage=disk --data-urlencode "message=not one disk: $*" {base}/callback/token/install-failed
    exit 1
fi
answer=$(curl -sS --retry 30 --retry-delay 1 --retry-all-errors -w ' %{{http_code}}' \\
    --data-urlencode "boot_id=$(cat /proc/sys/kernel/random/boot_id)" --data-urlencode "disks=[$disks]" -d disk=$1 \\
    {base}/callback/token/install-started)
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
curl -fsS --retry 10 -d boot_id=x --data-urlencode "run=$(cat /etc/baremetal/run)" {base}/callback/token/first-boot
END
keys=''
for file in /etc/ssh/ssh_host_*_key.pub; do keys="$keys,\\"$(cat "$file")\\""; done
sync
curl -fsS --retry 30 --retry-delay 1 --retry-all-errors -o /dev/null \\
    --data-urlencode "boot_id=$(cat /proc/sys/kernel/random/boot_id)" --data-urlencode "ssh_host_keys=[${{keys#,}}]" \\
    {base}/callback/token/install-complete
%end

%onerror
tail -n 30 /tmp/anaconda.log >/tmp/tail.log
curl -fsS --retry 3 -T /tmp/anaconda.log {base}/callback/token/log/anaconda.log
curl -fsS --retry 5 -d stage=install --data-urlencode message@/tmp/tail.log {base}/callback/token/install-failed
%end

%traceback
curl -fsS --retry 5 -d stage=traceback -d message=crash {base}/callback/token/install-failed
%end
"""


@dataclass
class Call:
    """One request the machine made: `at_s` counts from power-on."""

    at_s: float
    method: str
    path: str
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def name(self) -> str:
        """The last part of the path: a file's or signal's name."""
        return self.path.rsplit("/", 1)[-1]


Kickstart = Callable[[str], str]


class Rig:
    """The other side of the wire, and the machine. `answers` says what a signal hears, the last one for good."""

    def __init__(
        self,
        folder: Path,
        media: TinyMedia,
        kickstart: Kickstart,
        *,
        mode: BootMode = BootMode.BIOS,
        kernel_args: str = "",
        disks_mib: tuple[int, ...] = (256,),
    ) -> None:
        self.calls: list[Call] = []
        self.answers: dict[str, list[tuple[int, str]]] = {}
        self._heard = threading.Condition()
        self._began = time.monotonic()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        base = f"http://10.0.2.2:{self._server.server_port}"
        args = f"BOOTIF=01-{MAC.replace(':', '-')} inst.ks={base}/answer/fetch/ks.cfg {KERNEL_ARGS} {kernel_args}"
        tiny = f"{base}/media/tiny"
        self.installer = f"kernel {tiny}/vmlinuz initrd=i {args}\ninitrd --name i {tiny}/initrd.img\nboot\n"
        self._served: dict[str, bytes | Path] = {
            "boot.ipxe": f"#!ipxe\n{self.installer}".encode(),
            "ks.cfg": kickstart(base).encode(),
        }
        for path in (media.kernel, media.initrd, media.image):
            self._served[path.name] = path
        self.ssh_port = free_port()
        self.disks = tuple(
            VirtualDisk(folder / f"disk{number}.img", size, f"TINY000{number}")
            for number, size in enumerate(disks_mib)
        )
        spec = MachineSpec(
            name="tiny",
            directory=folder,
            mac=MAC,
            uuid=MACHINE_UUID,
            serial=SERIAL,
            disks=self.disks,
            boot_url=f"{base}/boot.ipxe",
            boot_mode=mode,
            ssh_port=self.ssh_port,
        )
        self.machine = QemuMachine(spec, find_firmware(mode))

    def answer_boot(self, script: str) -> None:
        """From now on, what a netbooting machine is told. `installer` is what it hears without this."""
        self._served["boot.ipxe"] = f"#!ipxe\n{script}".encode()

    def power_on(self) -> None:
        """Netboot once; a reboot of the machine then finds its disk."""
        self._began = time.monotonic()
        self.machine.power_on(BootOrder(BootDevice.PXE))
        self.wait_until(lambda: self.machine.is_on, 10, "power on")

    def close(self) -> None:
        self.machine.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def names(self) -> list[str]:
        with self._heard:
            return [call.name for call in self.calls]

    def wait_for(self, name: str, within_s: float) -> Call:
        """Wait for a request whose path ends in this name."""
        self.wait_until(lambda: name in self.names(), within_s, name)
        with self._heard:
            return next(call for call in self.calls if call.name == name)

    def wait_for_console(self, text: str, within_s: float) -> None:
        self.wait_until(lambda: text in self.console(), within_s, f"{text!r} on the console")

    def wait_until_off(self, within_s: float) -> None:
        self.wait_until(lambda: not self.machine.is_on, within_s, "power off")

    def wait_until(self, claim: Callable[[], bool], within_s: float, what: str) -> None:
        until = time.monotonic() + within_s
        while not claim():
            left = until - time.monotonic()
            assert left > 0, f"no {what} within {within_s} s; heard {self.names()};\n{self.console()[-3000:]}"
            with self._heard:
                self._heard.wait(min(left, 0.1))

    def console(self) -> str:
        log = self.machine.spec.serial_log
        return log.read_text(errors="replace") if log.exists() else ""

    def login(self, key: paramiko.PKey, host_key: str, command: str, within_s: float = 20) -> str:
        """Log in as root, trusting only this host key line, and return what the command printed."""
        kind, data = host_key.split()[:2]
        client = paramiko.SSHClient()
        name = f"[127.0.0.1]:{self.ssh_port}"
        client.get_host_keys().add(name, kind, paramiko.PKey.from_type_string(kind, base64.b64decode(data)))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        with contextlib.closing(client):
            client.connect(
                "127.0.0.1", self.ssh_port, "root", pkey=key, timeout=within_s, banner_timeout=within_s,
                auth_timeout=within_s, allow_agent=False, look_for_keys=False,
            )  # fmt: skip
            _, output, _ = client.exec_command(command, timeout=within_s)
            return output.read().decode()

    def hear(self, call: Call) -> tuple[int, bytes | Path]:
        """Record the call, then answer it."""
        with self._heard:
            call.at_s = time.monotonic() - self._began
            self.calls.append(call)
            self._heard.notify_all()
        if call.path.startswith("/callback/"):
            given = self.answers.get(call.name)
            if given:
                status, text = given.pop(0) if len(given) > 1 else given[0]
                return status, text.encode()
            return 200, b"go" if call.name == "install-started" else b"ok"
        found = self._served.get(call.name)
        return (404, b"not found") if found is None else (200, found)


def _handler(rig: Rig) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fields = dict(urllib.parse.parse_qsl(body.decode())) if self.command == "POST" else {}
            status, content = rig.hear(Call(0.0, self.command, self.path.split("?", 1)[0], fields, body))
            self.send_response(status)
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            source = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
            with source, contextlib.suppress(ConnectionError):
                shutil.copyfileobj(source, self.wfile, 1 << 20)

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent: the calls are recorded."""

    return Handler


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def own_kickstart(proof_key: str = "", sshkey: str = "", checksum: str = "") -> Kickstart:
    """The kickstart above, for this proof key."""
    return lambda base: KICKSTART.format(base=base, proof_key=proof_key, sshkey=sshkey, checksum=checksum)


def shipped_kickstart(proof_key: str = "ssh-ed25519 AAAA none", **variables: Any) -> Kickstart:
    """The project's own template, rendered as the service renders it."""
    profile = Profile("tiny", Family.KICKSTART, "vmlinuz", "initrd.img", "kickstart/tiny.ks.j2")

    def render(base: str) -> str:
        context = Context(
            server=ServerFacts(SERVER_ID, "tiny-1", (MAC,), MAC, str(MACHINE_UUID), SERIAL),
            run=1,
            profile=profile,
            variables=merge_variables(profile.variables, variables),
            urls=Urls.of(base, "tiny", "fetch", "callback"),
            proof_key=proof_key,
        )
        return render_answer(freeze(profile, Templates.with_own()), "ks.cfg", context)

    return render


@contextlib.contextmanager
def tiny_rig(folder: Path, media: TinyMedia, kickstart: Kickstart, **more: Any) -> Iterator[Rig]:
    """A rig with its machine still off; both gone afterwards."""
    rig = Rig(folder, media, kickstart, **more)
    try:
        yield rig
    finally:
        rig.close()


def cache_folder() -> Path:
    """Where the tiny system stays for the next run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baremetal" / "tiny"
