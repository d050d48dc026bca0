"""Hostile variables in the newer families: refused, or read back by the language's own parser as the value they are."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.netboot.variables import DEFAULTS
from tests.unit.netboot.shipped import files_of
from tests.unit.netboot.test_hostile import NASTY

pytestmark = pytest.mark.slow

MORE = [
    "x: y",
    "- x",
    "&a *a",
    "!!python/object/apply:os.system [id]",
    "# x",
    "'\"",
    "]]><script><source>id</source></script>",
    "</device><device>/dev/sdz",
    "<!ENTITY x SYSTEM 'file:///etc/passwd'>",
    "&lt;&#10;",
    '","wipeTable":true,"x":"',
    "\\u0022}",
    "%PATH%",
    "^& del /q C:\\",
    '" & reboot & "',
    "null",
    "yes",
    "1e9",
    "\u202e",
    "\ud7ff",
]
values = st.sampled_from([*NASTY, *MORE]) | st.text(max_size=40)
# Own variables are not bound to a form, so everything printable gets as far as the filters.
OWN = {
    "ubuntu2404": ["source", "layout", "packages"],
    "sles15": ["filesystem", "product", "packages", "modules"],
    "windows2022": ["edition", "product_key", "windows_timezone", "administrator_password"],
    "esxi8": ["esxi_disk", "root_password_hash", "esxi_kernel"],
    "fcos": ["image_url", "installer"],
    "image": ["image", "packages"],
}


def drawing(name: str) -> Any:
    return st.dictionaries(st.sampled_from([*sorted(DEFAULTS), *OWN[name]]), values, max_size=4)


def rendered(name: str, variables: dict[str, Any]) -> dict[str, str] | None:
    wrapped = {key: [value] if key in ("packages", "modules") else value for key, value in variables.items()}
    try:
        return files_of(name, **wrapped)
    except Invalid:
        return None


def shape(value: Any) -> Any:
    """What keys there are, at every depth, whatever the values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value).__name__


many = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@drawn(drawing("ubuntu2404"))
def test_no_variable_adds_a_key_to_an_autoinstall(variables: dict[str, Any]) -> None:
    files = rendered("ubuntu2404", variables)
    if files is None:
        return
    found = yaml.safe_load(files["user-data"])["autoinstall"]
    plain = yaml.safe_load(files_of("ubuntu2404")["user-data"])["autoinstall"]
    assert set(found) - {"apt"} == set(plain)
    assert found["storage"]["layout"]["match"] == {"path": "/dev/bm-disk-not-chosen"}
    assert [len(found[key]) for key in ("early-commands", "late-commands", "error-commands")] == [1, 1, 1]
    assert set(found["user-data"]) <= {"hostname", "fqdn", "users", "disable_root", "ssh_deletekeys", "ntp"}
    for name, place in (("source", found["source"]["id"]), ("layout", found["storage"]["layout"]["name"])):
        if name in variables:
            assert place == variables[name]
    if "packages" in variables:
        assert found["packages"] == ["curl", variables["packages"]]
    assert set(yaml.safe_load(files["meta-data"])) == {"instance-id", "local-hostname"}


@many
@drawn(drawing("sles15"))
def test_no_variable_adds_an_element_to_an_autoyast_profile(variables: dict[str, Any]) -> None:
    files = rendered("sles15", variables)
    if files is None:
        return
    root = ET.fromstring(files["autoinst.xml"])
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert [tags.count(tag) for tag in ("drive", "device", "script", "source", "user")] == [1, 1, 2, 2, 1]
    assert root.findtext(".//{*}device") == "/dev/bm-disk-not-chosen"
    assert root.findtext(".//{*}user_password") == "!"
    for name, tag in (("filesystem", "filesystem"), ("product", "software/{*}products/{*}product")):
        if name in variables:
            assert root.findtext(f".//{{*}}{tag}") == variables[name]
    if "packages" in variables:
        assert [found.text or "" for found in root.iterfind(".//{*}package")][3:] == [variables["packages"]]


@many
@drawn(drawing("windows2022"))
def test_no_variable_adds_an_element_to_an_unattend(variables: dict[str, Any]) -> None:
    files = rendered("windows2022", variables)
    if files is None:
        return
    root = ET.fromstring(files["unattend.xml"])
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert [tags.count(tag) for tag in ("settings", "Disk", "WillWipeDisk", "InstallTo")] == [3, 1, 1, 1]
    assert tags.count("RunSynchronousCommand") == tags.count("SynchronousCommand") == 0
    if "administrator_password" in variables:
        assert root.findtext(".//{*}AdministratorPassword/{*}Value") == variables["administrator_password"]
    for file in ("install.bat", "SetupComplete.cmd"):
        plain = files_of("windows2022")[file]
        assert len(files[file].splitlines()) == len(plain.splitlines())


@many
@drawn(drawing("esxi8"))
def test_no_variable_adds_a_command_to_an_esxi_kickstart(variables: dict[str, Any]) -> None:
    files = rendered("esxi8", variables)
    if files is None:
        return
    head = files["ks.cfg"].partition("\n%")[0].splitlines()[1:]
    commands = [line.split()[0] for line in head if line]
    assert commands == ["vmaccepteula", "rootpw", "install", "network", "reboot"]
    keys = [line.partition("=")[0] for line in files["boot.cfg"].splitlines()]
    assert keys == [
        "bootstate",
        "title",
        "timeout",
        "prefix",
        "kernel",
        "kernelopt",
        "modules",
        "build",
        "updated",
    ]


@many
@drawn(drawing("fcos"))
def test_no_variable_adds_a_key_to_an_ignition_config(variables: dict[str, Any]) -> None:
    files = rendered("fcos", variables)
    if files is None:
        return
    assert shape(json.loads(files["config.ign"])) == shape(json.loads(files_of("fcos")["config.ign"]))
    found = json.loads(files["target.ign"])
    assert shape(found) == shape(json.loads(files_of("fcos")["target.ign"]))
    assert set(found["storage"]) == {"files"}
    for entry in found["storage"]["files"]:
        assert set(entry) == {"path", "mode", "overwrite", "contents"}
        assert re.match(r"/etc/[A-Za-z0-9/._-]+\Z", entry["path"])
        if entry["path"] == "/etc/hostname":
            lines = base64.b64decode(entry["contents"]["source"].partition(",")[2]).decode().splitlines()
            assert len(lines) == 1


@many
@drawn(drawing("image"))
def test_no_variable_adds_a_key_to_a_seed(variables: dict[str, Any]) -> None:
    files = rendered("image", variables)
    if files is None:
        return
    parts = re.findall(
        r"^cat >\"\$BM_SEED/([a-z-]+)\" <<'BM_EOF'\n(.*?)^BM_EOF$", files["run.sh"], re.S | re.M
    )
    assert [name for name, _ in parts] == ["meta-data", "user-data", "network-config"]
    user_data = yaml.safe_load(parts[1][1])
    wanted = {
        "hostname",
        "fqdn",
        "users",
        "disable_root",
        "ssh_deletekeys",
        "timezone",
        "locale",
        "ntp",
        "packages",
    }
    assert set(user_data) <= wanted
    if "packages" in variables:
        assert user_data["packages"] == [variables["packages"]]
    assert set(yaml.safe_load(parts[2][1])) <= {"version", "ethernets", "bonds", "vlans"}
