"""Linting a profile: rendered for sample servers, then checked by the installers' own checkers and by our rules.

Owns the order of the checks, and which of them are whose. `check_renders` is the cheap half, run for every profile when
the service starts, so that a typo fails in the office and not in the rack. Deliberately unknown: real servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from baremetal.errors import Invalid
from baremetal.netboot.context import Context, merge_variables
from baremetal.netboot.lint.autoinstall import autoinstall_rules
from baremetal.netboot.lint.batch import check_batch
from baremetal.netboot.lint.checkers import (
    check_autoinstall,
    check_ignition,
    check_kickstart,
    check_preseed,
    check_shell,
    check_xml,
)
from baremetal.netboot.lint.esxi import boot_config_rules, esxi_rules
from baremetal.netboot.lint.finding import Finding, Severity
from baremetal.netboot.lint.gate import SIGNALS, script_rules, signal_rules
from baremetal.netboot.lint.ignition import ignition_rules, scripts_within
from baremetal.netboot.lint.leaks import leak_rules
from baremetal.netboot.lint.loaderscripts import check_ipxe
from baremetal.netboot.lint.rules import (
    kernel_rules,
    kickstart_rules,
    preseed_rules,
    ramdisk_rules,
    template_rules,
)
from baremetal.netboot.lint.samples import sample_context, samples
from baremetal.netboot.lint.xmlanswers import autoyast_rules, unattend_rules
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer, render_command_line, render_install_script
from baremetal.netboot.templates import Frozen, Templates, freeze

DEFAULT_RELEASE: Final = 9
# The checker that an installer's makers, or those who know its syntax best, provide; the others have none.
CHECKERS: Final[Mapping[Family, str]] = {
    Family.KICKSTART: "pykickstart",
    Family.PRESEED: "debconf",
    Family.AUTOINSTALL: "subiquity's validator",
    Family.IGNITION: "ignition-validate",
}
_SCRIPT = re.compile(
    r"^%(?P<name>pre|pre-install|post|onerror|traceback|firstboot)(?P<options>[^\n]*)\n(?P<body>.*?)(?=^%|\Z)",
    re.S | re.M,
)


def check_renders(
    profile: Profile, templates: Templates, variables: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Render everything a profile serves for each sample server; return what failed, nothing when all is well."""
    try:
        frozen = freeze(profile, templates)
    except Invalid as error:
        return [Finding.of(error, profile.template)]
    return [found for _, _, found in _rendered(profile, frozen, variables or {}) if found is not None]


def lint_profile(
    profile: Profile, templates: Templates, variables: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Check a profile with everything there is to check it; an empty list is a clean bill."""
    try:
        frozen = freeze(profile, templates)
    except Invalid as error:
        return [Finding.of(error, profile.template)]
    found = [finding for name, text in frozen.texts.items() for finding in template_rules(text, name)]
    for name, text in frozen.texts.items():
        found += [leak for leak in leak_rules(text, name, rendered=False) if leak.severity is Severity.ERROR]
    try:
        release = int(merge_variables(profile.variables, variables or {}).get("release") or DEFAULT_RELEASE)
    except (Invalid, ValueError) as error:
        return [*found, Finding(Severity.ERROR, f"variable release: {error}", profile.name)]
    for context, texts, failure in _rendered(profile, frozen, variables or {}):
        if failure is not None:
            found.append(failure)
        elif context is not None:
            found += _check(profile, texts, release)
            if profile.has_script:
                found += kernel_rules(render_command_line(frozen, context), profile.family, release)
                found += check_ipxe(render_install_script(frozen, context), "install.ipxe")
    return list(dict.fromkeys(found))


def _rendered(
    profile: Profile, frozen: Frozen, variables: Mapping[str, Any]
) -> Iterator[tuple[Context | None, dict[str, str], Finding | None]]:
    for sample in samples(profile.family):
        try:
            context = sample_context(profile, **{**sample, **profile.variables, **variables})
            if profile.has_script:
                render_install_script(frozen, context)
            yield context, {file: render_answer(frozen, file, context) for file in frozen.files}, None
        except Invalid as error:
            yield None, {}, Finding.of(error, profile.template)


def _check(profile: Profile, texts: dict[str, str], release: int) -> Iterator[Finding]:
    main = profile.main_file
    text = texts[main]
    others = {file: body for file, body in texts.items() if file != main}
    match profile.family:
        case Family.KICKSTART:
            yield from check_kickstart(text, main, release)
            yield from kickstart_rules(text, main, release)
            yield from _sections(text, main)
        case Family.PRESEED:
            yield from check_preseed(text, main)
            yield from preseed_rules(text, others, main)
        case Family.AUTOINSTALL:
            yield from check_autoinstall(text, main)
            yield from autoinstall_rules(text, main)
            yield from _asks(others, main)
        case Family.AUTOYAST:
            yield from check_xml(text, main)
            yield from autoyast_rules(text, main)
            yield from _asks(others, main)
        case Family.ESXI:
            yield from esxi_rules(text, main)
            yield from boot_config_rules(texts["boot.cfg"], "boot.cfg")
            yield from signal_rules(texts.values(), main, ("install-complete",))
            yield from _sections(text, main)
        case Family.WINDOWS:
            yield from check_xml(text, main)
            yield from unattend_rules(text, main)
            yield from signal_rules(texts.values(), main, ("install-complete",))
        case Family.IGNITION:
            for file, body in texts.items():
                if file.endswith(".ign"):
                    yield from check_ignition(body, file)
                    yield from ignition_rules(body, file)
                    for path, script in scripts_within(body):
                        yield from check_shell(script, f"{file}: {path}")
            yield from _asks(others, main)
        case Family.IMAGE:
            yield from _asks(texts, main)
        case Family.NOCLOUD:
            yield from signal_rules(texts.values(), main, ("first-boot",))
            if text.startswith("#!"):
                yield from check_shell(text, main)
        case Family.RAMDISK:
            yield from ramdisk_rules(text, main)
    for file, body in texts.items():
        yield from leak_rules(body, file)
        if file.endswith(".sh"):
            yield from check_shell(body, file)
        elif file.endswith((".bat", ".cmd")):
            yield from check_batch(body, file)


def _asks(scripts: Mapping[str, str], main: str) -> Iterator[Finding]:
    """Check the scripts of an installer whose main file only says where they are."""
    yield from script_rules(scripts.items())
    yield from signal_rules(scripts.values(), main, SIGNALS)


def _sections(text: str, main: str) -> Iterator[Finding]:
    for script in _SCRIPT.finditer(text):
        if "--interpreter" not in script["options"] or "busybox" in script["options"]:
            first_line = text.count("\n", 0, script.start("body")) + 1
            yield from check_shell(script["body"].partition("\n%end\n")[0], main, first_line)
