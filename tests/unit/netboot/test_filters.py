"""Escaping, checked against the parsers that will read it."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.netboot import filters
from baremetal.netboot.render import render_text

line = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=60)


@given(line)
def test_ks_is_read_back_by_the_splitting_pykickstart_uses(text: str) -> None:
    assert shlex.split(f"--hostname={filters.ks(text)}") == [f"--hostname={text}"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=1, codec="utf-8"), max_size=20), max_size=4))
def test_sh_is_read_back_by_a_shell(words: list[str]) -> None:
    quoted = filters.sh(words)
    out = subprocess.run(["sh", "-c", f"printf '%s\\0' {quoted}"], capture_output=True, check=True).stdout
    assert out.decode().split("\0")[:-1] == (words or [""])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | line, lambda x: st.lists(x, max_size=3), max_leaves=8
    )
)
def test_yaml_is_read_back(value: object) -> None:
    assert yaml.safe_load(filters.yaml(value)) == value
    assert json.loads(filters.yaml(value)) == value


@pytest.mark.parametrize("filter_name", ["ks", "preseed", "ipxe", "line"])
@pytest.mark.parametrize("hostile", ["a\nb", "a\rb", "a\x00b", "a\x1bb", "a\u2028b", "a\x85b"])
def test_line_breaks_and_control_characters_are_refused(filter_name: str, hostile: str) -> None:
    with pytest.raises(Invalid) as caught:
        render_text("x\n{{ v | " + filter_name + " }}", "t.j2", {"v": hostile})
    assert (caught.value.code, caught.value.file, caught.value.line) == ("BM204", "t.j2", 2)


@pytest.mark.parametrize("hostile", ["${x}", "a || b", "a && b", "a ; b", "# c", "a #b", "é", "a${b}c"])
def test_ipxe_refuses_what_it_would_not_take_literally(hostile: str) -> None:
    with pytest.raises(Invalid):
        filters.ipxe(hostile)


@pytest.mark.parametrize("hostile", [" a", "a ", "a\\"])
def test_preseed_refuses_what_its_lines_cannot_carry(hostile: str) -> None:
    with pytest.raises(Invalid):
        filters.preseed(hostile)


def test_a_kickstart_word_never_begins_a_section() -> None:
    assert filters.ks("%end") == '"%end"'


def test_conversions() -> None:
    assert filters.netmask(20) == "255.255.240.0"
    assert filters.bootif("52:54:00:AB:cd:ef") == "01-52-54-00-ab-cd-ef"
    assert filters.selector("size>=100G,rotational=false") == "size>=100000000000,rotational=0"
    assert filters.url_scheme("http://m.example:8080/d/") == "http"
    assert filters.url_host("http://m.example:8080/d/") == "m.example:8080"
    assert filters.url_path("http://m.example:8080/d/") == "/d"
    assert filters.url_path("http://m.example") == "/"
    assert filters.bond("bond0:a,b:mode=1:9000") == {
        "name": "bond0",
        "ports": ["a", "b"],
        "options": ["mode=1"],
        "mtu": 9000,
    }
