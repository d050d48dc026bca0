"""From the deploy request to the power-on packet, at BMCs that answer in 20 ms and whose machines are off."""

from __future__ import annotations

import time
from argparse import Namespace
from statistics import median
from typing import Any

from baremetal.sim.farm import FarmProcess
from bench.figure import Figure, percentile
from bench.service import Service, enrolments

PROFILE = "centos7"
KERNEL, INITRD = "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"
MANY = 50
ROUNDS = 3
ON = 1  # IPMI 2.0 §28.3, chassis control: power up
# The only reads of the service between the runs would be the watch of power states.
SETTINGS = "[bmc]\nobserve_interval_s = 0\n"
PEER = "quoted, not run here: Ironic 39 on the same BMCs, measured 2026-11-20 on two shared cores"


def run(_: Namespace) -> list[Figure]:
    with FarmProcess(MANY, {"reply_delay_s": 0.02}) as farm, Service(SETTINGS) as service:
        service.media(PROFILE, KERNEL, INITRD)
        rows = enrolments(MANY, lambda number: f"ipmi://admin@127.0.0.1:{farm.ports[number]}")
        service.post("/v1/servers", {"servers": rows})
        names = [row["name"] for row in rows]
        service.wait(set(names), lambda one: one["provision_state"] == "available")
        alone = [_deploy(farm, service, names[number : number + 1], number) for number in range(ROUNDS + 2)]
        together = [_deploy(farm, service, names, 0) for _ in range(ROUNDS)]
    one = [seconds for took, _ in alone for seconds in took]
    p99 = [percentile(took, 0.99) for took, _ in together]
    half = [percentile(took, 0.5) for took, _ in together]
    asked = [count for _, counts in [*alone, *together] for count in counts]
    how = "POST deploy at a service of its own process until its BMC has the power-on packet, over real IPMI"
    pacing = "Ironic's 5 s between commands is deliberate (and a setting of ours: min_interval)"
    return [
        Figure(
            "deploy request to power on, one server",
            median(one),
            "s",
            0.7,
            how=f"{how}; median of {len(one)}, slowest {max(one):.2f} s",
            quoted=(f"{PEER}: 26.7 s. {pacing}",),
        ),
        Figure(
            f"deploy request to power on, p99 of {MANY} at once",
            median(p99),
            "s",
            4.0,
            how=f"one bulk request for all; median of {ROUNDS} rounds, worst {max(p99):.2f} s; "
            f"half of the servers after {median(half):.2f} s",
            quoted=(f"{PEER}: 41 s",),
        ),
        Figure(
            "requests to the BMC per deploy, the most of any",
            max(asked),
            "requests",
            16,
            how=f"packets counted by the BMC, session and read-backs included; fewest {min(asked)}",
            quoted=(f"{PEER}: 77",),
        ),
    ]


def _deploy(
    farm: FarmProcess, service: Service, names: list[str], first: int
) -> tuple[list[float], list[int]]:
    """Deploy servers until they may netboot, then put them off; return each one's seconds and requests."""
    before = farm.stats()
    began = time.monotonic()
    if len(names) == 1:
        service.post(f"/v1/servers/{names[0]}/deploy", {"profile": PROFILE})
    else:
        service.post("/v1/bulk/deploy", {"names": names, "profile": PROFILE})
    service.wait(set(names), lambda one: (one["run"] or {}).get("step") == "script")
    after = farm.stats()
    numbers = range(first, first + len(names))
    seconds = [powered_on_at(after[number], began) - began for number in numbers]
    requests = [
        sum(after[number]["requests"].values()) - sum(before[number]["requests"].values())
        for number in numbers
    ]
    service.post("/v1/bulk/abort", {"names": names})
    service.wait(set(names), lambda one: one["provision_state"] == "deploy failed")
    return seconds, requests


def powered_on_at(bmc: dict[str, Any], since: float) -> float:
    """Return when a BMC was told to power on, by its own count, first after a moment."""
    at: float = next(each["at"] for each in bmc["power"] if each["action"] == ON and each["at"] > since)
    return at
