"""What a template may do, and how much: the sandbox's limits, and errors that name file, line and variable."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.errors import BaremetalError, Invalid
from baremetal.netboot.render import render_text

VALUES: dict[str, Any] = {
    "word": "plain",
    "unset": None,
    "flag": True,
    "number": 7,
    "map": {"x": 1, "items": 2},
    "list": ["a", "b"],
}


def render(text: str) -> str:
    return render_text(text, "t.j2", VALUES)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ word }}-{{ number }}", "plain-7"),
        ("{{ map.items }}{{ map['x'] }}", "21"),
        ("{% for x in list %}{{ x }}{{ ',' if not loop.last else '' }}{% endfor %}", "a,b"),
        ("{{ word ~ number ~ list | join('+') }}", "plain7a+b"),
        ("{{ list | map('upper') | join }}", "AB"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(word) }}", "<plain>"),
        ("{{ absent | default('x') }}", "x"),
        ("{{ word | replace('p', 'P') | indent(2) }}", "Plain"),
        ("{{ 'a-b'.split('-') | last }}", "b"),
    ],
)
def test_what_a_template_needs_works(text: str, rendered: str) -> None:
    assert render(text) == rendered


@pytest.mark.parametrize(
    ("text", "line", "variable"),
    [
        ("a\nb {{ gatewy }}", 2, "gatewy"),
        ("{{ map.y }}", 1, "y"),
        ("\n\n{% if nothing %}{% endif %}", 3, "nothing"),
        ("{{ unset }}", 1, "unset"),
        ("\n{{ unset | sh }}", 2, "unset"),
    ],
)
def test_undefined_and_unset_variables_are_bm203_with_file_and_line(
    text: str, line: int, variable: str
) -> None:
    with pytest.raises(Invalid) as caught:
        render(text)
    assert (caught.value.code, caught.value.file, caught.value.line) == ("BM203", "t.j2", line)
    assert caught.value.variable == variable


def test_an_undefined_variable_is_told_its_neighbour() -> None:
    with pytest.raises(Invalid, match="Did you mean number"):
        render("{{ numbr }}")


@pytest.mark.parametrize(
    "text",
    [
        "{{ flag }}",
        "{{ list }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{% include word %}",
        "{% include 'absent' %}",
        "{{ refuse('cannot') }}",
        "{{ word | nofilter }}",
        # out of the sandbox
        "{{ ''.__class__.__mro__ }}",
        "{{ word.__init__.__globals__ }}",
        "{{ render.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ '%s' % word }}",
        "{{ '{0.__class__}'.format(word) }}",
        "{{ word | attr('__class__') }}",
        "{{ map.update({'x': 2}) }}",
        "{{ list.append(1) }}",
        "{% set _ = list.__setitem__(0, 1) %}",
        # too much
        "{{ 'x' * 100000000 }}",
        "{{ [1] * 100000000 }}",
        "{{ 100000000 * 'x' }}",
        "{{ 2 ** 99999999 }}",
        "{{ range(100000000) | list }}",
        "{% for i in range(4000) %}{% for j in range(4000) %}{% endfor %}{% endfor %}",
        "{% for i in range(4000) %}" + "y" * 1000 + "{% endfor %}",
        "{% set x %}{% for i in range(4000) %}" + "y" * 4000 + "{% endfor %}{% endset %}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(90) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(90) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(90) %}{% set n.x = n.x|replace('a',n.x) %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(90) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}",
        "{% set n = namespace(x=9) %}{% for i in range(90) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ word | center(100000000) }}",
        "{{ word.ljust(100000000) }}",
        "{{ word | indent(100000000) }}",
        "{{ lipsum(10000) }}",
    ],
)
def test_what_a_template_must_not_do_is_refused(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Invalid) as caught:
            render(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code in ("BM203", "BM204")
    assert caught.value.file == "t.j2"
    assert peak < 40 * 2**20


@pytest.mark.parametrize(
    "value", [object(), {"x": {1, 2}}, [b"bytes"], {1: "key"}, {"f": len}, ValueError("x")]
)
def test_only_plain_values_enter(value: Any) -> None:
    with pytest.raises(Invalid):
        render_text("x", "t.j2", {"value": value})


def test_values_nested_without_end_are_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(Invalid, match="deep"):
        render_text("x", "t.j2", {"value": value})


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.sampled_from(["{{ %s }}", "{%% %s %%}", "%s", "{%% if %s %%}"]),
)
def test_any_template_renders_or_is_invalid(noise: str, form: str) -> None:
    code = ""
    try:
        render(form % noise)
    except BaremetalError as error:
        code = error.code
    assert code in ("", "BM203", "BM204")


def test_an_error_inside_a_loop_or_macro_still_names_its_line() -> None:
    with pytest.raises(Invalid) as caught:
        render("{% macro m(x) %}\n{{ x.y }}\n{% endmacro %}\n{% for i in list %}\n{{ m(map) }}\n{% endfor %}")
    assert (caught.value.line, caught.value.variable) == (2, "y")
