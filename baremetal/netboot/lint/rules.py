"""Our own rules for answer files and their templates: what no general checker knows.

Owns: only a named disk is written (I18), no password in the open, every printed expression escaped for the language it
is printed into. Deliberately unknown: the syntax of
kickstart and preseed, which their own checkers know (checkers.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import TemplateSyntaxError, nodes

from baremetal.netboot.filters import ESCAPES, FILTERS
from baremetal.netboot.lint.finding import Finding, Severity
from baremetal.netboot.lint.gate import ASKS, BEFORE_GO, WRITES, script_rules, signal_rules, write_before_go
from baremetal.netboot.profile import Family
from baremetal.netboot.sandbox import Sandbox
from baremetal.netboot.templates import KERNEL_ARGS

_SECTION = re.compile(r"%(pre|pre-install|post|onerror|traceback)(\s|$)")
_CLEARPART = re.compile(r"^\s*clearpart\b(?P<options>.*)$")
_LAYOUT = re.compile(r"^\s*(autopart|part|partition|zerombr)\b")
_ONLY_USE = re.compile(r"^\s*ignoredisk\b.*--only-use=")
_INCLUDED_DISK = re.compile(r"^%include\s+/tmp/")
# In a RAM system a disk's name is always a variable.
_WIPES = re.compile(
    r"^\s*((if|while|until)\s+(!\s*)?)?(dd\b.*\bof=(\"?\$|/dev/)|blkdiscard\b|shred\b|wipefs\b)|"
    + WRITES.pattern
)
_PLAIN_PASSWORD = re.compile(
    r"^\s*(rootpw\s+(?!.*--lock\b)(?!.*--iscrypted\b).*\S|user\b.*--password=(?!.*--iscrypted\b)"
    r"|\S+\s+passwd/(root|user)-password(-again)?\s+password\s+\S+)"
)
_OLD_DEVICE = re.compile(r"(^|\s)(ksdevice|ks)=")


def disk_rules(text: str, file: str, release: int) -> Iterator[Finding]:
    """Check what a kickstart may erase or show, whoever wrote it."""
    lines = text.splitlines()
    only_use = any(_ONLY_USE.match(line) for line in lines)
    for number, line in enumerate(lines, 1):
        cleared = _CLEARPART.match(line)
        if cleared and "--none" not in cleared["options"] and "--drives=" not in cleared["options"]:
            yield _error(
                file,
                number,
                "clearpart without --drives= would clear every disk of the machine: name the disk",
            )
        if _LAYOUT.match(line) and not only_use:
            yield _error(
                file, number, "partitioning without ignoredisk --only-use= may reach any disk: name the disk"
            )
    yield from _passwords(lines, file)
    if release >= 7 and "$1$" in text and "--passalgo=sha512" in text:
        yield _error(file, _find(lines, "$1$"), "an MD5 password ($1$) beside --passalgo=sha512")


def kickstart_rules(text: str, file: str, release: int) -> Iterator[Finding]:
    """Check a rendered kickstart."""
    lines = text.splitlines()
    sections = _sections(lines)
    yield from disk_rules(text, file, release)
    if any(line.startswith("%include /tmp/") for line in lines) and "pre" not in sections.values():
        yield _error(
            file, _find(lines, "%include /tmp/"), "%include of a file in /tmp, but no %pre writes one"
        )
    pre = [number for number, name in sections.items() if name in ("pre", "pre-install")]
    before = write_before_go(lines, pre)
    if before:
        yield _error(file, before, BEFORE_GO)
    yield from signal_rules(lines, file)
    commands = [
        line.split()[0] for number, line in enumerate(lines, 1) if number not in sections and line.split()
    ]
    if not {"reboot", "poweroff", "shutdown", "halt"} & set(commands):
        yield Finding(Severity.WARNING, "no reboot: the installer will wait at its end", file, rendered=True)


def preseed_rules(text: str, scripts: dict[str, str], file: str) -> Iterator[Finding]:
    """Check a rendered preseed together with the scripts that it fetches."""
    lines = text.splitlines()
    yield from _passwords(lines, file)
    for number, line in enumerate(lines, 1):
        if re.match(r"\S+\s+partman-auto/disk\s+string\s+\S", line):
            yield _error(
                file,
                number,
                "partman-auto/disk is fixed: it is set on the machine, after go, by the selector",
            )
    yield from signal_rules((text, *scripts.values()), file)
    if "preseed/early_command" not in text or "partman/early_command" not in text:
        yield _error(
            file, None, "go is asked for in preseed/early_command, the disk named in partman/early_command"
        )
    yield from script_rules(scripts.items())


def ramdisk_rules(text: str, file: str) -> Iterator[Finding]:
    """Check the rendered script of a RAM system."""
    lines = text.splitlines()
    ends = ("wipe-complete", "inspect-complete", "rescue-started")
    if not any(signal in text for signal in ends):
        yield _error(file, None, f"never calls back with {' or '.join(ends)}: the run can only time out")
    asks = next((number for number, line in enumerate(lines, 1) if ASKS.match(line)), len(lines) + 1)
    writes = next((number for number, line in enumerate(lines, 1) if _WIPES.match(line)), None)
    if writes is not None and writes < asks:
        yield _error(file, writes, "a disk is written before the call-back wipe-started has answered go")


def kernel_rules(line: str, family: Family, release: int) -> Iterator[Finding]:
    """Check a rendered kernel command line."""
    if len(line) > 1900:
        yield _error(
            KERNEL_ARGS, None, f"{len(line)} characters: a kernel takes 2047, and the loader adds some"
        )
    if family is Family.KICKSTART and release >= 7 and _OLD_DEVICE.search(line):
        yield Finding(
            Severity.WARNING,
            "ks= and ksdevice= are spelled inst.ks= and BOOTIF= from release 7; the boot script passes both by itself",
            KERNEL_ARGS,
        )


def template_rules(text: str, name: str) -> Iterator[Finding]:
    """Check that every expression a template prints ends in the filter of the language it is printed into."""
    if name == KERNEL_ARGS:
        return  # whatever it prints is checked word by word before use
    try:
        tree = _PARSER.parse(text, name)
    except TemplateSyntaxError as error:
        yield Finding(Severity.ERROR, str(error.message), name, error.lineno)
        return
    sections = _sections(text.splitlines())
    for output in tree.find_all(nodes.Output):
        for expression in output.nodes:
            if isinstance(expression, nodes.TemplateData):
                continue
            wanted = _language(name, sections.get(expression.lineno))
            bare = _bare(expression, wanted)
            if bare is not None:
                yield Finding(
                    Severity.ERROR,
                    f"{bare or 'this'} is printed without escaping: end it with | {' or | '.join(sorted(wanted))}",
                    name,
                    expression.lineno,
                    bare or None,
                )


_PARSER = Sandbox(FILTERS)
# What a template's name says of the language it is written in; the first ending that fits.
_LANGUAGES = (
    (".sh.j2", ("sh", "line")),
    (".ks.j2", ("ks",)),
    ("boot.cfg.j2", ("line",)),
    (".cfg.j2", ("preseed",)),
    (".ipxe.j2", ("ipxe",)),
    (".grub.j2", ("grub", "line")),
    (".pxelinux.j2", ("pxelinux", "line")),
    ("_args.j2", ("ipxe",)),
    (".yaml.j2", ("yaml",)),
    (".xml.j2", ("xml",)),
    (".ign.j2", ("json", "line")),
    (".ini.j2", ("line",)),
    (".nm.j2", ("line",)),
    (".bat.j2", ("batch",)),
    (".cmd.j2", ("batch",)),
)


def _language(name: str, section: str | None) -> frozenset[str]:
    if section is not None:
        return frozenset(("sh", "line"))
    for ending, filters in _LANGUAGES:
        if name.endswith(ending):
            return frozenset(filters)
    return frozenset(ESCAPES)


def _bare(node: nodes.Node, wanted: frozenset[str]) -> str | None:
    """Return the name of what is printed unescaped, "" when it has none, None when all is well."""
    parts: list[nodes.Expr | None] = []
    match node:
        case nodes.Const() | nodes.Call(node=nodes.Name(name="refuse" | "caller" | "super")):
            return None
        case nodes.Filter(name=name) if name in wanted or name == " charge":
            return None
        case nodes.Filter(name=" concat"):
            parts = [node.node, *node.args]
        case nodes.CondExpr():
            parts = [node.expr1, node.expr2]
        case _:
            named = node if isinstance(node, nodes.Name) else next(node.find_all(nodes.Name), None)
            return named.name if isinstance(named, nodes.Name) else ""
    return next((bare for part in parts if part and (bare := _bare(part, wanted)) is not None), None)


def _sections(lines: list[str]) -> dict[int, str]:
    """Say for each line of a script section which section it is in."""
    inside: dict[int, str] = {}
    current: str | None = None
    for number, line in enumerate(lines, 1):
        begins = _SECTION.match(line)
        if begins:
            current = begins[1]
        elif line.startswith("%end"):
            current = None
        elif current:
            inside[number] = current
    return inside


def _passwords(lines: list[str], file: str) -> Iterator[Finding]:
    for number, line in enumerate(lines, 1):
        if _PLAIN_PASSWORD.match(line):
            yield _error(
                file, number, "a password in the open: lock root (rootpw --lock, password !) and use SSH keys"
            )


def _find(lines: list[str], what: str) -> int | None:
    return next((number for number, line in enumerate(lines, 1) if what in line), None)


def _error(file: str, line: int | None, message: str) -> Finding:
    return Finding(Severity.ERROR, message, file, line, rendered=file != KERNEL_ARGS)
