"""Where machines reach us, and whom we believe about where a request came from."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

_HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})(:[0-9]{1,5})?\Z|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?\Z"
)


def _none(client: str) -> str:
    return ""


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Doors:
    """The configured URL, the one for machines that name no host, and the networks of proxies that may be believed.

    `url_for` says what machines of an address's segment call us, where that is another URL than the configured one.
    """

    public_url: str = ""
    fallback: str = "http://127.0.0.1:8080"
    trusted_proxies: Sequence[str] = ()
    url_for: Callable[[str], str] = _none
    _networks: tuple[_Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        networks = tuple(ipaddress.ip_network(text, strict=False) for text in self.trusted_proxies)
        object.__setattr__(self, "_networks", networks)

    def address(self, request: Request) -> str:
        """Say where the request came from: the connection's other end, or what a trusted proxy says."""
        client = request.scope.get("client")
        address: str = client[0] if client else ""
        if self._networks and self._is_proxy(address):
            forwarded = request.headers.get("x-forwarded-for", "")
            for hop in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
                if not self._is_proxy(hop):
                    return hop[:64]
        return address

    def base(self, request: Request) -> str:
        """Say how this machine reaches us: its segment's URL, the configured one, or the address that it called."""
        if own := self.url_for(self.address(request)):
            return own
        if self.public_url:
            return self.public_url
        host = request.headers.get("host", "")
        return f"http://{host}" if _HOST.match(host) else self.fallback

    def _is_proxy(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
