"""A rack that is switched on: a thousand machines ask for script, answer file and go, report, and are done."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from argparse import Namespace
from dataclasses import dataclass, field
from unittest.mock import patch

import uvloop

from bench.figure import Figure, percentile
from bench.service import Service, enrolments, mac

SERVERS = 1000
# Machines of one rack leave their self-test within some seconds of each other.
ARRIVE_S = 10.0
PROFILE = "centos7"
KERNEL, INITRD = "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"
SETTINGS = "[bmc]\nobserve_interval_s = 0\n[deploy]\nmax_concurrent = 0\n"
BOUND_S = 0.25


@dataclass(slots=True)
class Times:
    """Seconds from each request's first byte to the last of its answer."""

    script: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    callback: list[float] = field(default_factory=list)


def run(_: Namespace) -> list[Figure]:
    command = (sys.executable, "-m", "bench.simulated_service")
    with patch.dict(os.environ, {"BENCH_SERVERS": str(SERVERS)}), Service(SETTINGS, command) as service:
        service.media(PROFILE, KERNEL, INITRD)
        rows = enrolments(SERVERS, lambda number: f"sim://admin@bmc-{number}")
        service.post("/v1/servers", {"servers": rows})
        names = [row["name"] for row in rows]
        service.wait(set(names), lambda one: one["provision_state"] == "available", 300.0)
        service.post("/v1/bulk/deploy", {"names": names, "profile": PROFILE})
        service.wait(set(names), lambda one: (one["run"] or {}).get("step") == "script", 300.0)
        times = Times()
        began, used = time.monotonic(), service.cpu_s()
        uvloop.run(_storm(service.boot_port, times))
        lasted, busy = time.monotonic() - began, service.cpu_s() - used
        service.wait(set(names), lambda one: one["provision_state"] == "deploying" or one["run"] is not None)
    how = (
        f"{SERVERS:,} machines arrive within {ARRIVE_S:.0f} s, each with connections of its own: first script, boot "
        f"script, answer file, go, two of progress, complete; over in {lasted:.1f} s, {busy:.1f} s of processor time; "
        "no request failed; the clients share the two cores"
    )
    return [
        Figure("boot script in a storm, p99", percentile(times.script, 0.99), "s", BOUND_S, how=how),
        Figure("the same, median", percentile(times.script, 0.5), "s"),
        Figure("answer file, p99", percentile(times.answer, 0.99), "s"),
        Figure("call-back, committed before it is answered, p99", percentile(times.callback, 0.99), "s"),
    ]


async def _storm(port: int, times: Times) -> None:
    rng = random.Random(1)
    await asyncio.gather(
        *(_machine(port, number, rng.uniform(0.0, ARRIVE_S), times) for number in range(SERVERS))
    )


async def _machine(port: int, number: int, after_s: float, times: Times) -> None:
    """Live one machine's netboot. Raises RuntimeError for any answer that is not the right one."""
    await asyncio.sleep(after_s)
    await _ask(port, "GET", "/boot.ipxe", None, "chain", [])
    path = f"/ipxe?mac={mac(number)}&arch=x86_64"
    script = await _ask(port, "GET", path, None, f"_server-{number}.", times.script)
    answer = "/" + next(word for word in script.split() if word.startswith("inst.ks=")).split("/", 3)[3]
    kickstart = await _ask(port, "GET", answer, None, f"server-{number}: centos7", times.answer)
    line = next(line for line in kickstart.splitlines() if line.startswith("BM_CALLBACK="))
    callback = "/" + line.partition("=")[2].strip("'").split("/", 3)[3]
    disk = {"name": "vda", "serial": f"S{number}", "size": 10**11, "rotational": False}
    boot = {"boot_id": f"boot-{number}", "macs": [mac(number)]}
    go = boot | {"disks": [disk], "disk": "vda"}
    await _ask(port, "POST", f"{callback}/install-started", go, "go", times.callback)
    for percent in (10, 90):
        news = boot | {"stage": "packages", "percent": percent}
        await _ask(port, "POST", f"{callback}/progress", news, "ok", times.callback)
    await _ask(port, "POST", f"{callback}/install-complete", boot, "ok", times.callback)


async def _ask(port: int, method: str, path: str, fields: object, holds: str, times: list[float]) -> str:
    body = b"" if fields is None else json.dumps(fields).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"\r\n" + body)
    answer = (await reader.read()).decode()
    times.append(time.monotonic() - began)
    writer.close()
    status, _, rest = answer.partition("\r\n")
    if " 200 " not in status or holds not in rest:
        raise RuntimeError(f"{method} {path}: {answer[:400]!r}")
    return rest.partition("\r\n\r\n")[2]
