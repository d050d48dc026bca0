"""The boot loaders' own scripts: iPXE, GRUB, pxelinux. What a person overlooks and a machine stops at.

Owns the checks: unknown commands, labels that are jumped to and do not exist, what is opened and not closed, and the
faults of boot files that were published as examples (seeds S2). Deliberately unknown: who renders them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from baremetal.netboot.lint.finding import Finding


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IPXE = _words(
    """
    #!ipxe autoboot boot chain clear colour config console cpair cpuid dhcp echo exit fcstat fcels form goto
    help ibstat ifclose ifconf iflinkwait ifopen ifstat imgargs imgdecrypt imgexec imgextract imgfetch
    imgfree imgload imgmem imgselect imgstat imgtrust imgverify inc initrd iseq isset item kernel login
    lotest menu module netboot neighbour nslookup nstat ntp params param pciscan pci ping poweroff present
    profstat prompt read reboot route sanboot sanhook sanunhook set shell shim show sleep startpxe stoppxe
    sync time usbscan vcreate vdestroy fdt certstat certstore certfree digest md5sum sha1sum sha256sum
    sha512sum choose ipstat gdbstub
    """
)
_GRUB = _words(
    """
    set unset export source configfile normal menuentry submenu if elif else fi for do done while until
    function return break continue echo sleep true false test [ insmod rmmod search search.file
    search.fs_uuid search.fs_label linux linux16 linuxefi initrd initrd16 initrdefi chainloader boot exit
    halt reboot regexp net_bootp net_dhcp net_add_addr net_get_dhcp_option net_ls_addr net_nslookup
    terminal_input terminal_output serial terminal loadfont background_color gfxmode probe cat ls load_env
    save_env loopback multiboot multiboot2 module module2 clear eval smbios getenv fwsetup password
    password_pbkdf2 shift setparams cmosclean videoinfo nativedisk
    """
)
_PXELINUX = _words(
    """
    default prompt timeout totaltimeout ontimeout onerror label menu kernel linux boot bss pxe fdimage
    comboot com32 config localboot append initrd ipappend sysappend text endtext help display say implicit
    allowoptions noescape nocomplete serial console font kbdmap ui path include noeject endmenu font f1 f2
    f3 f4 f5 f6 f7 f8 f9 f10 f11 f12
    """
)
_THEN = frozenset(("then", "else", "elif", "do"))
_CLOSES = {"fi": ("if",), "done": ("for", "while", "until"), "}": ("{",)}
_WORDS = re.compile(r"(?:^|\s+)(?:\|\||&&|;)(?=\s|$)")  # iPXE takes these as words of their own only


def check_ipxe(text: str, file: str) -> Iterator[Finding]:
    """Check an iPXE script (ipxe.org/scripting)."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("#!ipxe"):
        yield Finding.problem(file, 1, "an iPXE script begins with #!ipxe, or it is not run")
    labels = [line.split()[0] for line in lines if line.startswith(":") and len(line) > 1]
    for label in {label for label in labels if labels.count(label) > 1}:
        yield Finding.problem(file, lines.index(label) + 1, f"the label {label} is there twice")
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(("#", ":")):
            continue
        if _unclosed(line):
            yield Finding.problem(file, number, "a ${ that is not closed")
        for command in filter(None, _WORDS.split(line.strip())):
            words = command.split()
            if words[0] not in _IPXE and not words[0].startswith("${"):
                yield Finding.problem(file, number, f"iPXE has no command {words[0]}{_near(words[0], _IPXE)}")
            if (
                words[0] == "goto"
                and len(words) > 1
                and "${" not in words[1]
                and f":{words[1]}" not in labels
            ):
                yield Finding.problem(file, number, f"goto {words[1]}: there is no such label")


def check_grub(text: str, file: str) -> Iterator[Finding]:
    """Check a GRUB script, as far as its words go (GRUB manual, "Shell-like scripting")."""
    known = _GRUB | set(re.findall(r"^\s*function\s+(\w+)", text, re.M))
    opened: list[tuple[str, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        plain = re.sub(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\$\{[^}]*\}", "x", line)
        plain = re.sub(r"(^|\s)#.*", "", plain)
        if "'" in plain or '"' in plain:
            yield Finding.problem(file, number, "a quote that is not closed")
            continue
        at_command = True
        for token in re.findall(r"&&|\|\||[;{}]|[^\s;{}]+", plain):
            if token in _CLOSES:
                if not opened or opened[-1][0] not in _CLOSES[token]:
                    yield Finding.problem(file, number, f"{token} closes nothing that is open")
                else:
                    opened.pop()
                at_command = False
            elif token == "{" or (at_command and token in ("if", "for", "while", "until")):
                opened.append((token, number))
                at_command = token != "for"
            elif token in (";", "&&", "||", "!") or (at_command and token in _THEN):
                at_command = True
            elif at_command:
                at_command = False
                if re.match(r"\w+=", token):
                    yield Finding.problem(file, number, f"GRUB sets variables by: set {token}")
                elif token not in known and not token.startswith(("$", "-")):
                    message = f"GRUB has no command {token}{_near(token, frozenset(known))}"
                    yield Finding.problem(file, number, message)
    for word, number in opened:
        yield Finding.problem(file, number, f"{word} is opened here and never closed")


def check_pxelinux(text: str, file: str) -> Iterator[Finding]:
    """Check a pxelinux configuration (wiki.syslinux.org, Config)."""
    labels: dict[str, int] = {}
    default: tuple[str, int] | None = None
    append: dict[str, tuple[str, int]] = {}
    ipappend: dict[str, int] = {}
    initrds: set[str] = set()
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip().split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        keyword, value = words[0].lower(), words[1].strip() if len(words) > 1 else ""
        if keyword not in _PXELINUX:
            yield Finding.problem(
                file, number, f"pxelinux has no directive {words[0]}{_near(keyword, _PXELINUX)}"
            )
        elif keyword == "label":
            if value.lower() in labels:
                yield Finding.problem(file, number, f"the label {value} is there twice")
            current = value.lower()
            labels[current] = number
        elif keyword in ("default", "ontimeout", "onerror"):
            default = (value, number) if keyword == "default" else default
        elif keyword == "append":
            append[current] = (value, number)
        elif keyword == "initrd":
            initrds.add(current)
        elif keyword in ("ipappend", "sysappend"):
            ipappend[current] = int(value, 0) if value.isalnum() and value[0].isdigit() else 0
    if (
        default is not None
        and "." not in default[0].split(maxsplit=1)[0]
        and default[0].lower() not in labels
    ):
        known = ", ".join(labels) or "none"
        message = f"default {default[0]} names a label that does not exist (there are: {known})"
        yield Finding.problem(file, default[1], message)
    for label, (value, number) in append.items():
        if (
            re.search(r"(^|\s)ksdevice=bootif\b", value, re.I)
            and not ipappend.get(label, ipappend.get("", 0)) & 2
        ):
            message = "ksdevice=bootif without IPAPPEND 2: the kernel is not told which NIC netbooted"
            yield Finding.problem(file, number, message)
        has_initrd = "initrd=" in value or label in initrds
        if label and not has_initrd and re.search(r"(^|\s)(inst\.)?ks=", value):
            yield Finding.doubt(file, number, f"{label} starts an installer without an initrd")


def _unclosed(line: str) -> bool:
    depth = 0
    for part in re.findall(r"\$\{|\}", line):
        if part == "${":
            depth += 1
        elif depth:
            depth -= 1
    return depth > 0


def _near(word: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
