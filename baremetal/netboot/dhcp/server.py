"""Our DHCP server: dnsmasq, tested before it is used, watched while it runs and started again when it ends.

Owns its files, its back-off and who is told. A server that is added or moved is a new hosts file and a SIGHUP, so that
no lease is lost; other settings are a restart on the same lease file. What its log shows of machines goes to a
callback. Deliberately unknown: what a segment should be told (`offer.py`), how that is written (`dnsmasq.py`), and how
a process is kept (`dnsmasq_child.py`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from baremetal import telemetry
from baremetal.errors import BaremetalError, Unavailable
from baremetal.netboot.dhcp import child as dnsmasq_child
from baremetal.netboot.dhcp import dnsmasq
from baremetal.netboot.dhcp.advertiser import Advertiser, has_global_address
from baremetal.netboot.dhcp.child import Child, as_unavailable
from baremetal.netboot.dhcp.interface import check, index_of
from baremetal.netboot.dhcp.offer import Host, Mode, Network
from baremetal.netboot.dhcp.sightings import Reader, Seen

log = telemetry.logger(__name__)

START_S = 10.0
STOP_S = 20.0
TICK_S = 0.5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
INTERFACE_PAUSE_S = 5.0  # looking for an interface is cheap, and machines wait
STEADY_S = 60.0  # a child that ran this long has a fresh start's patience


@dataclass(frozen=True, slots=True)
class Status:
    """How the child is. `restarts` counts the attempts to start it again that were nobody's wish."""

    is_running: bool
    why: str = ""
    restarts: int = 0
    pid: int | None = None


class DhcpServer:
    """One dnsmasq. `heard` gets sightings and `changed` the status, both in the watching thread: be quick there."""

    def __init__(
        self,
        network: Network,
        hosts: Sequence[Host] = (),
        *,
        folder: Path,
        heard: Callable[[Seen], None] = lambda seen: None,
        changed: Callable[[Status], None] = lambda status: None,
        program: str = dnsmasq_child.PROGRAM,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        if network.mode is Mode.EXTERNAL:
            raise ValueError("mode external has no server of ours")
        self._network = network
        self._folder = folder
        self._heard = heard
        self._changed = changed
        self._program = program
        self._first_pause_s = first_pause_s
        self._hosts = tuple(hosts)
        self._text = dnsmasq.config(network)
        self._lock = threading.RLock()
        self._serving: Child | None = None
        self._is_stale = False  # the hosts changed while the child was starting
        self._status = Status(False, "not started")
        self._halt = threading.Event()
        self._again = threading.Event()  # a restart is wanted, at once
        self._settled = threading.Event()  # the first start has ended, one way or the other
        self._failure: BaremetalError | None = None
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> Status:
        """How the child is just now."""
        return self._status

    def start(self) -> None:
        """Start, and return when dnsmasq serves. Raises what `check` raises, and Invalid BM306, Unavailable BM305.

        Later ends of the child raise nothing: it is started again until `stop`.
        """
        self._check()
        self._write()
        self._test(self._text)
        self._thread = threading.Thread(target=self._watch, name="dhcp", daemon=True)
        self._thread.start()
        self._settled.wait(START_S + STOP_S)
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """End the child and the watching. Idempotent."""
        self._halt.set()
        self._again.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_S)

    def keep_hosts(self, hosts: Sequence[Host]) -> tuple[Host, ...]:
        """Give these servers their addresses from now on; return those left out for a MAC or address given twice.

        Does nothing where nothing changed. Raises Invalid BM306.
        """
        with self._lock:
            before = dnsmasq.hosts(self._hosts)
            text, left_out = dnsmasq.hosts(hosts)
            self._hosts = tuple(hosts)
            if (text, left_out) == before:
                return left_out
            for host in left_out:
                log.warning(
                    "address or MAC given twice, left out of DHCP", server=host.name, address=host.address
                )
            if self._network.hosts_file and self._network.mode is Mode.FULL:
                with as_unavailable(f"{self._network.hosts_file} cannot be written"):
                    _replace(Path(self._network.hosts_file), text)
                self._is_stale = True
                self._refresh()
            return left_out

    def configure(self, network: Network) -> None:
        """Take other settings: they are tested, then dnsmasq is started again, its leases kept. Raises Invalid BM306.

        What runs goes on where they are wrong.
        """
        text = dnsmasq.config(network)
        with self._lock:
            if text == self._text:
                return
            self._test(text)
            self._network, self._text = network, text
            self._write()
        self._again.set()

    def _refresh(self) -> None:
        with self._lock:
            if self._is_stale and self._serving is not None:
                self._is_stale = False
                self._serving.hang_up()

    # ---- before it runs

    def _check(self) -> None:
        ports = (67, 4011) if self._network.mode is Mode.PROXY else (67,)
        for interface in self._network.interfaces:
            check(interface, *ports)
        dnsmasq_child.find(self._program)

    @property
    def _conf(self) -> Path:
        return self._folder / "dnsmasq.conf"

    def _write(self) -> None:
        with as_unavailable(f"{self._folder} cannot be written"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._conf, self._text)
            if self._network.hosts_file:
                _replace(Path(self._network.hosts_file), dnsmasq.hosts(self._hosts)[0])

    def _test(self, text: str) -> None:
        trial = self._folder / "trial.conf"
        with as_unavailable(f"{self._folder} cannot be written"):
            _replace(trial, text)
        try:
            dnsmasq_child.test(dnsmasq_child.find(self._program), trial)
        finally:
            trial.unlink(missing_ok=True)

    # ---- while it runs

    def _watch(self) -> None:
        pause_s = self._first_pause_s
        restarts = 0
        try:
            while not self._halt.is_set():
                self._again.clear()
                began = time.monotonic()
                longest_s = LONGEST_PAUSE_S
                try:
                    if self._settled.is_set():
                        self._check()
                    why = self._run(restarts)
                except BaremetalError as error:
                    why = str(error)
                    longest_s = INTERFACE_PAUSE_S if error.code == "BM304" else LONGEST_PAUSE_S
                    if not self._settled.is_set():
                        self._failure = error
                        return
                if self._halt.is_set():
                    return
                if self._again.is_set():  # asked for: at once, and no fault
                    continue
                restarts += 1
                if time.monotonic() - began > STEADY_S:
                    pause_s = self._first_pause_s
                pause_s = min(pause_s, longest_s)
                self._tell(Status(False, why, restarts))
                log.warning("dnsmasq is down", why=why, again_in_s=pause_s)
                self._settled.set()
                self._again.wait(pause_s)
                pause_s *= 2
        finally:
            self._tell(Status(False, "stopped" if self._halt.is_set() else self._status.why, restarts))
            self._settled.set()

    def _run(self, restarts: int) -> str:
        """Run one child until it ends or is to end; return why, in words."""
        indexes = {name: index_of(name) for name in self._network.interfaces}
        advertisers = self._advertise()
        child = Child(dnsmasq_child.find(self._program), self._conf)
        try:
            return self._follow(child, indexes, restarts)
        finally:
            with self._lock:
                self._serving = None
            child.end()
            for advertiser in advertisers:
                advertiser.stop()

    def _follow(self, child: Child, indexes: dict[str, int | None], restarts: int) -> str:
        reader, last = Reader(), deque[str](maxlen=3)
        deadline = time.monotonic() + START_S
        while (lines := child.lines(TICK_S)) is not None:
            for line in lines:
                last.append(line.partition(": ")[2] or line)
                if self._serving is None and " started, " in line:
                    with self._lock:
                        self._serving = child
                    self._tell(Status(True, restarts=restarts, pid=child.pid))
                    self._refresh()
                    self._settled.set()
                self._hear(reader.read(line))
            if not lines:
                self._hear(reader.flush())
            if self._halt.is_set() or self._again.is_set():
                return "asked to"
            gone = [name for name, index in indexes.items() if index_of(name) != index]
            if gone:
                return f"interface {gone[0]} is gone"
            if self._serving is None and time.monotonic() > deadline:
                raise Unavailable("dnsmasq does not begin to serve", code="BM305", seen=" / ".join(last))
        self._hear(reader.flush())
        code, said = child.wait(), " / ".join(last)
        if self._serving is None:
            raise dnsmasq_child.start_error(code, said)
        return f"ended by signal {-code}" if code < 0 else f"ended with {code}: {said}"

    def _advertise(self) -> list[Advertiser]:
        """Answer IPv6 router solicitations where dnsmasq will not."""
        started: list[Advertiser] = []
        if self._network.mode is not Mode.FULL or not self._network.router_advertisements:
            return started
        for name in self._network.interfaces:
            if has_global_address(name):
                continue
            try:
                advertiser = Advertiser(name)
            except OSError as error:  # IPv6 is off: machines boot all the same, later
                log.warning("no IPv6 here, iPXE will wait 13 s for it", interface=name, why=error.strerror)
                continue
            advertiser.start()
            started.append(advertiser)
        return started

    def _hear(self, sightings: Iterable[Seen]) -> None:
        for seen in sightings:
            try:
                self._heard(seen)
            except Exception as error:  # a fault of the listener's must not end DHCP
                log.error("a DHCP sighting was lost", kind=str(seen.kind), error=repr(error))

    def _tell(self, status: Status) -> None:
        self._status = status
        try:
            self._changed(status)
        except Exception as error:  # nor this one
            log.error("a change of DHCP was not told", status=repr(status), error=repr(error))


def _replace(path: Path, text: str) -> None:
    """Write a file that is either the old or the new one at any moment."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)
