"""Where machines reach us: by their segment's URL, the configured one, or as they called."""

from __future__ import annotations

from functools import partial

import pytest
from starlette.requests import Request

from baremetal.config.segments import segment_urls, url_for
from baremetal.config.settings import Config, DhcpConfig, SubnetConfig
from baremetal.web.doors import Doors

CONFIG = Config(
    dhcp=DhcpConfig(
        subnet=[
            SubnetConfig(range="10.0.1.100", mask="255.255.255.0", public_url="http://10.0.1.2:8080"),
            SubnetConfig(range="10.0.1.200", mask="255.255.255.192", public_url="http://10.0.1.193:8080"),
            SubnetConfig(range="10.0.3.100", mask="255.255.255.0"),
        ]
    )
)


def request(client: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "client": (client, 1), "headers": raw})


@pytest.mark.parametrize(
    ("client", "url"),
    [
        ("10.0.1.7", "http://10.0.1.2:8080"),
        ("10.0.1.199", "http://10.0.1.193:8080"),
        ("10.0.3.7", "http://boot.example.net"),
        ("fd00::7", "http://boot.example.net"),
        ("127.0.0.1", "http://boot.example.net"),
    ],
)
def test_a_segments_own_url_comes_before_the_one_for_all(client: str, url: str) -> None:
    """DHCP sends its machines there first, and the other may not be reachable from it."""
    doors = Doors("http://boot.example.net", url_for=partial(url_for, urls=segment_urls(CONFIG)))
    assert doors.base(request(client, host="elsewhere")) == url
    behind = Doors("http://boot.example.net", "", ("192.0.2.1",), doors.url_for)
    assert behind.base(request("192.0.2.1", x_forwarded_for=client)) == url


def test_without_any_the_address_that_was_called_counts() -> None:
    assert Doors().base(request("10.0.1.7", host="10.0.1.9:8080")) == "http://10.0.1.9:8080"
    assert Doors().base(request("10.0.1.7", host="a b")) == "http://127.0.0.1:8080"
