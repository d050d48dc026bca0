"""From the deploy request to the power-on of a clone, fifty clones at once, and a list of a thousand volumes.

On a tgtd of its own and volumes as files. Where the filesystem has no reflinks a clone is a copy, so the golden image
is small: what is measured is everything but the copying.
"""

from __future__ import annotations

import json
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from statistics import median

from baremetal.lab.targets import CONTROL, TargetDaemon
from baremetal.sim.farm import FarmProcess
from bench.bmc import powered_on_at
from bench.figure import Figure, percentile
from bench.service import Service, enrolments

MANY = 50
ROUNDS = 3
VOLUMES = 1000
SETTINGS = """
[bmc]
observe_interval_s = 0

[storage.nas]
kind = "tgt"
portal = "127.0.0.1:{port}"
base_iqn = "iqn.2026-01.org.example"
folder = "{folder}"
socket = "{socket}"

[profile.clone]
family = "nocloud"
method = "clone"
template = "nocloud/clone.sh.j2"
golden = "small"
proof = "first-boot"
"""


def run(_: Namespace) -> list[Figure]:
    with tempfile.TemporaryDirectory() as place, TargetDaemon(Path(place) / "t") as daemon:
        folder = Path(place) / "volumes"
        folder.mkdir()
        image = Path(place) / "small.raw"
        image.write_bytes(b"golden" * 100_000)
        socket = f"{daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}"
        settings = SETTINGS.format(port=daemon.port, folder=folder, socket=socket)
        with FarmProcess(MANY, {"reply_delay_s": 0.02}) as farm, Service(settings) as service:
            service.post("/v1/volumes", {"name": "small", "path": str(image)})
            rows = enrolments(MANY, lambda number: f"ipmi://admin@127.0.0.1:{farm.ports[number]}")
            service.post("/v1/servers", {"servers": rows})
            names = [row["name"] for row in rows]
            service.wait(set(names), lambda one: one["provision_state"] == "available")
            alone = [_clone(farm, service, names[number : number + 1], number)[0] for number in range(5)]
            together = [max(_clone(farm, service, names, 0)) for _ in range(ROUNDS)]
            listing = _listing(service, folder)
    how = "POST deploy until the BMC has the power-on packet: volume, seed, target, access, read back; then IPMI"
    return [
        Figure(
            "deploy request to power on of a clone",
            median(alone),
            "s",
            2.0,
            how=f"{how}; median of {len(alone)}, slowest {max(alone):.2f} s",
        ),
        Figure(
            f"the same for {MANY} clones at once, the last",
            median(together),
            "s",
            60.0,
            how=f"one storage host, one change at a time; median of {ROUNDS} rounds, worst {max(together):.1f} s",
        ),
        Figure(
            f"a list of {VOLUMES:,} volumes",
            percentile(listing, 0.5),
            "s",
            0.5,
            how="GET /v1/volumes with what the storage host says of each; median of 5",
        ),
    ]


def _clone(farm: FarmProcess, service: Service, names: list[str], first: int) -> list[float]:
    """Deploy servers until they may netboot, then take them back; return each one's seconds to the power-on."""
    began = time.monotonic()
    if len(names) == 1:
        service.post(f"/v1/servers/{names[0]}/deploy", {"profile": "clone"})
    else:
        service.post("/v1/bulk/deploy", {"names": names, "profile": "clone"})
    service.wait(set(names), lambda one: (one["run"] or {}).get("step") == "script")
    after = farm.stats()
    seconds = [powered_on_at(after[first + at], began) - began for at in range(len(names))]
    service.post("/v1/bulk/abort", {"names": names})
    service.wait(set(names), lambda one: one["provision_state"] == "deploy failed")
    service.post("/v1/bulk/release", {"names": names})
    service.wait(set(names), lambda one: one["provision_state"] == "available")
    return seconds


def _listing(service: Service, folder: Path) -> list[float]:
    """Import what makes a thousand volumes, by way of their folders, and time the list."""
    image = folder.parent / "tiny.raw"
    image.write_bytes(bytes(1 << 20))
    for number in range(VOLUMES - 1):
        service.post("/v1/volumes", {"name": f"g{number}", "path": str(image)})
    took = []
    for _ in range(5):
        began = time.monotonic()
        listed = service.get("/v1/volumes")["volumes"]
        took.append(time.monotonic() - began)
        assert len(listed) == VOLUMES, len(listed)
    assert json.dumps(listed).count('"problem": null') == VOLUMES
    return took
