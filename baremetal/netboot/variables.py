"""The variables that every shipped template understands: their forms, their defaults, and a refusal of anything else.

Owns the check at input; escaping at output is filters.py. Values come as text from `--var` and CSV columns, or as
TOML and JSON values; both are brought to one form. Operators may add variables of their own, which are only
checked for being plain, printable and not too long. Deliberately unknown: which profile or server they are for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from baremetal.errors import Invalid
from baremetal.netboot.bond import parse_bond
from baremetal.netboot.selector import parse_selector

# None means: not set. A template asks `{% if gateway %}`; printing an unset variable is an error.
DEFAULTS: Final[Mapping[str, Any]] = {
    "hostname": None,  # the server's name
    "domain": None,
    "ip": None,
    "prefix": None,
    "gateway": None,
    "dns": [],
    "ntp": [],
    "vlan": None,
    "bond": None,
    "disk": "auto",
    "kernel_args": None,
    "console": None,
    "timezone": "UTC",
    "locale": "en_US.UTF-8",
    "keyboard": "us",
    "mirror": None,
    "ssh_authorized_keys": [],
    "menu_timeout_s": None,
    "menu_default": None,
    "notify_url": None,
}
MAX_VARIABLES: Final = 256
MAX_TEXT: Final = 4096

_OWN = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_KERNEL_ARG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*(=[A-Za-z0-9_.,:;/@%+=~!?&()\[\]*^-]*)?\Z")
_CONSOLE = re.compile(r"tty[A-Za-z]{0,6}[0-9]{0,3}(,[0-9]{3,7}[noe]?[5-8]?r?)?\Z")
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,32}){0,2}\Z")
_LOCALE = re.compile(r"(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)(\.[A-Za-z0-9-]{1,16})?(@[a-z]{1,16})?\Z")
_KEYBOARD = re.compile(r"[a-z][a-z0-9_-]{1,31}\Z")
_SSH_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9-]+@openssh\.com) "
    r"[A-Za-z0-9+/]{40,4096}={0,3}( [ -~]{1,200})?\Z"
)
_MENU_DEFAULT = re.compile(r"(answer|local)\Z")
_URL = re.compile(r"[a-z]+://[A-Za-z0-9._~:/@%+,=\[\]-]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def validate_variables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check one layer of variables and bring each to its one form. Raises Invalid naming the variable."""
    if len(values) > MAX_VARIABLES:
        raise Invalid(f"more than {MAX_VARIABLES} variables")
    checked: dict[str, Any] = {}
    for name, value in values.items():
        checked[name] = validate_variable(name, value)
    ip = checked.get("ip")
    if isinstance(ip, str) and "/" in ip:
        checked["ip"], _, prefix = ip.partition("/")
        checked["prefix"] = int(prefix)
    return checked


def validate_variable(name: str, value: Any) -> Any:
    """Check one variable; an empty text means not set. Raises Invalid naming it and what it may be."""
    if not isinstance(name, str) or not _OWN.match(name):
        raise Invalid(f"not a variable name: {str(name)[:64]!r}", fix="use a-z, 0-9 and underscore")
    form = _FORMS.get(name)
    if form is None:
        return _own(name, value, 0)
    if value is None or value == "" or value == []:
        return DEFAULTS[name]
    _no_control(name, value)
    try:
        return form(value)
    except Invalid as error:
        raise Invalid(error.what, variable=name, seen=error.seen or _shown(value), fix=error.fix) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise Invalid(
            f"{name} cannot be this", variable=name, seen=_shown(value), fix=_HELP.get(name)
        ) from error


def normal_mac(text: str) -> str:
    """Bring a MAC to lower-case colon form. Raises Invalid; multicast and all-zero addresses are no NIC's."""
    mac = text.strip().lower().replace("-", ":")
    if re.fullmatch(r"[0-9a-f]{12}", mac):
        mac = ":".join(mac[at : at + 2] for at in range(0, 12, 2))
    if not _MAC.match(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise Invalid(
            "not a MAC address", variable="mac", seen=_shown(text), fix="write it as 52:54:00:12:34:56"
        )
    return mac


def normal_uuid(text: str) -> str:
    """Bring a system UUID to lower case. Raises Invalid."""
    uuid = text.strip().lower()
    if not _UUID.match(uuid):
        raise Invalid("not a UUID", variable="uuid", seen=_shown(text), fix="write it as dmidecode prints it")
    return uuid


def host_name(text: str) -> str:
    """Check a host name (RFC 1123). Raises Invalid."""
    if len(text) > 253 or not _HOST.match(text) or text.replace(".", "").isdigit():
        raise Invalid(
            "not a host name", seen=_shown(text), fix="letters, digits and hyphens between dots (RFC 1123)"
        )
    return text


def kernel_words(text: str) -> str:
    """Check kernel arguments: words that no loader, shell or installer would read as something else. Raises Invalid."""
    words = text.split()
    for word in words:
        if not _KERNEL_ARG.match(word):
            raise Invalid(
                "not a kernel argument",
                seen=_shown(word),
                fix="arguments look like name or name=value, without quotes, spaces, $, braces, backslashes",
            )
    return " ".join(words)


def _form(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not pattern.match(value):
            raise Invalid(f"not {what}")
        return value

    return check


def _address(value: Any) -> str:
    return str(ipaddress.ip_address(value.strip()))


def _ip(value: Any) -> str:
    if "/" not in value:
        return _address(value)
    interface = ipaddress.ip_interface(value.strip())
    return f"{interface.ip}/{interface.network.prefixlen}"


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not (isinstance(value, int) or re.fullmatch(r"[0-9]{1,6}", value)):
            raise Invalid("not a number")
        if not low <= int(value) <= high:
            raise Invalid(f"not a number from {low} to {high}")
        return int(value)

    return check


def _host_or_address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return host_name(value)


def _each(check: Callable[[Any], str], separators: str) -> Callable[[Any], list[str]]:
    def check_all(value: Any) -> list[str]:
        items = re.split(separators, value) if isinstance(value, str) else list(value)
        return [check(item.strip()) for item in items if item.strip()]

    return check_all


def _url(value: Any) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https", "ftp") or not parts.hostname or not _URL.match(value):
        raise Invalid("not an http, https or ftp URL")
    if "@" in parts.netloc:
        raise Invalid("a URL with a password would show it to every machine on the segment")
    return str(value).rstrip("/")


def _web_url(value: Any) -> str:
    url = _url(value)
    if not url.startswith(("http://", "https://")):
        raise Invalid("not an http or https URL")
    return url


def _disk(value: Any) -> str:
    parse_selector(value)
    return str(value)


_FORMS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "hostname": host_name,
    "domain": host_name,
    "ip": _ip,
    "prefix": _number(1, 128),
    "gateway": _address,
    "dns": _each(_address, r"[,\s]+"),
    "ntp": _each(_host_or_address, r"[,\s]+"),
    "vlan": _number(1, 4094),
    "bond": lambda value: str(parse_bond(value)),
    "disk": _disk,
    "kernel_args": kernel_words,
    "console": _form(_CONSOLE, "a console such as ttyS0,115200n8"),
    "timezone": _form(_TIMEZONE, "a time zone such as Europe/Rome"),
    "locale": _form(_LOCALE, "a locale such as en_US.UTF-8"),
    "keyboard": _form(_KEYBOARD, "a keyboard such as us or de-latin1"),
    "mirror": _url,
    "ssh_authorized_keys": _each(
        _form(_SSH_KEY, "an SSH public key (one line, no options before it)"), r"[\n]+"
    ),
    "menu_timeout_s": _number(1, 3600),
    "menu_default": _form(_MENU_DEFAULT, "answer or local"),
    "notify_url": _web_url,
}
_HELP: Final[Mapping[str, str]] = {
    "ip": "an address, or address/prefix",
    "gateway": "an address",
    "dns": "addresses, separated by commas",
    "ntp": "host names or addresses, separated by commas",
}


def _no_control(name: str, value: Any) -> None:
    for item in value if isinstance(value, (list, tuple)) else (value,):
        text = item.strip("\n") if isinstance(item, str) and name == "ssh_authorized_keys" else item
        if isinstance(text, str):
            if len(text) > MAX_TEXT * (16 if name == "ssh_authorized_keys" else 1):
                raise Invalid(f"{name} is too long", variable=name)
            if _CONTROL.search(text.replace("\n", "") if name == "ssh_authorized_keys" else text):
                raise Invalid(f"{name} has a control character in it", variable=name)


def _own(name: str, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise Invalid(f"{name} is longer than {MAX_TEXT} characters", variable=name)
        if _CONTROL.search(value):
            raise Invalid(f"{name} has a control character in it", variable=name)
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth < 4 and isinstance(value, (list, tuple)) and len(value) <= MAX_VARIABLES:
        return [_own(name, item, depth + 1) for item in value]
    if depth < 4 and isinstance(value, Mapping) and len(value) <= MAX_VARIABLES:
        return {str(_own(name, key, depth + 1)): _own(name, item, depth + 1) for key, item in value.items()}
    raise Invalid(f"{name} is a {type(value).__name__}: use text, numbers, yes/no, lists", variable=name)


def _shown(value: Any) -> str:
    text = _CONTROL.sub("?", str(value))
    return text if len(text) <= 80 else text[:77] + "…"
