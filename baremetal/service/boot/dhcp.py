"""DHCP of our own while the service runs: dnsmasq's life, who has which address, and what was seen of known machines.

Owns when dnsmasq starts and ends, and what of its news goes on a server's timeline. Deliberately unknown: dnsmasq's
syntax and process (`netboot/dhcp/server.py`), and where the description of the network comes from.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_interface
from pathlib import Path

from baremetal import telemetry
from baremetal.engine.observations import Observations
from baremetal.errors import BaremetalError
from baremetal.netboot.dhcp.offer import Client, Host, Network
from baremetal.netboot.dhcp.server import DhcpServer, Status
from baremetal.netboot.dhcp.sightings import Seen, SeenKind
from baremetal.service.boot.strangers import Strangers, Way
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

log = telemetry.logger(__name__)

REFRESH_S = 5.0
# Firmware, iPXE and installer ask one after the other, each several times: one line a minute says as much.
_SAME = timedelta(minutes=1)
_NOTED_KEPT = 4096


class Dhcp:
    """Runs dnsmasq for the service. `later` runs a call in another thread: its log must not wait for the store.

    `belongs` hears whose address one is, as soon as it is given.
    """

    def __init__(
        self,
        network: Network,
        folder: Path,
        store: Store,
        observations: Observations,
        *,
        now: Callable[[], datetime],
        later: Callable[[Callable[[], None]], object],
        belongs: Callable[[str, ServerRecord], None],
        strangers: Strangers,
    ) -> None:
        self._store = store
        self._belongs = belongs
        self._strangers = strangers
        self._observations = observations
        self._now = now
        self._later = later
        self._noted: dict[tuple[str, str], datetime] = {}
        self._waiting: deque[Seen] = deque(maxlen=_NOTED_KEPT)
        self._lock = threading.Lock()
        self._is_over = False
        self._server = DhcpServer(network, folder=folder, heard=self._heard, changed=self._changed)

    @property
    def status(self) -> Status:
        """How dnsmasq is just now."""
        return self._server.status

    def start(self) -> None:
        """Start dnsmasq with the addresses of all servers. Raises Unavailable, Refused, Invalid (BM303 to BM306)."""
        self.refresh()
        self._server.start()

    def refresh(self) -> None:
        """Give dnsmasq the servers' addresses as they are now; it is told only of changes. For a tick."""
        left_out = self._server.keep_hosts(
            [host for record in self._store.servers() for host in hosts(record)]
        )
        for host in left_out:
            log.warning("no fixed address: another server has it too", server=host.name, address=host.address)

    def stop(self) -> None:
        """End dnsmasq. Idempotent."""
        self._is_over = True
        self._server.stop()

    def _heard(self, seen: Seen) -> None:
        self._waiting.append(seen)
        try:
            self._later(self._drain)
        except RuntimeError:  # the service is being stopped
            return

    def _drain(self) -> None:
        with self._lock:  # in the order in which they were heard
            while self._waiting:
                self._note(self._waiting.popleft())

    def _note(self, seen: Seen) -> None:
        try:
            record = self._store.server_by_mac(seen.mac) if seen.mac else None
        except BaremetalError as error:
            log.warning("a DHCP request could not be noted", mac=seen.mac, error=str(error))
            return
        if record is None:
            self._meet(seen)
            return
        if seen.kind is SeenKind.GIVEN:
            self._belongs(seen.address, record)
        note = f"DHCP: {seen.kind}" + (f", {seen.address}" if seen.address else "")
        key, at = (record.id, note), self._now()
        last = self._noted.get(key)
        if last is not None and at - last < _SAME:
            return
        if len(self._noted) >= _NOTED_KEPT:
            self._noted.clear()
        self._noted[key] = at
        run = record.life.run
        self._observations.add(
            record.id,
            record.life.name,
            run.number if run is not None else None,
            "dhcp",
            note,
            {"kind": seen.kind.name.lower(), "address": seen.address, "mac": seen.mac},
        )

    def _meet(self, seen: Seen) -> None:
        """Remember a stranger that netboots; what only wants an address is nobody's server."""
        http = seen.vendor_class.startswith("HTTPClient")
        if not (seen.ipxe or http or seen.vendor_class.startswith("PXEClient")):
            return
        client = Client(seen.arch, seen.ipxe, http)
        if self._strangers.is_news(seen.mac, Way.DHCP):
            self._strangers.meet(seen.mac, f"DHCP, as {client}", arch=client.machine)

    def _changed(self, status: Status) -> None:
        telemetry.DHCP_RUNNING.set(1.0 if status.is_running else 0.0)
        if status.is_running:
            log.info("DHCP is served", restarts=status.restarts)
        elif not self._is_over:
            log.warning("DHCP is not served", why=status.why, restarts=status.restarts)


def hosts(record: ServerRecord) -> list[Host]:
    """Return the fixed address of a server's boot NIC, where it has one."""
    address = record.facts.ip or str(record.facts.vars.get("ip") or "")
    if not address or not record.facts.macs:
        return []
    try:
        plain = str(ip_interface(address).ip)
    except ValueError:
        return []
    return [Host(record.life.name, record.facts.macs[0], plain)] if ":" not in plain else []
