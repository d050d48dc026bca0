"""Escaping filters, one per output language, and the few conversions that templates need.

Owns how a value is written into each of the languages below. Each refuses what
its language cannot carry rather than guess. Deliberately unknown: which variable a value came from; render.py adds
file and line to what is raised here.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from jinja2 import Undefined

from baremetal.errors import Invalid
from baremetal.netboot.bond import parse_bond
from baremetal.netboot.sandbox import Unset
from baremetal.netboot.selector import parse_selector

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_YAML_ESCAPED = re.compile(r"[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_KS_BARE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")
_GRUB_BARE = re.compile(r"[A-Za-z0-9_./:,=+@%-]+\Z")
_NOT_XML = re.compile(r"[\ud800-\udfff\ufffe\uffff]")
_BATCH = re.compile(r"[A-Za-z0-9 ._:/\\@#+=,~$-]*\Z")
_IPXE_WORD = re.compile(r"[!-~]+\Z")
# What most values are: words of harmless characters, one space apart. It needs no look at each word.
_IPXE_PLAIN = re.compile(r"[A-Za-z0-9_./:,=+@%-]+(?: [A-Za-z0-9_./:,=+@%-]+)*\Z")


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if value is None:
        raise Unset
    if isinstance(value, Undefined):
        return str(value)  # raises, naming the variable
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Invalid(f"a {type(value).__name__} cannot be written as one word", code="BM204")
    return str(value)


def _one_line(value: Any, language: str) -> str:
    text = value if type(value) is str else _text(value)
    if _CONTROL.search(text):
        raise Invalid(f"a control character or line break cannot stand in {language}", code="BM204")
    return text


def sh(value: Any) -> str:
    """Quote for a POSIX shell; a list becomes several words."""
    if isinstance(value, (list, tuple)):
        return " ".join(sh(item) for item in value)
    text = _text(value)
    if "\0" in text:
        raise Invalid("a NUL cannot stand in a shell script", code="BM204")
    return shlex.quote(text)


def ks(value: Any) -> str:
    """Quote one word of a kickstart command (pykickstart splits lines as a POSIX shell does)."""
    text = _one_line(value, "a kickstart command")
    if _KS_BARE.match(text) and not text.startswith("%"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def preseed(value: Any) -> str:
    """Check the value of a preseed line: it runs to the end of the line as it stands."""
    text = _one_line(value, "a preseed")
    if text != text.strip() or text.endswith("\\"):
        raise Invalid(
            "a preseed value cannot begin or end with a space or end with a backslash", code="BM204"
        )
    return text


def line(value: Any) -> str:
    """Write one line as it stands, for files inside a quoted here-document, such as authorized_keys."""
    return _one_line(value, "one line")


def yaml(value: Any) -> str:
    """Write any plain value as a YAML flow (JSON is one)."""
    # Not ASCII with surrogate pairs, as JSON would have it: YAML reads those as two characters.
    return _YAML_ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def json_value(value: Any) -> str:
    """Write any plain value as JSON, in ASCII."""
    if isinstance(value, Undefined):
        return str(value)  # raises, naming the variable
    return json.dumps(value, allow_nan=False)


def xml(value: Any) -> str:
    """Write text for an XML element or attribute."""
    text = _one_line(value, "an XML value")
    if _NOT_XML.search(text):
        raise Invalid("this character cannot stand in XML", code="BM204")
    return escape(text, {'"': "&quot;", "'": "&apos;"})


def batch(value: Any) -> str:
    """Check text for a Windows batch file: it has no quoting that holds against %, ^, & and quotes."""
    text = _one_line(value, "a batch file")
    if not _BATCH.match(text):
        raise Invalid("a batch file would not take this literally", code="BM204", seen=text[:80])
    return text


def ipxe(value: Any) -> str:
    """Check words of an iPXE command: it has no quoting, expands ${…} and reads #, ||, && and ; as its own."""
    if type(value) is str and _IPXE_PLAIN.match(value):
        return value
    text = _one_line(value, "an iPXE script")
    words = text.split()
    for word in words:
        if not _IPXE_WORD.match(word) or "${" in word or word[0] == "#" or word in ("||", "&&", ";"):
            raise Invalid("iPXE would not take this word literally", code="BM204", seen=word)
    return " ".join(words)


def grub(value: Any) -> str:
    """Quote for a GRUB script; a list becomes several words. Between single quotes nothing has a meaning."""
    if isinstance(value, (list, tuple)):
        return " ".join(grub(item) for item in value)
    text = _one_line(value, "a GRUB script")
    if _GRUB_BARE.match(text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def pxelinux(value: Any) -> str:
    """Check words of a pxelinux configuration: it has no quoting, and the rest of a line is taken as it stands.

    `initrd=` among the kernel's words would load another one; `^` marks a hot key in a menu.
    """
    text = _one_line(value, "a pxelinux configuration")
    words = text.split()
    for word in words:
        if not _IPXE_WORD.match(word) or word.lower().startswith("initrd=") or word[0] in "#^":
            raise Invalid("pxelinux would not take this word literally", code="BM204", seen=word)
    return " ".join(words)


def netmask(value: Any) -> str:
    """Write an IPv4 prefix length as a dotted mask."""
    return str(ipaddress.IPv4Network((0, int(_text(value)))).netmask)


def bootif(value: Any) -> str:
    """Write a MAC the way pxelinux and installers exchange it: 01-aa-bb-cc-dd-ee-ff."""
    return "01-" + _text(value).lower().replace(":", "-")


def selector(value: Any) -> str:
    """Write a disk selector in the one spelling that the pre stage's shell understands."""
    return parse_selector(_text(value)).shell_form()


def data_url(value: Any) -> str:
    """Write a text as a data: URL, base64, as Ignition takes the contents of files."""
    return "data:;base64," + base64.b64encode(_text(value).encode()).decode()


def bond(value: Any) -> dict[str, Any]:
    """Take a bond variable apart: name, ports, options, mtu."""
    return parse_bond(_text(value)).as_dict()


def url_scheme(value: Any) -> str:
    """Return a URL's scheme."""
    return urlsplit(_text(value)).scheme


def url_host(value: Any) -> str:
    """Return a URL's host and port as written."""
    return urlsplit(_text(value)).netloc


def url_path(value: Any) -> str:
    """Return a URL's path without a trailing slash, at least `/`."""
    return urlsplit(_text(value)).path.rstrip("/") or "/"


# What may end an expression: each of these makes text that is safe in its language.
ESCAPES: Final[Mapping[str, Callable[..., str]]] = {
    "sh": sh,
    "ks": ks,
    "preseed": preseed,
    "line": line,
    "yaml": yaml,
    "json": json_value,
    "xml": xml,
    "batch": batch,
    "ipxe": ipxe,
    "grub": grub,
    "pxelinux": pxelinux,
}
CONVERSIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "netmask": netmask,
    "bootif": bootif,
    "selector": selector,
    "data_url": data_url,
    "bond": bond,
    "url_scheme": url_scheme,
    "url_host": url_host,
    "url_path": url_path,
}
FILTERS: Final[Mapping[str, Callable[..., Any]]] = {**ESCAPES, **CONVERSIONS}
