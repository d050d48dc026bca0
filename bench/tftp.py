"""A big file over TFTP to one client, from our server and from dnsmasq, in turn and by the same clients.

dnsmasq answers on port 69 only, so that everything happens in a network namespace of its own, which needs no privilege.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import uvloop

from baremetal.netboot.tftp import FileContent, Request, TftpServer
from bench.figure import Figure

SIZE = 50 * 1000 * 1000
ROUNDS = 5
NAME = "initrd.img"
OURS, THEIRS = ("127.0.0.1", 6969), ("127.0.0.2", 69)
CLIENTS = {
    "curl, blocks of 1,468 bytes": (
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "--tftp-blksize",
        "1468",
        "-o",
        "{to}",
        "{url}",
    ),
    "atftp, the same in windows of 8": (
        *("atftp", "--option", "blksize 1468", "--option", "windowsize 8"),
        *("--get", "-r", NAME, "-l", "{to}", "{host}", "{port}"),
    ),
}
Rates = dict[str, dict[str, list[tuple[float, float]]]]
"""By client and server: megabytes per second, and the server's processor time, of each round."""
_SIOCSIFFLAGS, _UP_AND_RUNNING = 0x8914, 0x41


def run(_: Namespace) -> list[Figure]:
    for program, package in (("dnsmasq", "dnsmasq-base"), ("curl", "curl"), ("atftp", "atftp")):
        if shutil.which(program, path=_path()) is None:
            raise RuntimeError(f"{program} is not installed (Debian package {package})")
    with tempfile.TemporaryDirectory(prefix="baremetal-bench-") as folder:
        os.chmod(folder, 0o755)
        command = ["unshare", "-Urn", sys.executable, "-m", "bench.tftp", folder]
        said = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
        )
    rates: Rates = json.loads(said.stdout)
    return [
        _figure(client, each, is_promised=number == 0) for number, (client, each) in enumerate(rates.items())
    ]


def _figure(client: str, rates: dict[str, list[tuple[float, float]]], *, is_promised: bool) -> Figure:
    ours, theirs = (median(rate for rate, _ in rates[which]) for which in ("ours", "dnsmasq"))
    our_cpu, their_cpu = (median(cpu_s for _, cpu_s in rates[which]) for which in ("ours", "dnsmasq"))
    return Figure(
        f"TFTP, {SIZE // 10**6} MB to one client ({client}), beside dnsmasq",
        ours / theirs,
        "times its rate",
        0.5 if is_promised else None,
        at_least=True,
        how=f"medians of {ROUNDS} rounds in turn: ours {ours:.1f} MB/s for {our_cpu:.2f} s of processor time, "
        f"dnsmasq {theirs:.1f} MB/s for {their_cpu:.2f} s; each copy compared",
    )


def _inside(folder: Path) -> Rates:
    """Measure, within the namespace."""
    _loopback_up()
    media = folder / NAME
    media.write_bytes(os.urandom(SIZE))
    media.chmod(0o644)
    rates: Rates = {}
    with _ours(folder) as ours, _dnsmasq(folder) as dnsmasq:
        servers = {"ours": (OURS, ours), "dnsmasq": (THEIRS, dnsmasq)}
        for name, words in CLIENTS.items():
            rates[name] = {"ours": [], "dnsmasq": []}
            for _ in range(ROUNDS):
                for which, ((host, port), process) in servers.items():
                    used = _cpu_s(process)
                    rate = _fetch(words, host, port, media)
                    rates[name][which].append((rate, _cpu_s(process) - used))
    return rates


def _fetch(words: Sequence[str], host: str, port: int, media: Path) -> float:
    """Fetch the file, and return megabytes per second. Raises RuntimeError if it is not the same."""
    copy = media.with_name("copy")
    values = {"host": host, "port": port, "to": copy, "url": f"tftp://{host}:{port}/{NAME}"}
    began = time.monotonic()
    done = subprocess.run(
        [word.format(**values) for word in words], capture_output=True, text=True, check=False
    )
    took = time.monotonic() - began
    if done.returncode or copy.read_bytes() != media.read_bytes():
        raise RuntimeError(f"{words[0]} from {host}:{port}: {done.returncode} {done.stderr[-300:]}")
    copy.unlink()
    return SIZE / 1e6 / took


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[int]:
    with _process([sys.executable, "-m", "bench.tftp", "--serve", str(folder)], OURS) as process:
        yield process


@contextlib.contextmanager
def _dnsmasq(folder: Path) -> Iterator[int]:
    host, _ = THEIRS
    command = ["dnsmasq", "-d", "--conf-file=/dev/null", "--port=0", "--enable-tftp", f"--tftp-root={folder}"]
    command += [f"--listen-address={host}", "--bind-interfaces", "--user=root", "--group=root", "--pid-file="]
    with _process(command, THEIRS) as process:
        yield process


@contextlib.contextmanager
def _process(command: Sequence[str], place: tuple[str, int]) -> Iterator[int]:
    """Run a server until it is no longer needed; it is ready when it answers."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": _path()}
        )
        try:
            for _ in range(200):
                if _answers(place):
                    break
                if process.poll() is not None:
                    said.seek(0)
                    raise RuntimeError(f"{command[0]} does not run: {said.read().decode()[-500:]}")
            yield process.pid
        finally:
            process.terminate()
            process.wait(10)


def _cpu_s(process: int) -> float:
    """Return the processor time that a process has used, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _answers(place: tuple[str, int]) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.sendto(b"\0\1missing\0octet\0", place)
        try:
            return bool(sock.recv(600))
        except (TimeoutError, ConnectionError):
            time.sleep(0.05)
            return False


def _loopback_up() -> None:
    """Switch the namespace's loopback on: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


async def _serve(folder: Path) -> None:
    def resolve(asked: Request) -> FileContent | None:
        return FileContent(folder / NAME) if asked.name == NAME else None

    with ThreadPoolExecutor(4) as executor:
        await TftpServer(*OURS, resolve, executor=executor).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        uvloop.run(_serve(Path(sys.argv[2])))
    else:
        print(json.dumps(_inside(Path(sys.argv[1]))))
