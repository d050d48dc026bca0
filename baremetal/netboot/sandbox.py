"""The template language we allow: Jinja2's immutable sandbox, strict about undefined, capped in work and memory.

Owns what an expression may do, and how much. The stock sandbox stops template injection, but renders 500 MB
from one expression; here every loop turn, macro call and value grown is paid from a budget, filters and string
methods are an allow-list, and nothing can be included whose name is not written in the template.
Deliberately unknown: where templates come from and what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as STOCK_FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_OUTPUT: Final = 256 * 1024  # characters of one rendered file
MAX_VALUE: Final = 64 * 1024  # characters of one string made by an expression
MAX_ITEMS: Final = 4096  # of one list made by an expression, and of range()
MAX_WORK: Final = 4 * 1024 * 1024  # characters printed, grown and looped over in one rendering
MAX_BITS: Final = 4096  # of one integer made by an expression
_TURN: Final = 32  # what one loop turn or call costs beside its text

_METHODS: Final[Mapping[type, frozenset[str]]] = {
    str: frozenset(
        [
            "split",
            "rsplit",
            "splitlines",
            "strip",
            "lstrip",
            "rstrip",
            "startswith",
            "endswith",
            "removeprefix",
            "removesuffix",
            "lower",
            "upper",
            "title",
            "capitalize",
            "find",
            "rfind",
            "count",
            "partition",
            "rpartition",
            "isdigit",
            "isalpha",
            "isalnum",
        ]
    ),
    dict: frozenset(("items", "keys", "values", "get")),
    list: frozenset(("index", "count")),
    tuple: frozenset(("index", "count")),
    int: frozenset(),
    float: frozenset(),
    bool: frozenset(),
    type(None): frozenset(),
}
_FILTERS: Final = [
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "int",
    "items",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "string",
    "sum",
    "title",
    "trim",
    "unique",
    "upper",
]


class Overrun(Exception):
    """A template asked for more work, memory or output than one answer file needs."""


class Unset(Exception):
    """A template printed a value that exists but is not set (None)."""


class Refusal(Exception):
    """A template said itself, by refuse("…"), that it cannot do what its variables ask."""


class Budget:
    """What one rendering may still spend."""

    __slots__ = ("left",)

    def __init__(self, work: int = MAX_WORK) -> None:
        self.left = work

    def spend(self, amount: int) -> None:
        """Pay for some work. Raises Overrun when nothing is left."""
        self.left -= amount
        if self.left < 0:
            raise Overrun("the template does more work than an answer file can need")


BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


def _spend(amount: int) -> None:
    budget = BUDGET.get()
    if budget is not None:  # None while constants are folded at compile time
        budget.spend(amount)


def bounded(value: Any) -> Any:
    """Return a value made by an expression, paid for. Raises Overrun when it is larger than any one value may be."""
    if isinstance(value, str):
        if len(value) > MAX_VALUE:
            raise Overrun(f"a string of more than {MAX_VALUE} characters")
        _spend(len(value))
    elif isinstance(value, (list, tuple, dict)):
        if len(value) > MAX_ITEMS:
            raise Overrun(f"a list of more than {MAX_ITEMS} items")
        _spend(len(value))
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise Overrun(f"a number of more than {MAX_BITS} bits")
    return value


def _printed(value: Any) -> str:
    """Turn what `{{ … }}` holds into text. Only text and numbers print: anything else is a mistake in the template."""
    if type(value) is str:  # nearly always: every filter gives one
        budget = BUDGET.get()
        if budget is not None:
            budget.spend(len(value))
        return value
    if isinstance(value, str):
        text = value
    elif value is None:
        raise Unset
    elif isinstance(value, bool):
        raise TypeError(
            "a yes/no value is printed: say which words stand for it, as in {{ 'on' if x else 'off' }}"
        )
    elif isinstance(value, (int, float)):
        text = str(value)
    elif isinstance(value, Undefined):
        text = str(value)  # raises: strict
    else:
        raise TypeError(f"a {type(value).__name__} is printed: use a filter such as join(',')")
    _spend(len(text))
    return text


@pass_context  # which also keeps the compiler from folding it away as a constant
def _charge(_: Context, __: str, amount: int) -> str:
    _spend(amount)
    return ""


def _concat(first: Any, *rest: Any) -> str:
    return str(bounded("".join(_printed(part) for part in (first, *rest))))


def _join(value: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    parts = [_printed(item[attribute] if attribute else item) for item in value]
    if sum(map(len, parts)) + len(separator) * len(parts) > MAX_VALUE:
        raise Overrun(f"a string of more than {MAX_VALUE} characters")
    return separator.join(parts)


def _replace(value: str, old: str, new: str) -> str:
    text = _printed(value)
    if len(text) + text.count(old) * len(new) > MAX_VALUE:
        raise Overrun(f"a string of more than {MAX_VALUE} characters")
    return text.replace(old, new)


def _indent(value: str, width: int = 4, first: bool = False) -> str:
    if not 0 <= width <= 64:
        raise Overrun("an indent of more than 64")
    lines = _printed(value).splitlines(keepends=True)
    pad = " " * width
    return str(bounded("".join((pad if at or first else "") + line for at, line in enumerate(lines))))


def _range(*limits: int) -> range:
    made = range(*limits)
    if len(made) > MAX_ITEMS:
        raise Overrun(f"range() of more than {MAX_ITEMS}")
    return made


def _refuse(reason: str) -> str:
    """Let a template say that it cannot do what the variables ask."""
    raise Refusal(reason)


class _Undefined(StrictUndefined):
    __slots__ = ()


class _Meter(NodeTransformer):
    """Puts a charge at the head of every loop and macro body and turns `~` into a bounded call."""

    def _metered(self, node: Any) -> Any:
        node = self.generic_visit(node)
        cost = _TURN + sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        charge = nodes.Filter(
            nodes.Const(""), " charge", [nodes.Const(cost)], [], None, None, lineno=node.lineno
        )
        node.body.insert(0, nodes.Output([charge], lineno=node.lineno).set_environment(node.environment))
        return node

    visit_For = visit_Macro = visit_CallBlock = _metered

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(node.nodes[0], " concat", node.nodes[1:], [], None, None, lineno=node.lineno)

    def _named(self, node: Any) -> Any:
        if not isinstance(node.template, nodes.Const) or not isinstance(node.template.value, str):
            raise TemplateSyntaxError("the name of an included template must be written out", node.lineno)
        return self.generic_visit(node)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _named


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that every template of ours is compiled and run in."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        super().__init__(
            undefined=_Undefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
            auto_reload=False,
            finalize=_printed,
            **options,
        )
        self.filters = {name: STOCK_FILTERS[name] for name in _FILTERS}
        self.filters |= {"join": _join, "replace": _replace, "indent": _indent}
        self.filters |= {" charge": _charge, " concat": _concat, **filters}
        self.globals = {
            "range": _range,
            "namespace": self.globals["namespace"],
            "dict": dict,
            "refuse": _refuse,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        try:
            _Meter().visit(tree)
        except TemplateSyntaxError as error:
            error.name, error.source = name, source
            raise
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Prefer keys to methods, so that a variable called `items` or `get` can be read."""
        if type(obj) is dict:
            try:
                return obj[attribute]
            except KeyError:
                pass
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind in type(obj).__mro__:
            if kind in _METHODS:
                return attr in _METHODS[kind]
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting with % is not allowed in a template: use ~")
        if operator == "*":
            self._check_product(left, right)
        if operator == "**" and not (isinstance(left, int) and isinstance(right, int) and abs(right) <= 64):
            raise Overrun("** takes whole numbers and powers up to 64")
        return bounded(super().call_binop(context, operator, left, right))

    @staticmethod
    def _check_product(left: Any, right: Any) -> None:
        for value, times in ((left, right), (right, left)):
            if (
                isinstance(value, (str, list, tuple))
                and isinstance(times, int)
                and len(value) * times > MAX_ITEMS
            ):
                raise Overrun(f"a value repeated to more than {MAX_ITEMS} items")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _spend(_TURN)
        return bounded(super().call(context, obj, *args, **kwargs))
