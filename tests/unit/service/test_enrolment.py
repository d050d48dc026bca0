"""What may be said of a server, and what is refused before anything is stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from baremetal.drivers.base import BmcCredentials
from baremetal.errors import Invalid
from baremetal.service.servers.enrolment import Enrolment, ServerChange, changed_facts, first_facts, quirk

GOOD = Enrolment(
    "r1",
    "ipmi://admin@10.0.0.1?cipher=17",
    bmc_password="p",
    macs=["52-54-00-00-00-0A"],
    arch="amd64",
    uuid="",
)
KNOWN = BmcCredentials("admin", "p")


def test_everything_is_brought_to_its_one_form() -> None:
    facts, account = first_facts(replace(GOOD, ip="10.0.0.5/24", quirks=["settle=2", "settle=2"]))
    assert facts.bmc == "ipmi://10.0.0.1:623?cipher=17"
    assert facts.bmc_identity == "ipmi://10.0.0.1:623"
    assert (facts.macs, facts.arch, facts.boot_mode) == (("52:54:00:00:00:0a",), "x86_64", "bios")
    assert (account, facts.quirks, quirk(facts, "settle")) == (KNOWN, ("settle=2",), "2")
    assert quirk(facts, "flip") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "Web1"},
        {"name": "-web"},
        {"name": "a" * 49},
        {"name": "a.b"},
        {"name": "0123456789abcdef" * 2},
        {"name": "r1\n"},
        {"bmc": "10.0.0.1"},
        {"bmc": "ipmi://10.0.0.1"},
        {"bmc_password": None},
        {"bmc_password": "a\nb"},
        {"macs": []},
        {"macs": ["52:54:00:00:00:01", "52:54:00:00:00:01"]},
        {"macs": ["ff:ff:ff:ff:ff:ff"]},
        {"boot_mode": "efi"},
        {"arch": "sparc"},
        {"boot_target": "iscsi-somewhere"},
        {"ip": "10.0.0.5"},
        {"ip": "10.0.0.500/24"},
        {"uuid": "not-one"},
        {"serial": "a" * 65},
        {"serial": "a\x07b"},
        {"tags": {"a b": "c"}},
        {"tags": {"a": "c\n"}},
        {"vars": {"vlan": "5000"}},
        {"vars": {"kernel_args": "quiet; reboot"}},
        {"vars": {"Upper": "x"}},
        {"quirks": ["settle=soon"]},
        {"quirks": ["sttle=2"]},
        {"quirks": ["flip=disk"]},
        {"quirks": ["local_boot=chain"]},
        {"quirks": ["local_boot=chain:file:///x"]},
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        first_facts(replace(GOOD, **wrong))


def test_a_change_touches_only_what_it_names() -> None:
    facts, _ = first_facts(replace(GOOD, vars={"vlan": "5"}, tags={"row": "a", "rack": "1"}))
    changed, account = changed_facts(facts, KNOWN, ServerChange(tags={"row": None, "unit": "3"}))
    assert (changed.tags, changed.vars, account) == ({"rack": "1", "unit": "3"}, {"vlan": "5"}, None)
    assert changed_facts(facts, KNOWN, ServerChange())[0] == facts


def test_a_password_never_follows_to_another_bmc() -> None:
    facts, _ = first_facts(GOOD)
    same, account = changed_facts(facts, KNOWN, ServerChange(bmc="ipmi://root@10.0.0.1"))
    assert (same.bmc, account) == ("ipmi://10.0.0.1:623", BmcCredentials("root", "p"))
    with pytest.raises(Invalid, match="its own password"):
        changed_facts(facts, KNOWN, ServerChange(bmc="ipmi://admin@10.0.0.2"))
    moved, account = changed_facts(facts, KNOWN, ServerChange(bmc="ipmi://10.0.0.2", bmc_password="q"))
    assert (moved.bmc_identity, account) == ("ipmi://10.0.0.2:623", BmcCredentials("admin", "q"))
