"""The answer files that are XML, AutoYaST's and Windows': well formed, one named disk, no question asked.

Owns these checks. Deliberately unknown: the full schemas, which their makers do not let others ship.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from xml.etree import ElementTree as ET

from baremetal.netboot.lint.finding import Finding

_SUSE = "{http://www.suse.com/1.0/yast2ns}"
_CONFIG_TYPE = "{http://www.suse.com/1.0/configns}type"
_MICROSOFT = "{urn:schemas-microsoft-com:unattend}"
_PASSES = (
    "windowsPE",
    "offlineServicing",
    "generalize",
    "specialize",
    "auditSystem",
    "auditUser",
    "oobeSystem",
)


def autoyast_rules(text: str, file: str) -> Iterator[Finding]:
    """Check a rendered AutoYaST profile."""
    root = yield from _parsed(text, file)
    if root is None:
        return
    if root.tag != f"{_SUSE}profile":
        yield Finding.problem(file, None, "the root element is <profile> of http://www.suse.com/1.0/yast2ns")
        return
    confirm = root.find(f"{_SUSE}general/{_SUSE}mode/{_SUSE}confirm")
    if confirm is None or (confirm.text or "").strip() != "false":
        yield Finding.problem(
            file, _line(text, "<confirm"), "general/mode/confirm is not false: it would ask"
        )
    partitioning = root.find(f"{_SUSE}partitioning")
    drives = partitioning.findall(f"{_SUSE}drive") if partitioning is not None else []
    if not drives:
        yield Finding.problem(file, None, "no drive in partitioning: AutoYaST would choose a disk by itself")
    for drive in drives:
        device = (drive.findtext(f"{_SUSE}device") or "").strip()
        kind = (drive.findtext(f"{_SUSE}type") or "CT_DISK").strip()
        if kind == "CT_DISK" and not device.startswith("/dev/"):
            message = "a drive without <device> takes the first disk there is: name the disk"
            yield Finding.problem(file, _line(text, "<drive"), message)
        if any(sign in device for sign in "*?["):
            yield Finding.problem(file, _line(text, device), f"{device} may fit several disks")
    for element in root.iter():
        kind = element.get(_CONFIG_TYPE, "")
        value = (element.text or "").strip()
        line = _line(text, f"<{element.tag.removeprefix(_SUSE)}")
        if kind == "boolean" and value not in ("true", "false"):
            yield Finding.problem(
                file, line, f"{element.tag.removeprefix(_SUSE)} is true or false, not {value!r}"
            )
        if kind == "integer" and not re.fullmatch(r"-?[0-9]+", value):
            yield Finding.problem(file, line, f"{element.tag.removeprefix(_SUSE)} is not a number: {value!r}")
    for user in root.iter(f"{_SUSE}user"):
        password = (user.findtext(f"{_SUSE}user_password") or "").strip()
        encrypted = (user.findtext(f"{_SUSE}encrypted") or "").strip() == "true"
        if password and not encrypted:
            line = _line(text, "<user_password")
            yield Finding.problem(file, line, "a password in the open: lock root with ! and use SSH keys")


def unattend_rules(text: str, file: str) -> Iterator[Finding]:
    """Check a rendered unattend.xml."""
    root = yield from _parsed(text, file)
    if root is None:
        return
    if root.tag != f"{_MICROSOFT}unattend":
        message = "the root element is <unattend> of urn:schemas-microsoft-com:unattend"
        yield Finding.problem(file, None, message)
        return
    for settings in root:
        if settings.tag != f"{_MICROSOFT}settings" or settings.get("pass") not in _PASSES:
            yield Finding.problem(file, None, f"not a pass of Windows Setup: {settings.get('pass')!r}")
        for component in settings:
            missing = [
                key for key in ("name", "processorArchitecture", "publicKeyToken") if not component.get(key)
            ]
            if missing:
                line = _line(text, component.get("name") or "<component")
                yield Finding.problem(
                    file, line, f"a component without {' and '.join(missing)} is passed over"
                )
    disks = {
        (disk.findtext(f"{_MICROSOFT}DiskID") or "").strip()
        for disk in root.iter(f"{_MICROSOFT}Disk")
        if disk.find(f"{_MICROSOFT}WillWipeDisk") is not None
    }
    targets = {
        (target.findtext(f"{_MICROSOFT}DiskID") or "").strip()
        for target in root.iter(f"{_MICROSOFT}InstallTo")
    }
    line = _line(text, "<DiskConfiguration")
    if not all(re.fullmatch(r"[0-9]+", disk) for disk in disks | targets):
        yield Finding.problem(file, line, "a disk is partitioned or installed to without its DiskID")
    elif disks != targets or len(disks) != 1:
        message = f"wipes disk {', '.join(sorted(disks)) or 'none'}, installs to {', '.join(sorted(targets)) or 'none'}"
        yield Finding.problem(file, line, f"{message}: name one disk, in both places")
    if not any((eula.text or "").strip() == "true" for eula in root.iter(f"{_MICROSOFT}AcceptEula")):
        yield Finding.problem(file, None, "AcceptEula is not true: it would ask")
    for plain in root.iter(f"{_MICROSOFT}PlainText"):
        if (plain.text or "").strip() == "true":
            message = "a password in the open, by the operator's choice: whoever fetches this file has it"
            yield Finding.doubt(file, _line(text, "<PlainText"), message)


def _parsed(text: str, file: str) -> Generator[Finding, None, ET.Element | None]:
    if "<!ENTITY" in text:
        yield Finding.problem(file, _line(text, "<!ENTITY"), "entities are not for answer files")
        return None
    try:
        return ET.fromstring(text)
    except ET.ParseError as error:
        yield Finding.problem(file, error.position[0], f"not well-formed XML: {error}")
        return None


def _line(text: str, words: str) -> int | None:
    return next((number for number, line in enumerate(text.splitlines(), 1) if words in line), None)
