"""What a template sees: plain values from an allow-list, never objects (I25).

Owns the shape of that context and the merge of variables (defaults, then profile, server, deploy). The boot
script's context has no call-back URL at all: the call-back token stands only in answer files (I23, I24).
Deliberately unknown: where the values come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from baremetal.errors import Invalid
from baremetal.netboot.profile import Profile
from baremetal.netboot.san import San
from baremetal.netboot.variables import DEFAULTS, validate_variables

_DEPTH = 8


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server as templates see it. `boot_mac` is the NIC that netboots; MACs in lower-case colon form."""

    id: str
    name: str
    macs: tuple[str, ...]
    boot_mac: str
    uuid: str = ""
    serial: str = ""
    arch: str = "x86_64"
    boot_mode: str = "bios"


@dataclass(frozen=True, slots=True)
class Urls:
    """Where this run's machine finds us, without trailing slashes. `base` is the boot app's public URL."""

    base: str
    media: str
    answer: str
    callback: str

    @classmethod
    def of(cls, base: str, profile_media: str, fetch_token: str, callback_token: str) -> Urls:
        """Lay the URLs of one run out as the boot app serves them."""
        base = base.rstrip("/")
        return cls(
            base,
            f"{base}/media/{profile_media}",
            f"{base}/answer/{fetch_token}",
            f"{base}/callback/{callback_token}",
        )


@dataclass(frozen=True, slots=True)
class Context:
    """Everything one rendering may know. `variables` are already merged."""

    server: ServerFacts
    run: int
    profile: Profile
    variables: Mapping[str, Any]
    urls: Urls
    proof_key: str = ""
    first_boot: bool = True
    inventory: Mapping[str, Any] = field(default_factory=dict)
    san: San | None = None
    volume: Mapping[str, Any] = field(default_factory=dict)
    _made: dict[bool, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    def with_volume(self, san: San) -> Context:
        """Return it as it is for a machine whose system goes onto this volume."""
        return replace(self, san=san, _made={})

    def values(self, *, secret: bool = True) -> dict[str, Any]:
        """Return the template's names and plain values; without `secret` there is no call-back URL in them."""
        if secret not in self._made:
            self._made[secret] = self._make(secret)
        return self._made[secret]

    def _make(self, secret: bool) -> dict[str, Any]:
        server, urls = self.server, self.urls
        merged = dict(self.variables)
        merged["hostname"] = merged.get("hostname") or server.name
        addresses = {"base": urls.base, "media": urls.media, "answer": urls.answer}
        if secret:
            addresses |= {"callback": urls.callback, "log": f"{urls.callback}/log"}
        values = {
            **{name: value for name, value in merged.items() if name not in RESERVED},
            "vars": merged,
            "server": {
                "id": server.id,
                "name": server.name,
                "macs": list(server.macs),
                "boot_mac": server.boot_mac,
                "uuid": server.uuid,
                "serial": server.serial,
                "arch": server.arch,
                "boot_mode": server.boot_mode,
                "ip": merged.get("ip"),
                "prefix": merged.get("prefix"),
            },
            "run": {"id": f"{server.id}/{self.run}", "number": self.run},
            "profile": {
                "name": self.profile.name,
                "family": self.profile.family.value,
                "kernel": self.profile.kernel,
                "initrd": self.profile.initrd,
                "main_file": self.profile.main_file,
                "vars": dict(self.profile.variables),
            },
            "urls": addresses,
            "proof_key": self.proof_key,
            "proof_command": PROOF_COMMAND,
            "first_boot": self.first_boot,
            "inventory": {**_UNSEEN, **self.inventory},
            "san": self.san.as_dict() if self.san is not None else None,
            "volume": dict(self.volume) or None,
        }
        check_plain(values)
        return values


# What the key of the proof may do on a deployed system, and all that it may: say which run made it, and shut down or
# restart in order (S4-17). sshd and dropbear hand it to root's shell; it stands in `"`, so there is none in it.
PROOF_COMMAND = (
    "case $SSH_ORIGINAL_COMMAND in poweroff|reboot) echo $SSH_ORIGINAL_COMMAND; "
    "{ sleep 1; $SSH_ORIGINAL_COMMAND; } >/dev/null 2>&1 & ;; *) cat /etc/baremetal/run; esac"
)
RESERVED = frozenset(
    (
        "server",
        "run",
        "vars",
        "profile",
        "urls",
        "proof_key",
        "proof_command",
        "first_boot",
        "kernel_line",
        "cmdline",
        "inventory",
        "san",
        "volume",
    )
)
# The names are there before the first inspection too, so that a template can ask {% if inventory.known %}.
_UNSEEN: Mapping[str, Any] = {
    "known": False,
    **dict.fromkeys(("cpus", "cpu", "arch", "memory_mib", "bmc_address", "vendor", "product")),
    "disks": [],
    "nics": [],
}


def merge_variables(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of variables, later ones winning, over the defaults. Raises Invalid naming the variable."""
    merged = dict(DEFAULTS)
    for layer in layers:
        merged |= validate_variables(layer)
    return merged


_LEAVES = frozenset({str, int, bool, float, type(None)})


def check_plain(value: Any, path: str = "", depth: int = 0) -> None:
    """Raise Invalid unless a value is made of text, numbers, yes/no, None, lists and dicts only, to the last leaf."""
    kind = type(value)
    if kind in _LEAVES:
        return
    if depth >= _DEPTH:
        raise Invalid(f"{path}: nested more than {_DEPTH} deep", variable=path)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise Invalid(f"{path}: a key is not text", variable=path)
            if type(item) not in _LEAVES:  # asked here too: most values are leaves, and need no path
                check_plain(item, f"{path}.{key}" if path else key, depth + 1)
    elif kind is list:
        for at, item in enumerate(value):
            if type(item) not in _LEAVES:
                check_plain(item, f"{path}[{at}]", depth + 1)
    else:
        raise Invalid(f"{path} is a {kind.__name__}: templates see plain values only", variable=path)
