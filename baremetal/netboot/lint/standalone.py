"""Checking a file that no profile renders: a kickstart or a loader's script that somebody has already.

Owns telling what a file is, by its name and its words. What a template must keep beside (go, call-backs) does not
apply: such a file is checked for what would break, erase or leak.
"""

from __future__ import annotations

import re

from baremetal.errors import Invalid
from baremetal.netboot.lint.autoinstall import autoinstall_rules
from baremetal.netboot.lint.checkers import (
    check_autoinstall,
    check_grub_script,
    check_ignition,
    check_kickstart,
    check_xml,
)
from baremetal.netboot.lint.finding import Finding
from baremetal.netboot.lint.ignition import ignition_rules
from baremetal.netboot.lint.leaks import leak_rules
from baremetal.netboot.lint.loaderscripts import check_grub, check_ipxe, check_pxelinux
from baremetal.netboot.lint.rules import disk_rules
from baremetal.netboot.lint.xmlanswers import autoyast_rules, unattend_rules


def kind_of(text: str, name: str) -> str:
    """Say what a file is. Raises Invalid when it could be anything."""
    base = name.rpartition("/")[2].lower()
    if text.startswith("#!ipxe") or base.endswith(".ipxe"):
        return "iPXE script"
    if text.lstrip().startswith("{"):
        return "Ignition config"
    if text.lstrip().startswith("<"):
        return "unattend.xml" if "schemas-microsoft-com:unattend" in text else "AutoYaST profile"
    if text.startswith("#cloud-config") or re.search(r"^autoinstall:", text, re.M):
        return "autoinstall"
    if re.search(r"^%packages|^(url|cdrom|autopart|clearpart|rootpw)\b", text, re.M):
        return "kickstart"
    if base.startswith("grub") or re.search(r"^\s*menuentry\b", text, re.M):
        return "GRUB script"
    if re.search(r"^\s*(label|default|append)\s", text, re.M | re.I):
        return "pxelinux configuration"
    raise Invalid(
        f"{name}: neither a loader's script nor an answer file that is known here",
        fix="iPXE scripts begin with #!ipxe; GRUB's are called grub.cfg",
    )


def lint_file(text: str, name: str, release: int = 9) -> tuple[str, list[Finding]]:
    """Check a file by what it is; returns what it was taken for, and what was found. Raises Invalid."""
    kind = kind_of(text, name)
    found = list(leak_rules(text, name))
    match kind:
        case "iPXE script":
            found += check_ipxe(text, name)
        case "Ignition config":
            found += [*check_ignition(text, name), *ignition_rules(text, name)]
        case "unattend.xml":
            found += [*check_xml(text, name), *unattend_rules(text, name)]
        case "AutoYaST profile":
            found += [*check_xml(text, name), *autoyast_rules(text, name)]
        case "autoinstall":
            found += [*check_autoinstall(text, name), *autoinstall_rules(text, name)]
        case "kickstart":
            found += [*check_kickstart(text, name, release), *disk_rules(text, name, release)]
        case "GRUB script":
            found += [*check_grub_script(text, name), *check_grub(text, name)]
        case _:
            found += check_pxelinux(text, name)
    return kind, found
