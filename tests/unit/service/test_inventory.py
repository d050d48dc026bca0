"""What an inspection says, read with suspicion; what templates see of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.lifecycle.model import Signal
from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.profile import Family, Profile
from baremetal.service.boot.news import read_news
from baremetal.service.servers.inventory import for_templates, read_inventory

MAC = "52:54:00:00:00:01"
FOUND: dict[str, Any] = {
    "cpus": 2,
    "cpu": "A fine CPU",
    "arch": "x86_64",
    "memory_mib": 4096,
    "nics": [{"name": "eth0", "mac": "52-54-00-00-00-01", "speed_mbps": None, "link": False}],
    "bmc_address": "10.0.9.5",
    "vendor": "ACME",
    "product": "Box 9",
}
DISK = {"name": "sda", "serial": "S1", "wwn": "", "size": 10**11, "rotational": None}


def test_an_inventory_and_its_disks_go_to_the_record_with_the_signal() -> None:
    news = read_news({"inventory": FOUND, "disks": [DISK]})
    facts = news.facts(Signal.INSPECT_COMPLETE)
    assert facts["disks"] == [DISK]
    assert facts["inventory"] == {
        **FOUND,
        "nics": [{"name": "eth0", "mac": MAC, "speed_mbps": None, "link": False}],
        "disks": [DISK],
    }
    assert "inventory" not in news.facts(Signal.INSTALL_STARTED), "only an inspection may say so"


@pytest.mark.parametrize(
    "change",
    [
        {"cpus": "2"},
        {"cpus": -1},
        {"cpus": True},
        {"memory_mib": 2**50},
        {"arch": "x86 64"},
        {"nics": {"eth0": 1}},
        {"nics": ["eth0"]},
        {"nics": [{"name": "eth0", "mac": "nonsense"}]},
        {"nics": [{"name": "eth0", "mac": MAC}] * 65},
        {"bmc_address": "10.0.9"},
        {"vendor": ["ACME"]},
    ],
)
def test_malformed_parts_are_errors(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        read_inventory(FOUND | change, [])


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from([*FOUND]), st.recursive(st.text() | st.integers() | st.none(), st.lists))
)
@settings(max_examples=100, deadline=None)
def test_whatever_is_said_is_read_or_refused(said: dict[str, Any]) -> None:
    try:
        found = read_inventory(said, [])
    except Invalid:
        return
    assert found["disks"] == []
    assert "\n" not in found["vendor"]


def test_templates_see_the_same_names_before_the_first_inspection() -> None:
    seen = [_values(for_templates(found)) for found in (None, read_inventory(FOUND, [DISK]))]
    assert set(seen[0]) == set(seen[1])
    assert (seen[0]["known"], seen[0]["cpus"], seen[0]["disks"]) == (False, None, [])
    assert (seen[1]["known"], seen[1]["cpus"], seen[1]["disks"]) == (True, 2, [DISK])


def _values(inventory: dict[str, Any]) -> dict[str, Any]:
    context = Context(
        server=ServerFacts("0" * 32, "r1", (MAC,), MAC),
        run=1,
        profile=Profile("p", Family.RAMDISK, "k", "i", "ramdisk/inspect.sh.j2"),
        variables=merge_variables(),
        urls=Urls.of("http://b.test", "p", "f", "c"),
        inventory=inventory,
    )
    values: dict[str, Any] = context.values()["inventory"]
    return values
