"""The variables' forms: what is taken, in which one form, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.netboot.bond import parse_bond
from baremetal.netboot.context import merge_variables
from baremetal.netboot.variables import (
    DEFAULTS,
    normal_mac,
    normal_uuid,
    validate_variable,
    validate_variables,
)

KEY = "ssh-ed25519 " + "A" * 68


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("hostname", "node-1.example.net", "node-1.example.net"),
        ("ip", "10.0.0.5", "10.0.0.5"),
        ("ip", "2001:DB8::5", "2001:db8::5"),
        ("prefix", "24", 24),
        ("gateway", " 10.0.0.1 ", "10.0.0.1"),
        ("dns", "1.1.1.1, 9.9.9.9", ["1.1.1.1", "9.9.9.9"]),
        ("dns", ["1.1.1.1"], ["1.1.1.1"]),
        ("ntp", "ntp.example.net 10.0.0.1", ["ntp.example.net", "10.0.0.1"]),
        ("vlan", "12", 12),
        ("bond", "bond0:eno1,eno2:mode=802.3ad,miimon=100", "bond0:eno1,eno2:mode=802.3ad,miimon=100"),
        ("disk", "serial=S3Z8NB0K", "serial=S3Z8NB0K"),
        ("kernel_args", "  tiny.fail=bad-image   quiet ", "tiny.fail=bad-image quiet"),
        ("kernel_args", "ds=nocloud-net;s=http://h/x/", "ds=nocloud-net;s=http://h/x/"),
        ("console", "ttyS0,115200n8", "ttyS0,115200n8"),
        ("timezone", "America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        ("locale", "de_DE.UTF-8", "de_DE.UTF-8"),
        ("keyboard", "de-latin1", "de-latin1"),
        ("mirror", "http://mirror.example.net/debian/", "http://mirror.example.net/debian"),
        ("ssh_authorized_keys", f"{KEY} me@x\n{KEY}\n", [f"{KEY} me@x", KEY]),
        ("gateway", "", None),
        ("disk", "", "auto"),
        ("ssh_address", "127.0.0.1:2222", "127.0.0.1:2222"),
        ("release", 9, 9),
        ("packages", ["vim", "tmux"], ["vim", "tmux"]),
    ],
)
def test_each_form_is_brought_to_one(name: str, given: Any, kept: Any) -> None:
    assert validate_variable(name, given) == kept


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("hostname", "-x"),
        ("hostname", "a..b"),
        ("hostname", "a b"),
        ("hostname", "x" * 64),
        ("hostname", "10.0.0.1"),
        ("hostname", "x;reboot"),
        ("hostname", "x\nrootpw --plaintext x"),
        ("domain", "exa$mple"),
        ("ip", "10.0.0.256"),
        ("ip", "10.0.0.1/33"),
        ("ip", 7.5),
        ("prefix", "0"),
        ("prefix", True),
        ("prefix", "²"),
        ("gateway", "gw"),
        ("dns", "1.1.1.1;reboot"),
        ("ntp", "ntp .example"),
        ("ntp", "$(reboot)"),
        ("vlan", 4095),
        ("vlan", "1e2"),
        ("bond", "bond0"),
        ("bond", "bond0:a,a"),
        ("bond", "bond0:a,b:mode"),
        ("bond", "bond0:a,b::99999"),
        ("disk", "first"),
        ("disk", "serial=x,serial=y"),
        ("disk", "path=/dev/../etc/passwd"),
        ("disk", "path=/etc/passwd"),
        ("disk", "serial=$(reboot)"),
        ("disk", "serial>=x"),
        ("disk", "rotational=maybe"),
        ("kernel_args", 'a="b c"'),
        ("kernel_args", "a=${b}"),
        ("kernel_args", "quiet || reboot"),
        ("kernel_args", "a\nb"),
        ("kernel_args", "a=`b`"),
        ("console", "ttyS0 init=/bin/sh"),
        ("timezone", "../../etc/passwd"),
        ("locale", "en_US.UTF-8; reboot"),
        ("keyboard", "us --x"),
        ("mirror", "file:///etc/passwd"),
        ("mirror", "http://"),
        ("mirror", "http://user:secret@mirror.example.net/x"),
        ("mirror", "http://m.example/ x"),
        ("ssh_authorized_keys", "not a key"),
        ("ssh_authorized_keys", 'command="x" ' + KEY),
        ("ssh_authorized_keys", [KEY + "\x1b"]),
        ("own_name", "a\x00b"),
        ("own_name", "x" * 5000),
        ("own_name", object()),
        ("own_name", [[[[[["deep"]]]]]]),
    ],
)
def test_hostile_values_are_refused_by_name(name: str, hostile: Any) -> None:
    with pytest.raises(Invalid) as caught:
        validate_variable(name, hostile)
    assert caught.value.variable == name


@pytest.mark.parametrize("name", ["", "Upper", "a-b", "a.b", "_x", "1x", "x" * 70, "a b"])
def test_names_are_words(name: str) -> None:
    with pytest.raises(Invalid, match="not a variable name"):
        validate_variable(name, "x")


@given(
    st.sampled_from(sorted(DEFAULTS)),
    st.text() | st.integers() | st.lists(st.text()) | st.booleans() | st.floats(),
)
def test_anything_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    try:
        kept = validate_variable(name, value)
    except Invalid as error:
        kept, named = DEFAULTS[name], error.variable
    else:
        named = name
    assert named == name
    assert "\n" not in str(kept)
    assert validate_variable(name, kept) == kept


def test_an_address_with_its_prefix_sets_both() -> None:
    assert validate_variables({"ip": "10.0.0.5/24"}) == {"ip": "10.0.0.5", "prefix": 24}


def test_later_layers_win_over_defaults() -> None:
    merged = merge_variables({"timezone": "Europe/Rome", "disk": "serial=A"}, {"disk": "serial=B"})
    assert (merged["timezone"], merged["disk"], merged["keyboard"]) == ("Europe/Rome", "serial=B", "us")
    assert set(DEFAULTS) <= set(merged)


def test_macs_and_uuids_are_normalised() -> None:
    assert normal_mac("52-54-00-AB-CD-EF") == normal_mac("525400abcdef") == "52:54:00:ab:cd:ef"
    for bad in (
        "52:54:00:ab:cd",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "52:54:00:ab:cd:eg",
    ):
        with pytest.raises(Invalid):
            normal_mac(bad)
    assert normal_uuid("00112233-4455-6677-8899-AABBCCDDEEFF") == "00112233-4455-6677-8899-aabbccddeeff"
    with pytest.raises(Invalid):
        normal_uuid("nope")


def test_a_bond_is_written_as_it_is_read() -> None:
    for text in ("bond0:a,b", "bond0:a,b:mode=1", "bond0:a,b:mode=1:9000", "bond0:a,b::9000"):
        assert str(parse_bond(text)) == text
