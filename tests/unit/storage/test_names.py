"""The grammar and the templates of iSCSI names: S0-4, S0-6, S0-7, S1-3, S1-5, S4-5."""

from __future__ import annotations

import pytest

from baremetal.errors import Invalid
from baremetal.storage.names import (
    Naming,
    check_iqn,
    check_volume_name,
    name_values,
    san_uri,
    split_portal,
    volume_name,
)

MAC = "00:12:34:56:78:90"


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2000-01.com.synology:nas.ESXi",
        "iqn.2007-11.ru.pp.livid:host-00:12:34:56:78:90",
        "iqn.2022-10.org.dbc.iscsi:global.client",
        "iqn.2026-01.org.example",
        "eui.0123456789ABCDEF",
        "naa.0123456789abcdef",
        "iqn.2026-01.org.example:" + "a" * 199,
    ],
)
def test_names_that_follow_the_grammar(name: str) -> None:
    """S1-5."""
    assert check_iqn(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "r1",
        "iqn.2026.org.example:r1",
        "iqn.2026-13.org.example:r1",
        "iqn.2026-00.org.example:r1",
        "iqn.2026-01:r1",
        "iqn.2026-01.org.example:",
        "iqn.2026-01.org.example:r 1",
        "iqn.2026-01.org.example:r1\n",
        "iqn.2026-01.org.example:r_1",
        "iqn.2026-01.-org.example:r1",
        "eui.0123",
        "naa.0123",
        "iqn.2026-01.org.example:$(reboot)",
        "iqn.2026-01.org.example:" + "a" * 200,
    ],
)
def test_names_that_do_not(name: str) -> None:
    with pytest.raises(Invalid):
        check_iqn(name)


def test_the_founding_systems_names_by_template() -> None:
    values = name_values("esx1", "esx1", MAC, "ESXi")
    synology = Naming("iqn.2000-01.com.synology", "{base}:{hostname}.{system}", "{base}:{hostname}")
    assert synology.target_iqn(values) == "iqn.2000-01.com.synology:esx1.ESXi"  # S0-6
    assert synology.initiator_iqn(values) == "iqn.2000-01.com.synology:esx1"  # S0-4
    nameless = name_values("esx1", "", MAC, "ESXi")
    assert synology.target_iqn(nameless) == f"iqn.2000-01.com.synology:{MAC}.ESXi"  # S0-6
    assert synology.initiator_iqn(nameless) == f"iqn.2000-01.com.synology:{MAC}"  # S0-4
    qnap = Naming("iqn.2007-11.ru.pp.livid", initiator="{base}:{hostname}-{mac}")
    assert qnap.initiator_iqn(values) == f"iqn.2007-11.ru.pp.livid:esx1-{MAC}"  # S1-5
    cafe = Naming("iqn.2022-10.org.dbc.iscsi", "{base}:sn.{system}", "{base}:sn.{system}.{mac_hex}")
    assert cafe.target_iqn(values) == "iqn.2022-10.org.dbc.iscsi:sn.ESXi"  # S4-5
    assert cafe.initiator_iqn(values) == "iqn.2022-10.org.dbc.iscsi:sn.ESXi.001234567890"  # S4-9


@pytest.mark.parametrize(
    ("base", "target", "words"),
    [
        ("iqn.2026-01.org.example", "{base}:{servr}", "nothing is known as {servr}"),
        ("iqn.2026-01.org.example", "{base}:{server!r}", "nothing is known"),
        ("iqn.2026-01.org.example", "{base}:{server", "template"),
        ("iqn.2026-01.org.example", "{server}", "does not follow RFC 3720"),
        ("example.org", "{base}:{server}", "does not follow RFC 3720"),
    ],
)
def test_a_template_is_refused_when_it_is_said(base: str, target: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        Naming(base, target)


def test_a_host_name_that_no_iscsi_name_can_hold_is_refused() -> None:
    with pytest.raises(Invalid, match="RFC 3720"):
        Naming("iqn.2026-01.org.example").target_iqn(name_values("r_1", "", MAC))


def test_san_uris() -> None:
    """S0-7, S1-3: an empty LUN is 0, the port is left out where it is the usual one, LUNs are hexadecimal."""
    assert san_uri("10.0.0.5", 0, "iqn.2000-01.com.synology:h.ESXi") == (
        "iscsi:10.0.0.5::::iqn.2000-01.com.synology:h.ESXi"
    )
    assert san_uri("10.0.0.5:3260", 1, "iqn.2026-01.org.example:r1") == (
        "iscsi:10.0.0.5:::1:iqn.2026-01.org.example:r1"
    )
    assert san_uri("10.0.0.5:13260", 10, "iqn.2026-01.org.example:r1") == (
        "iscsi:10.0.0.5::13260:a:iqn.2026-01.org.example:r1"
    )
    assert san_uri("[fd00::5]:3260", 1, "naa.0123456789abcdef") == "iscsi:[fd00::5]:::1:naa.0123456789abcdef"


@pytest.mark.parametrize(
    "portal", ["nas", "nas:3260", "10.0.0.5:0", "10.0.0.5:65536", "fd00::5", "10.0.0.5 ", ""]
)
def test_a_portal_is_an_address(portal: str) -> None:
    with pytest.raises(Invalid, match="portal"):
        split_portal(portal)


def test_volumes_have_names_that_every_backend_can_have() -> None:
    assert volume_name("R1.Rack-2.example.net", "3FA2C1ffff", 12) == "bm-r1-rack-2-example-net-3fa2c1-12"
    assert volume_name("ü", "abcdef12", 1) == "bm-server-abcdef-1"
    longest = volume_name("x" * 253, "abcdef12", 10**8)
    assert check_volume_name(longest) == longest
    for bad in ("", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a" * 49, "a\n"):
        with pytest.raises(Invalid):
            check_volume_name(bad)
