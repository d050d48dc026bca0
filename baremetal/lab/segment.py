"""A network segment of our own: a bridge with an address, and a tap for each virtual server.

For DHCP, TFTP and firmware that netboots by itself, which QEMU's user network cannot show. It is made in the network
namespace that this process is in, which should be one of its own (`unshare --net`, or `unshare --net --user
--map-root-user` without root): the namespace ends with its last process, and the segment with it. Knows nothing of
who answers on it.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from types import TracebackType
from typing import Self

from baremetal.errors import LabError

_HOST = "/proc/1/ns/net"


@dataclass(frozen=True, slots=True)
class Segment:
    """`with Segment(IPv4Interface("10.77.0.1/24"), taps=2) as segment: …`. Raises LabError outside of a namespace."""

    address: IPv4Interface
    taps: int = 1
    bridge: str = "bm0"

    @property
    def names(self) -> tuple[str, ...]:
        """The taps, one per server."""
        return tuple(f"{self.bridge}t{number}" for number in range(1, self.taps + 1))

    def __enter__(self) -> Self:
        if _is_the_hosts():
            raise LabError(
                "a segment is made in a network namespace of its own, never in the host's",
                fix="run this behind `unshare --net`",
            )
        if not Path("/dev/net/tun").exists():
            raise LabError("there is no /dev/net/tun here", fix="load the kernel's tun module")
        _ip("link", "set", "lo", "up")
        # without its delay a bridge forwards at once; firmware does not wait for a port that listens
        _ip("link", "add", self.bridge, "type", "bridge", "forward_delay", "0", "stp_state", "0")
        _ip("address", "add", str(self.address), "dev", self.bridge)
        for name in self.names:
            _ip("tuntap", "add", name, "mode", "tap")
            _ip("link", "set", name, "master", self.bridge, "up")
        _ip("link", "set", self.bridge, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in (*self.names, self.bridge):
            _ip("link", "delete", name, check=False)


def _is_the_hosts() -> bool:
    """Whether we are in the namespace of the host's first process; unreadable means that we are in another one."""
    try:
        return os.stat(_HOST).st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return False


def _ip(*words: str, check: bool = True) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=20)
    except FileNotFoundError:
        raise LabError("the program `ip` is missing", fix="install iproute2") from None
    if check and done.returncode:
        raise LabError(f"ip {' '.join(words)} failed", seen=done.stderr.strip()[:200])
