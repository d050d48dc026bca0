"""One life of a served process that may be killed on its way: what is asked, where it dies, when it is over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import baremetal
from baremetal.failpoints import NAMES
from tests.integration.rig import PATIENCE_S, Rig, ServiceProcess

# Places of rooms that are not built. Where the room stands, its places are lived through like all the others.
_ROOMS = {"webhook": "notify"}
_DISKLESS = frozenset({"volume", "acl", "target"})


def _is_to_come(place: str) -> bool:
    """Whether the effect that a place names is not built yet."""
    room = _ROOMS.get(place.partition(".")[0])
    return room is not None and not Path(baremetal.__path__[0], room, "__init__.py").exists()


STORAGE_POINTS = sorted(name for name in NAMES if name.partition(".")[0] in _DISKLESS)
"""The points that only a server passes which boots from a storage host."""
POINTS = sorted(name for name in NAMES - set(STORAGE_POINTS) if not _is_to_come(name))


@dataclass(frozen=True, slots=True)
class Life:
    """What an operator asks for in one state, and the state that it ends in, with which run deployed (None: any)."""

    verb: str
    begins: str
    ends: str
    body: Mapping[str, Any] = field(default_factory=dict)
    deployed: int | None = None

    def is_over(self, server: Mapping[str, Any]) -> bool:
        return server.get("provision_state") == self.ends and self.deployed in (None, server["deployed_run"])


def live(
    rig: Rig, folder: Path, life: Life, point: str = "", *, armed: str = "", within_s: float = PATIENCE_S
) -> dict[str, Any]:
    """Run one service until the point kills it, or (without one) until the life has ended; returns the server."""
    server: dict[str, Any] = {}
    until = time.monotonic() + within_s
    with ServiceProcess(rig, folder, f"{point}=kill@1" if point else armed) as service:
        while not service.was_killed:
            assert time.monotonic() < until, (point, server, service.log())
            server = service.ask("GET", "/v1/servers/r1") or server
            state = server.get("provision_state")
            assert state not in ("deploy failed", "error"), (point, server["last_error"], service.log())
            if life.is_over(server):
                assert not point, f"{point} was never passed"
                break
            if state == life.begins:
                service.ask("POST", f"/v1/servers/r1/{life.verb}", life.body)
            time.sleep(0.05)
    return server


def wait_for(service: ServiceProcess, state: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while True:
        server: dict[str, Any] = service.wait("/v1/servers/r1")
        if server["provision_state"] == state:
            return server
        assert time.monotonic() < until, (server, service.log())
        time.sleep(0.05)


def passed(folder: Path) -> set[str]:
    """Name the points that a folder's services have passed, which were armed with a delay of nothing."""
    lines = (folder / "log").read_text().splitlines()
    return {
        line.split()[1].rstrip(":") for line in lines if line.startswith("failpoint ") and ": delay" in line
    }


PASSING = ",".join(f"{name}=delay:0" for name in sorted(NAMES))
