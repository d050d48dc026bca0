"""Names that machines ask for over TFTP: made plain, or refused, before anything looks them up.

Owns what a name may look like and which names are asked for in passing, so that nobody hunts for them when they are
missing. Deliberately unknown: what a name stands for; no file system is touched here.
"""

from __future__ import annotations

import re

LONGEST = 255
"""In bytes, before anything is made plain."""


class BadName(ValueError):
    """A name that is refused; says why."""


def plain_name(raw: bytes) -> str:
    r"""Write a name as a relative path with forward slashes: `\EFI\BOOT\x.efi` becomes `EFI/BOOT/x.efi`.

    A leading slash means nothing: there is one name space, and it is the resolver's. Raises BadName.
    """
    # Firmwares that take the file name from DHCP option 67 send its terminator 0xFF along with it.
    raw = raw.rstrip(b"\xff")
    if len(raw) > LONGEST:
        raise BadName("the name is too long")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName("the name is not UTF-8") from None
    if not text.isprintable():  # control characters, and those that turn the direction of writing round
        raise BadName("the name has characters that cannot be shown")
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadName("the name leads upwards")
    if not parts:
        raise BadName("the name is empty")
    return "/".join(parts)


_HARMLESS = re.compile(
    r"""(?:^|/)(?:
        revocations[^/]*\.efi                             # shim: updates of what it must not start
      | shim_certificate[^/]*\.efi                        # shim: certificates beside its own
      | [^/]+\.lst                                        # GRUB: command, fs, crypto, terminal, …
      | locale/[^/]+\.g?mo(?:\.gz)? | [^/]+\.pf2          # GRUB: translations, fonts
      | autoexec\.ipxe                                    # iPXE: a script that nobody has to have
      | (?:pxelinux\.cfg/|grub\.cfg-)(?:                  # the first names of a lookup; the last one is missed
            [0-9a-f]{1,2}(?:-[0-9a-f]{2}){6}              #   by hardware type and MAC
          | [0-9A-F]{1,8}                                 #   by address, ever shorter
          | [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}   #   by UUID
        )
    )$""",
    re.VERBOSE | re.IGNORECASE,
)


def is_harmless(name: str) -> bool:
    """Say whether loaders ask for this name in passing and go on without it: *not found* is then no trouble."""
    return _HARMLESS.search(name) is not None
