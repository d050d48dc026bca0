"""Rendering: frozen templates and a context make the bytes that a machine is served.

Owns compiling (once per frozen set, by its digest), running within a budget, and turning whatever goes wrong into
an error that names file, line and variable: BM203 for an undefined or unset variable, BM204 for the rest.
Deliberately unknown: windows, tokens, who asked.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any

from jinja2 import DictLoader, Template, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import TemplateError
from jinja2.runtime import Context as TemplateContext

from baremetal.errors import Invalid
from baremetal.netboot.context import Context, check_plain
from baremetal.netboot.filters import FILTERS
from baremetal.netboot.sandbox import BUDGET, MAX_OUTPUT, Budget, Overrun, Refusal, Sandbox, Unset
from baremetal.netboot.templates import COMMAND_LINE, KERNEL_ARGS, Frozen, with_loaders
from baremetal.netboot.tokens import mask_tokens
from baremetal.netboot.variables import kernel_words

_DOS = (".bat", ".cmd", ".ini")
_KEPT = 128  # compiled sets of templates; a fleet uses a handful of profiles at a time
_UNDEFINED = re.compile(r"(?:'(?P<name>[^']+)' is undefined|has no attribute '(?P<key>[^']+)')\Z")
_PRINTED = re.compile(r"\{\{-?\s*([A-Za-z_][\w.]*)")


class Compiled:
    """One frozen set of texts, compiled when first used."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._sandbox = Sandbox(FILTERS, loader=DictLoader(dict(texts)), cache_size=-1)

    def render(self, name: str, values: dict[str, Any]) -> str:
        """Render one template of the set. Raises Invalid with file, line and variable."""
        try:
            return _run(self._sandbox.get_template(name), values)
        except Exception as error:
            raise self._explain(error, name, values) from error

    def _explain(self, error: Exception, name: str, values: Mapping[str, Any]) -> Exception:
        if isinstance(error, TemplateSyntaxError):
            return Invalid(str(error.message), code="BM204", file=error.name or name, line=error.lineno)
        file, line = _place(error.__traceback__, self._sandbox)
        file = file or name
        source = self._line(file, line)
        if isinstance(error, UndefinedError):
            return _undefined(str(error), file, line, source, values)
        if isinstance(error, Unset):
            variable = next((v for v in _PRINTED.findall(source) if _lookup(values, v) is None), None)
            return Invalid(
                f"{variable or 'a value'} is not set but printed",
                code="BM203",
                file=file,
                line=line,
                variable=variable,
                seen=source or None,
                fix="set it, give it a default, or ask {% if … %} first",
            )
        if isinstance(error, Invalid):
            seen = error.seen and mask_tokens(error.seen)
            return Invalid(
                error.what,
                code="BM204",
                file=file,
                line=line,
                variable=error.variable,
                seen=seen,
                fix=error.fix,
            )
        if isinstance(error, Refusal):
            return Invalid(str(error), code="BM204", file=file, line=line)
        if isinstance(error, (Overrun, TemplateError, RecursionError)):
            return Invalid(mask_tokens(str(error)), code="BM204", file=file, line=line, seen=source or None)
        what = f"{type(error).__name__}: {mask_tokens(str(error))[:200]}"
        return Invalid(what, code="BM204", file=file, line=line, seen=source or None)

    def _line(self, file: str, line: int | None) -> str:
        lines = self._texts.get(file, "").splitlines()
        return lines[line - 1].strip()[:120] if line and line <= len(lines) else ""


class _Shelf:
    """The compiled sets kept, by digest; the least recently used one goes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Compiled] = OrderedDict()

    def get(self, frozen: Frozen) -> Compiled:
        with self._lock:
            found = self._kept.get(frozen.digest)
            if found is None:
                found = self._kept[frozen.digest] = Compiled(frozen.texts)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(frozen.digest)
            return found


_SHELF = _Shelf()


def render_answer(frozen: Frozen, file: str, context: Context) -> str:
    """Render one answer file of a run, such as `ks.cfg`. Raises KeyError for a file that the profile has not."""
    text = _SHELF.get(frozen).render(frozen.files[file], context.values())
    # cmd loses its place, and with it the labels, in a file whose lines end as ours do.
    return text.replace("\n", "\r\n") if file.endswith(_DOS) else text


def render_install_script(
    frozen: Frozen, context: Context, more: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Render the iPXE script that starts this run's installer; it holds the fetch token and no other secret."""
    return render_loader_script(context.profile.install_script, frozen, context, more)


def render_loader_script(name: str, frozen: Frozen, context: Context, more: Mapping[str, Any]) -> str:
    """Render what starts this run's installer in the language of template `name`. Raises Invalid BM203, BM204.

    `more` is what this loader's template is told beside the context. A menu is none unless `more` has one.
    """
    if name not in frozen.texts or COMMAND_LINE not in frozen.texts:
        frozen = with_loaders(frozen)
    compiled = _SHELF.get(frozen)
    check_plain(dict(more))
    values = {"menu": None, "nic": context.server.boot_mac, **_with_command_line(compiled, context), **more}
    return compiled.render(name, values)


def render_command_line(frozen: Frozen, context: Context) -> str:
    """Render what a kernel is told by any loader, checked word by word; it holds the fetch token."""
    return str(_with_command_line(_SHELF.get(frozen), context)["cmdline"])


def render_text(text: str, name: str, values: Mapping[str, Any]) -> str:
    """Render one stand-alone text over plain values; `name` is what errors call it."""
    return render_set(Frozen({}, {name: text}), name, values)


def render_set(frozen: Frozen, name: str, values: Mapping[str, Any]) -> str:
    """Render one template of a set of texts over plain values."""
    plain = dict(values)
    check_plain(plain)
    return _SHELF.get(frozen).render(name, plain)


def _with_command_line(compiled: Compiled, context: Context) -> dict[str, Any]:
    values = context.values(secret=False)
    values = {**values, "kernel_line": _words(compiled, KERNEL_ARGS, values)}
    return {**values, "cmdline": _words(compiled, COMMAND_LINE, values)}


def _words(compiled: Compiled, name: str, values: dict[str, Any]) -> str:
    text = compiled.render(name, values)
    try:
        return kernel_words(text)
    except Invalid as error:
        seen = error.seen and mask_tokens(error.seen)
        raise Invalid(error.what, code="BM204", file=name, seen=seen, fix=error.fix) from error


def _run(template: Template, values: dict[str, Any]) -> str:
    token = BUDGET.set(Budget())
    try:
        parts: list[str] = []
        length = 0
        for part in template.root_render_func(_context(template, values)):
            length += len(part)
            if length > MAX_OUTPUT:
                raise Overrun(f"more than {MAX_OUTPUT} characters of output")
            parts.append(part)
        return "".join(parts)
    finally:
        BUDGET.reset(token)


def _context(template: Template, values: Mapping[str, Any]) -> TemplateContext:
    """Make what one rendering looks names up in: `Template.new_context`, which copies it all by way of a chain."""
    sandbox = template.environment
    return TemplateContext(sandbox, {**sandbox.globals, **values}, template.name, template.blocks)


def _place(traceback: TracebackType | None, sandbox: Sandbox) -> tuple[str | None, int | None]:
    """Find the innermost template frame: compiled templates carry themselves in their globals."""
    file: str | None = None
    line: int | None = None
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if template is None and traceback.tb_frame.f_globals.get("environment") is sandbox:
            name = traceback.tb_frame.f_globals.get("name")
            template = sandbox.get_template(name) if name else None
        if template is not None:
            file, line = template.name, template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return file, line


def _undefined(text: str, file: str, line: int | None, source: str, values: Mapping[str, Any]) -> Invalid:
    found = _UNDEFINED.search(text)
    variable = (found["name"] or found["key"]) if found else None
    near = difflib.get_close_matches(variable or "", [name for name in values if name != "vars"], n=1)
    return Invalid(
        f"undefined variable {variable}" if variable else text,
        code="BM203",
        file=file,
        line=line,
        variable=variable,
        seen=source or None,
        fix=f"did you mean {near[0]}?" if near else "set it with --var, or in the profile's vars",
    )


def _lookup(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return ...
        value = value[key]
    return value
