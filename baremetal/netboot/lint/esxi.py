"""ESXi's two files: the kickstart of its installer and the boot.cfg of its loader.

Owns reading a medium's boot.cfg, whose kernel and modules a run's own must repeat, and the checks of both. Deliberately
unknown: where media are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from baremetal.netboot.lint.finding import Finding


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COMMANDS = _words(
    """
    accepteula vmaccepteula autopart clearpart dryrun esxlocation include install installorupgrade keyboard
    network paranoid part partition reboot rootpw serialnum vmserialnum upgrade usb
    """
)
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*\Z")


def read_boot_config(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the kernel and the modules that a boot.cfg names, without leading slashes; empty where it has none."""
    kernel = ""
    modules: tuple[str, ...] = ()
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip().lower() == "kernel":
            kernel = value.strip().lstrip("/")
        elif key.strip().lower() == "modules":
            modules = tuple(name.strip().lstrip("/") for name in value.split("---") if name.strip())
    if not kernel or not all(_MODULE.match(name) for name in (kernel, *modules)):
        return "", ()
    return kernel, modules


def boot_config_rules(text: str, file: str) -> Iterator[Finding]:
    """Check a rendered boot.cfg."""
    keys = {line.partition("=")[0]: line.partition("=")[2] for line in text.splitlines() if "=" in line}
    for key in ("kernel", "kernelopt", "modules", "prefix"):
        if not keys.get(key):
            yield Finding.problem(file, None, f"no {key}=: mboot would start nothing")
    if " ks=" not in f" {keys.get('kernelopt', '')}":
        yield Finding.problem(file, None, "kernelopt names no ks=: the installer would ask everything")


def esxi_rules(text: str, file: str) -> Iterator[Finding]:
    """Check the commands of a rendered ESXi kickstart; its scripts begin at the first section."""
    commands: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("%"):
            break
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        commands[words[0]] = number
        if words[0] not in _COMMANDS:
            yield Finding.problem(file, number, f"ESXi's installer has no command {words[0]}")
        if words[0] in ("install", "installorupgrade", "upgrade") and not any(
            re.match(r"--disk=.", word) for word in words
        ):
            message = f"{words[0]} without --disk= takes the first disk there is: name the disk"
            yield Finding.problem(file, number, message)
        if words[0] == "clearpart" and not any(word.startswith("--drives=") for word in words):
            message = "clearpart without --drives= would clear every disk of the machine: name the disk"
            yield Finding.problem(file, number, message)
        if words[0] == "rootpw" and "--iscrypted" not in words:
            yield Finding.problem(file, number, "a password in the open: give a hash, by rootpw --iscrypted")
    for wanted in (("vmaccepteula", "accepteula"), ("install", "installorupgrade"), ("rootpw",)):
        if not set(wanted) & set(commands):
            yield Finding.problem(file, None, f"no {wanted[0]}: the installer would stop and ask")
    if "reboot" not in commands:
        yield Finding.doubt(file, None, "no reboot: the installer will wait at its end")
