"""A network segment of the test's own: a bridge and as many participants as wanted, each in a namespace.

Needs root. Everything is gone with the namespaces, which are removed at the end whatever happened.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Self, TypeVar

T = TypeVar("T")

INTERFACE = "seg0"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def may_make_segments() -> bool:
    """Whether this user and kernel can make namespaces, bridges and pairs of interfaces."""
    if os.geteuid():
        return False
    name = f"bmtry{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "br0", "type", "bridge")
        ip("-n", name, "link", "add", "a0", "type", "veth", "peer", "name", "b0")
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return True


def ip(*words: str) -> str:
    """Run `ip` with these words."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


class Segment:
    """The bridge stands in a namespace by itself; `add` makes a participant with an interface `seg0` on it."""

    def __init__(self) -> None:
        self._base = f"bm{os.getpid()}x{id(self) % 100000}"
        self._names: list[str] = []
        self._make("wire")
        ip("-n", self._full("wire"), "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        ip("-n", self._full("wire"), "link", "set", "br0", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self._names):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=20)

    def _full(self, who: str) -> str:
        return f"{self._base}{who}"

    def _make(self, who: str) -> None:
        ip("netns", "add", self._full(who))
        self._names.append(self._full(who))
        ip("-n", self._full(who), "link", "set", "lo", "up")

    def add(self, who: str, address: str = "") -> None:
        """Add a participant, with an address such as `10.77.0.1/24` or none."""
        self._make(who)
        self.plug(who, address)

    def plug(self, who: str, address: str = "") -> None:
        """Give a participant its interface: again, after `unplug`."""
        wire = self._full("wire")
        port = f"p{len(self._names)}{who}"[:15]
        ip(
            "-n",
            self._full(who),
            "link",
            "add",
            INTERFACE,
            "type",
            "veth",
            "peer",
            "name",
            port,
            "netns",
            wire,
        )
        ip("-n", wire, "link", "set", port, "master", "br0", "up")
        ip("-n", self._full(who), "link", "set", INTERFACE, "up")
        if address:
            self.address(who, address)

    def unplug(self, who: str) -> None:
        """Take a participant's interface away."""
        ip("-n", self._full(who), "link", "del", INTERFACE)

    def address(self, who: str, address: str) -> None:
        """Give a participant's interface an address more."""
        more = ("nodad",) if ":" in address else ()
        ip("-n", self._full(who), "address", "add", address, "dev", INTERFACE, *more)

    def command(self, who: str, *words: str) -> list[str]:
        """Return the command line that runs a program as this participant."""
        return ["ip", "netns", "exec", self._full(who), *words]

    def run(self, who: str, work: Callable[[], T]) -> T:
        """Do something as this participant: sockets, threads and processes made there stay there."""
        done: list[T] = []
        failed: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self._full(who)}") as namespace:
                    if _LIBC.setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                done.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]
