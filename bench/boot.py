"""Boot scripts and kickstarts per second of the server's processor time, each computed when it is asked for."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvloop

from baremetal.sim.farm import FarmProcess
from bench.figure import Figure
from bench.service import Service, enrolments, mac

PROFILE = "centos7"
KERNEL, INITRD = "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"
SERVERS = 50
STRANGERS = 200
CONNECTIONS = 16
REQUESTS = 3000
# A machine is served three scripts per netboot, then no more: the limit is raised, the counting stays.
SETTINGS = """
[bmc]
observe_interval_s = 0
[deploy.limits]
max_serves = 1000000
"""
BOUND = 1500.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What some load cost the server."""

    per_cpu_s: float
    per_s: float


def run(_: Namespace) -> list[Figure]:
    with FarmProcess(SERVERS) as farm, Service(SETTINGS) as service:
        service.media(PROFILE, KERNEL, INITRD)
        rows = enrolments(SERVERS, lambda number: f"ipmi://admin@127.0.0.1:{farm.ports[number]}")
        rows += enrolments(STRANGERS, lambda number: f"ipmi://admin@192.0.2.1:{1 + number}", verify=False)
        for number, row in enumerate(rows):
            row |= {"name": f"server-{number}", "macs": [mac(number)]}
        service.post("/v1/servers", {"servers": rows})
        names = [row["name"] for row in rows[:SERVERS]]
        service.wait(set(names), lambda one: one["provision_state"] == "available")
        service.post("/v1/bulk/deploy", {"names": names, "profile": PROFILE})
        service.wait(set(names), lambda one: (one["run"] or {}).get("step") == "script")
        scripts = [f"/ipxe?mac={mac(number)}&arch=x86_64" for number in range(SERVERS)]
        served = asyncio.run(_collect(service.boot_port, scripts))
        answers = [_answer_path(text) for text in served]
        idle = [f"/ipxe?mac={mac(number)}&arch=x86_64" for number in range(SERVERS, SERVERS + STRANGERS)]
        beside = _busy(service)
        install = _measure(service, scripts, _holds(lambda at: f"_server-{at}."))
        kickstart = _measure(service, answers, _holds(lambda at: f"server-{at}: centos7"))
        local = _measure(service, idle, _holds(lambda at: "nothing to install"))
    how = (
        f"{REQUESTS:,} requests over {CONNECTIONS} kept connections from another process, {SERVERS} servers in an open "
        f"window, every answer's text checked; what it does beside ({100 * beside:.0f} % of a core) is included"
    )
    return [
        Figure(
            "boot scripts that start an installer",
            install.per_cpu_s,
            "per CPU second",
            BOUND,
            at_least=True,
            how=f"{how}; each committed before it is answered; {install.per_s:.0f} a second of wall time",
        ),
        Figure(
            "boot scripts of servers with nothing to install",
            local.per_cpu_s,
            "per CPU second",
            BOUND,
            at_least=True,
            how=f"the same, {STRANGERS} other servers; {local.per_s:.0f} a second of wall time",
        ),
        Figure(
            "kickstarts (the shipped CentOS 7 profile)",
            kickstart.per_cpu_s,
            "per CPU second",
            BOUND,
            at_least=True,
            how=f"the same; {kickstart.per_s:.0f} a second of wall time",
        ),
    ]


def _measure(service: Service, paths: Sequence[str], right: Callable[[int, bytes], bool]) -> Rate:
    uvloop.run(_load(service.boot_port, paths, len(paths), right))
    began, used = time.monotonic(), service.cpu_s()
    uvloop.run(_load(service.boot_port, paths, REQUESTS, right))
    return Rate(REQUESTS / (service.cpu_s() - used), REQUESTS / (time.monotonic() - began))


def _busy(service: Service, for_s: float = 4.0) -> float:
    """Return the share of a core that the service uses while nobody asks it for anything."""
    used = service.cpu_s()
    time.sleep(for_s)
    return (service.cpu_s() - used) / for_s


def _holds(mark: Callable[[int], str]) -> Callable[[int, bytes], bool]:
    return lambda at, body: mark(at).encode() in body


async def _load(port: int, paths: Sequence[str], count: int, right: Callable[[int, bytes], bool]) -> None:
    """Ask for the paths in turn, `count` times in all. Raises RuntimeError for the first answer that is not right."""
    numbers = iter(range(count))

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            at = number % len(paths)
            body = await _get(reader, writer, port, paths[at])
            if not right(at, body):
                raise RuntimeError(f"{paths[at]}: {body[:300]!r}")
        writer.close()

    await asyncio.gather(*(ask() for _ in range(min(CONNECTIONS, count))))


async def _collect(port: int, paths: Sequence[str]) -> list[str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    texts = [(await _get(reader, writer, port, path)).decode() for path in paths]
    writer.close()
    return texts


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, path: str) -> bytes:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: iPXE/1.21.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{path}: {head[:200]!r}")
    length = next(
        line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    ).partition(b":")[2]
    return await reader.readexactly(int(length))


def _answer_path(script: str) -> str:
    url = next(word for word in script.split() if word.startswith("inst.ks=")).removeprefix("inst.ks=")
    return "/" + url.split("/", 3)[3]
