"""Every shipped profile: shown in full as golden text, clean to every checker there is, the same network in each."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from baremetal.errors import Invalid
from baremetal.netboot.lint.finding import Severity
from baremetal.netboot.lint.lint import CHECKERS, lint_profile
from baremetal.netboot.lint.samples import sample_context
from baremetal.netboot.profile import Family
from baremetal.netboot.render import render_answer
from baremetal.netboot.standing import Standing, judge
from baremetal.netboot.templates import Templates, freeze
from tests.evidence import record
from tests.unit.netboot.shipped import BOND, BOND_VLAN, STATIC, VLAN, files_of, shipped

pytestmark = pytest.mark.slow

ANSWERS = Path(__file__).parents[2] / "golden/answers"
SUSE = "{http://www.suse.com/1.0/yast2ns}"
# One profile of each template is shown with a network of its own, and with all of its files.
SHOWN = {
    "rocky9": ("static", "bond"),
    "debian13": ("static",),
    "ubuntu2404": ("static", "bond"),
    "sles15": ("static", "bond"),
    "esxi8": ("static",),
    "windows2022": ("static",),
    "fcos": ("static", "bond"),
    "flatcar": ("static", "bond"),
    "image": ("static", "bond"),
}
NETWORKS: dict[str, dict[str, Any]] = {"plain": {}, "static": VLAN, "bond": BOND_VLAN}
# What differs with the network; the scripts beside do not.
NETWORKED = {
    "ks.cfg",
    "user-data",
    "autoinst.xml",
    "unattend.xml",
    "boot.cfg",
    "target.ign",
    "run.sh",
    "install.ipxe",
}
CASES = [(name, "plain") for name in sorted(shipped())]
CASES += [(name, network) for name, networks in SHOWN.items() for network in networks]


def golden(path: Path, text: str) -> None:
    """Compare with the golden file; UPDATE_GOLDEN=yes writes it, for a person to read the difference."""
    if os.environ.get("UPDATE_GOLDEN") == "yes":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def unpacked(text: str) -> str:
    """Show an Ignition config as a person would write it: one key a line, its files as text."""
    config = json.loads(text)
    for entry in config["storage"]["files"]:
        source = entry["contents"]["source"]
        if source.startswith("data:;base64,") and "HOST-KEY" not in source:
            content = base64.b64decode(source.partition(",")[2]).decode()
            entry["contents"] = {"unpacked": content.splitlines()}
    return json.dumps(config, indent=1) + "\n"


@pytest.mark.parametrize(("name", "network"), CASES)
def test_what_is_served(name: str, network: str) -> None:
    variables = dict(NETWORKS[network])
    if shipped()[name].family is Family.WINDOWS:
        variables.pop("vlan", None)
    for file, text in files_of(name, **variables).items():
        main = file in (shipped()[name].main_file, "install.ipxe")
        if main if network == "plain" and name not in SHOWN else network == "plain" or file in NETWORKED:
            shown = unpacked(text) if file == "target.ign" else text.replace("\r\n", "\n")
            golden(ANSWERS / network / f"{name}.{file}", shown)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_profile_is_clean(name: str) -> None:
    """S2-5: pykickstart has nothing against centos7 in the syntax of RHEL 7."""
    profile = shipped()[name]
    found = lint_profile(profile, Templates.with_own())
    assert [str(one) for one in found if one.severity is not Severity.UNCHECKED] == []
    unchecked = {one.message.split(": ")[1].split(" is not")[0] for one in found}
    checker = CHECKERS.get(profile.family, "")
    assert unchecked <= {checker}
    if checker and not unchecked:
        record(profile, "validated", checker)
        assert judge(profile, freeze(profile, Templates.with_own()), None).standing in (
            Standing.BOOTED,
            Standing.VALIDATED,
        ), "a template has changed: write down that it is still clean, with UPDATE_EVIDENCE=yes"


def test_the_families_that_were_promised_are_there() -> None:
    assert {profile.family for profile in shipped().values()} == set(Family)
    wanted = "centos7 rocky8 rocky9 rocky10 alma9 rhel8 rhel9 rhel10 fedora debian12 debian13 ubuntu1804"
    wanted += " ubuntu2204 ubuntu2404 opensuse-leap15 sles15 esxi7 esxi8 windows2022 flatcar fcos image"
    assert set(wanted.split()) <= set(shipped())


def test_a_netplan_has_its_address_on_the_outermost_device() -> None:
    def network(**variables: Any) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(files_of("ubuntu2404", **variables)["user-data"])
        network: dict[str, Any] = found["autoinstall"]["network"]
        return network

    address = {
        "addresses": ["192.0.2.10/24"],
        "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.254"}],
        "nameservers": {"addresses": ["192.0.2.2", "192.0.2.3"], "search": ["example.net"]},
    }
    nic = {"match": {"macaddress": "52:54:00:12:34:56"}}
    assert network() == {"version": 2, "ethernets": {"bootnic": {"dhcp4": True, **nic}}}
    assert network(**STATIC) == {"version": 2, "ethernets": {"bootnic": {**address, **nic}}}
    assert network(**VLAN) == {
        "version": 2,
        "ethernets": {"bootnic": nic},
        "vlans": {"vlan12": {**address, "id": 12, "link": "bootnic"}},
    }
    bond = {
        "interfaces": ["eno1", "eno2"],
        "parameters": {"mode": "802.3ad", "mii-monitor-interval": "100"},
        "mtu": 9000,
    }
    assert network(**BOND) == {
        "version": 2,
        "ethernets": {"eno1": {}, "eno2": {}},
        "bonds": {"bond0": {"dhcp4": True, **bond}},
    }
    assert network(**BOND_VLAN)["vlans"] == {"vlan12": {**address, "id": 12, "link": "bond0"}}
    assert network(**BOND_VLAN)["bonds"] == {"bond0": bond}


def test_suse_keeps_the_installers_network_unless_a_bond_is_asked_for() -> None:
    files = files_of("sles15", **VLAN)
    assert "ifcfg=*=192.0.2.10/24,192.0.2.254,192.0.2.2 vlanid=12" in files["install.ipxe"]
    kept = ET.fromstring(files["autoinst.xml"]).find(f"{SUSE}networking")
    assert kept is not None
    assert kept.findtext(f"{SUSE}keep_install_network") == "true"
    assert kept.find(f"{SUSE}interfaces") is None
    own = ET.fromstring(files_of("sles15", **BOND_VLAN)["autoinst.xml"]).find(f"{SUSE}networking")
    assert own is not None
    made = {
        found.findtext(f"{SUSE}name"): {part.tag.removeprefix(SUSE): part.text for part in found}
        for found in own.iter(f"{SUSE}interface")
    }
    assert made["bond0"]["bonding_slave1"] == "eno2"
    assert made["bond0"]["bonding_module_opts"] == "mode=802.3ad miimon=100"
    assert (made["vlan12"]["etherdevice"], made["vlan12"]["ipaddr"]) == ("bond0", "192.0.2.10")


@pytest.mark.parametrize(
    ("name", "variables", "words"),
    [
        ("esxi8", {"esxi_disk": ""}, "told its disk by name"),
        ("esxi8", {"esxi_disk": "", "disk": "size>=1G"}, "told its disk by name"),
        ("esxi8", BOND, "ESXi has no bonds"),
        ("windows2022", {"install_share": ""}, "installed from a share"),
        ("windows2022", {"disk": "serial=X"}, "does not know serial numbers"),
        ("windows2022", {"vlan": 7}, "neither bonds nor VLANs"),
        ("windows2022", {"hostname": "a-name-of-sixteen"}, "at most 15"),
        ("image", {"image_sha256": ""}, "only with its SHA-256"),
        ("ubuntu2404", {"bond": "bond0:a,b:mode=1,fail_over_mac=1"}, "no word for the bond option"),
        ("flatcar", {"bond": "bond0:a,b:fail_over_mac=1"}, "no word for the bond option"),
    ],
)
def test_what_a_family_cannot_do_is_refused_in_words(
    name: str, variables: dict[str, Any], words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        files_of(name, **variables)


def test_esxi_takes_its_disk_from_a_wwn() -> None:
    for wwn, disk in (
        ("wwn=naa.5000c500A1B2C3D4", "naa.5000c500a1b2c3d4"),
        ("wwn=0x600508b1001c4d0e", "naa.600508b1001c4d0e"),
        ("wwn=eui.0025385b81b2c3d4", "eui.0025385b81b2c3d4"),
    ):
        text = files_of("esxi8", disk=wwn, esxi_disk="")["ks.cfg"]
        assert f"\ninstall --disk={disk} --overwritevmfs\n" in text


@pytest.mark.parametrize("name", sorted(name for name, profile in shipped().items() if profile.has_script))
def test_no_boot_script_holds_the_callback_token(name: str) -> None:
    script = files_of(name)["install.ipxe"]
    assert "callback" not in script
    assert "/answer/sample-fetch-token" in script


def test_what_cmd_reads_has_its_line_ends_and_nothing_else_has() -> None:
    for file, text in files_of("windows2022").items():
        ends = text.count("\r\n") if file.endswith((".bat", ".cmd", ".ini")) else 0
        assert (text.count("\r"), text.count("\r\n")) == (ends, ends)
        assert ends in (0, text.count("\n"))


@pytest.mark.parametrize("name", ["debian12", "debian13", "ubuntu1804"])
@pytest.mark.parametrize("mode", ["bios", "uefi"])
def test_a_uefi_machine_gets_a_uefi_system_whatever_was_on_its_disks(name: str, mode: str) -> None:
    """The Debian installer's default, on disks with a BIOS system, is another that UEFI does not start."""
    profile = shipped()[name]
    sample = sample_context(profile)
    context = replace(sample, server=replace(sample.server, boot_mode=mode))
    text = render_answer(freeze(profile, Templates.with_own()), profile.main_file, context)
    assert ("d-i partman-efi/non_efi_system boolean true" in text.splitlines()) is (mode == "uefi")
