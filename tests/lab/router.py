"""Somebody else's DHCP server on a segment: a router that gives addresses and names no boot file.

It stands in a network namespace of its own, which ends with it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface

_INTERFACE = "lan0"
_PORT = "bm0router"
_START = f"""
echo there >&2
read -r plugged
ip link set lo up
ip address add "$1" dev {_INTERFACE}
ip link set {_INTERFACE} up
exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --log-facility=- --pid-file= --no-ping \\
    --user=root --group=root --leasefile-ro --interface={_INTERFACE} --bind-dynamic "--dhcp-range=$2"
"""


@contextmanager
def router(bridge: str, address: IPv4Interface) -> Iterator[None]:
    """Give addresses on a bridge of this namespace, from the upper end of the router's own network."""
    first, last = address.network.broadcast_address - 55, address.network.broadcast_address - 35
    span = f"{first},{last},{address.netmask},10m"
    command = ["unshare", "--net", "sh", "-euc", _START, "router", str(address), span]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        try:
            assert child.stderr.readline() == "there\n", "no namespace for the router"
            _plug(bridge, child.pid)
            child.stdin.write("plugged\n")
            child.stdin.flush()
            assert any("sockets bound" in line for line in child.stderr), "the router did not start"
            yield
        finally:
            child.terminate()


def _plug(bridge: str, pid: int) -> None:
    for words in (
        f"link add {_PORT} type veth peer name {_INTERFACE} netns {pid}",
        f"link set {_PORT} master {bridge} up",
    ):
        subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True, timeout=20)
