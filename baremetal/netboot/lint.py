"""Linting a profile: rendered for sample servers, then checked by the installers' own checkers and by our rules.

Owns the sample servers and the order of the checks. `check_renders` is the cheap half, run for every profile when the
service starts, so that a typo fails in the office and not in the rack. Deliberately unknown: real servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from baremetal.errors import Invalid
from baremetal.netboot.checkers import check_kickstart, check_preseed, check_shell
from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.finding import Finding, Severity
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer, render_install_script, render_kernel_args
from baremetal.netboot.rules import (
    kernel_rules,
    kickstart_rules,
    preseed_rules,
    ramdisk_rules,
    template_rules,
)
from baremetal.netboot.templates import Frozen, Templates, freeze

DEFAULT_RELEASE: Final = 9
SAMPLE_SERVER: Final = ServerFacts(
    id="0123456789abcdef0123456789abcdef",
    name="sample-1",
    macs=("52:54:00:12:34:56", "52:54:00:12:34:57"),
    boot_mac="52:54:00:12:34:56",
    uuid="00112233-4455-6677-8899-aabbccddeeff",
    serial="SAMPLE-1",
)
_SAMPLE_KEY: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFSAMPLE0000000000000000000000000000000000000 sample"
)
# A server with nothing set, and one with everything that every family can do.
_SAMPLES: Final[tuple[Mapping[str, Any], ...]] = (
    {},
    {
        "domain": "example.net",
        "ip": "192.0.2.10/24",
        "gateway": "192.0.2.1",
        "dns": ["192.0.2.2", "192.0.2.3"],
        "ntp": ["192.0.2.4", "time.example.net"],
        "vlan": 12,
        "disk": "size>=100G,rotational=false",
        "kernel_args": "nomodeset audit=0",
        "console": "ttyS1,115200n8",
        "timezone": "Europe/Rome",
        "locale": "C.UTF-8",
        "keyboard": "de",
        "mirror": "http://mirror.example.net/tree",
        "ssh_authorized_keys": [_SAMPLE_KEY],
    },
)
_SCRIPT = re.compile(
    r"^%(?P<name>pre|pre-install|post|onerror|traceback)(?P<options>[^\n]*)\n(?P<body>.*?)^%end", re.S | re.M
)


def sample_context(profile: Profile, **variables: Any) -> Context:
    """Return a context for a server that does not exist, with stand-ins for its tokens."""
    return Context(
        server=SAMPLE_SERVER,
        run=1,
        profile=profile,
        variables=merge_variables(profile.variables, variables),
        urls=Urls.of("http://192.0.2.1:8080", profile.name, "sample-fetch-token", "sample-callback-token"),
        proof_key=_SAMPLE_KEY,
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
    try:
        release = int(merge_variables(profile.variables, variables or {}).get("release") or DEFAULT_RELEASE)
    except (Invalid, ValueError) as error:
        return [*found, Finding(Severity.ERROR, f"variable release: {error}", profile.name)]
    for context, texts, failure in _rendered(profile, frozen, variables or {}):
        if failure is not None:
            found.append(failure)
        elif context is not None:
            found += _check(profile, texts, release)
            found += kernel_rules(render_kernel_args(frozen, context), profile.family, release)
    return list(dict.fromkeys(found))


def _rendered(
    profile: Profile, frozen: Frozen, variables: Mapping[str, Any]
) -> Iterator[tuple[Context | None, dict[str, str], Finding | None]]:
    for sample in _SAMPLES:
        try:
            context = sample_context(profile, **{**sample, **variables})
            render_install_script(frozen, context)
            yield context, {file: render_answer(frozen, file, context) for file in frozen.files}, None
        except Invalid as error:
            yield None, {}, Finding.of(error, profile.template)


def _check(profile: Profile, texts: dict[str, str], release: int) -> Iterator[Finding]:
    main = profile.main_file
    if profile.family is Family.KICKSTART:
        yield from check_kickstart(texts[main], main, release)
        yield from kickstart_rules(texts[main], main, release)
        for script in _SCRIPT.finditer(texts[main]):
            if "--interpreter" not in script["options"]:
                first_line = texts[main].count("\n", 0, script.start("body")) + 1
                yield from check_shell(script["body"], main, first_line)
    elif profile.family is Family.RAMDISK:
        yield from ramdisk_rules(texts[main], main)
    else:
        scripts = {file: text for file, text in texts.items() if file != main}
        yield from check_preseed(texts[main], main)
        yield from preseed_rules(texts[main], scripts, main)
    for file, text in texts.items():
        if file.endswith(".sh"):
            yield from check_shell(text, file)
