"""BMC addresses: every part read, every wrong part named, no password shown."""

from __future__ import annotations

import pytest

from baremetal.drivers.base import BmcCredentials, BmcUrl
from baremetal.errors import Invalid


def test_a_whole_url() -> None:
    url = BmcUrl.parse("ipmi://admin:s3cret@10.0.0.1:6230?privilege=operator&cipher=3&min_interval=2.5")
    assert (url.scheme, url.host, url.port) == ("ipmi", "10.0.0.1", 6230)
    assert url.credentials == BmcCredentials("admin", "s3cret")
    assert (url.privilege, url.cipher, url.min_interval_s) == ("operator", 3, 2.5)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("ipmi://admin@10.0.0.1", "10.0.0.1", 623),
        ("IPMI://Admin@BMC-7.Example.ORG", "bmc-7.example.org", 623),
        ("ipmi://[2001:db8::1]", "2001:db8::1", 623),
        ("ipmi://admin@[fe80::1%eth0]:624", "fe80::1%eth0", 624),
        ("redfish+https://bmc/redfish/v1/Systems/1", "bmc", 443),
        ("redfish://bmc", "bmc", 80),
        ("sim://Rack-1?lie_power=0.5&loss=0.1", "Rack-1", 0),
    ],
)
def test_hosts_and_ports(text: str, host: str, port: int) -> None:
    url = BmcUrl.parse(text)
    assert (url.host, url.port) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "ipmi://admin@10.0.0.1:623",
        "ipmi://a%40b%3Ac@[2001:db8::1]:6230?bridge=0x82:7&privilege=user&cipher=17&min_interval=5",
        "redfish+https://root@bmc:443/redfish/v1/Systems/1",
        "sim://rack-1?lie_power=0.5&loss=0.1",
    ],
)
def test_formatting_gives_the_url_back(text: str) -> None:
    assert BmcUrl.parse(text).format() == text
    assert str(BmcUrl.parse(text)) == text


def test_reserved_characters_in_the_account() -> None:
    text = "ipmi://us%3Aer:p%40ss%2Fw%23rd%25@bmc:623"
    url = BmcUrl.parse(text)
    assert url.credentials == BmcCredentials("us:er", "p@ss/w#rd%")
    assert url.format(password=True) == text


def test_the_password_shows_nowhere() -> None:
    url = BmcUrl.parse("ipmi://admin:s3cret@bmc")
    shown = f"{url} {url!r} {url.identity} {url.format()} {url.credentials} {url.credentials!r}"
    assert "s3cret" not in shown
    assert "admin" in shown


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("ipmi://admin:x@BMC?cipher=3&privilege=user&min_interval=1", "ipmi://bmc:623"),
        ("ipmi://bmc?bridge=0X82:7", "ipmi://bmc:623?bridge=0x82:7"),
        ("ipmi://[2001:db8::1]", "ipmi://[2001:db8::1]:623"),
        ("redfish+https://bmc/redfish/v1/Systems/2", "redfish+https://bmc:443/redfish/v1/Systems/2"),
        ("sim://a?loss=1", "sim://a"),
    ],
)
def test_identity_is_the_place_and_nothing_else(text: str, identity: str) -> None:
    assert BmcUrl.parse(text).identity == identity


def test_half_an_account_is_none() -> None:
    assert BmcUrl.parse("ipmi://admin@bmc").credentials is None
    assert BmcUrl.parse("ipmi://bmc").credentials is None
    assert BmcUrl.parse("ipmi://:@bmc").credentials == BmcCredentials("", ""), (
        "the anonymous account, in so many words"
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("10.0.0.1", "no scheme"),
        ("http://10.0.0.1", "the scheme 'http'"),
        ("ipmi://", "the host is missing"),
        ("ipmi://admin@", "the host is missing"),
        ("ipmi://admin@ho st", "the host 'ho st'"),
        ("ipmi://a:b:c", "several ':'"),
        ("ipmi://2001:db8::1", "several ':'"),
        ("ipmi://[2001:db8::1", "malformed"),
        ("ipmi://[nonsense]", "malformed"),
        ("ipmi://[::1]x", "malformed|only :port"),
        ("ipmi://bmc:0", "the port '0'"),
        ("ipmi://bmc:70000", "the port '70000'"),
        ("ipmi://bmc:http", "the port 'http'"),
        ("ipmi://bmc:٣", "the port"),
        ("ipmi://bmc/path", "a path"),
        ("ipmi://bmc#x", "'#'"),
        ("ipmi://bmc?color=red", "the option 'color'"),
        ("ipmi://bmc?cipher=best", "the cipher suite 'best'"),
        ("ipmi://bmc?cipher=256", "the cipher suite '256'"),
        ("ipmi://bmc?privilege=root", "the privilege 'root'"),
        ("ipmi://bmc?bridge=82", "the bridge '82'"),
        ("ipmi://bmc?min_interval=-1", "min_interval='-1'"),
        ("ipmi://bmc?cipher=3&cipher=17", "'cipher' stands there twice"),
        ("ipmi://admin:a%0Ab@bmc", "the password holds a control character"),
        ("ipmi://ad%00min:ab@bmc", "the user holds a control character"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str) -> None:
    with pytest.raises(Invalid, match=part):
        BmcUrl.parse(text)


@pytest.mark.parametrize(
    "text", ["ipmi://u:s3cret/x@bmc", "ipmi://u:s3cret#x@bmc", "ipmi://u:s3[cret@bmc", "ipmi://u:s3?cret@bmc"]
)
def test_a_password_that_breaks_the_url_is_not_quoted(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        BmcUrl.parse(text)
    assert "s3cret" not in str(caught.value)
