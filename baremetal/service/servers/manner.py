"""How a server is spoken to: its loader's language, its quirks, and the menu that it asks for.

Deliberately unknown: what it is told, and why.
"""

from __future__ import annotations

from baremetal.errors import Invalid
from baremetal.netboot.dialect import Manner, local_text, san_text
from baremetal.netboot.lookup import Loader
from baremetal.netboot.menu import Menu, menu_for
from baremetal.netboot.san import San
from baremetal.netboot.scripts import LocalBoot, LocalBootMethod
from baremetal.service.servers.enrolment import quirk
from baremetal.store.records import ServerRecord


def local_script(record: ServerRecord | None, reason: str, loader: Loader = Loader.IPXE) -> str:
    """Give the script that leaves a machine to its own disk, in the way that its server wants it."""
    return local_text(manner_of(record, loader), reason, _local_menu(record))


def volume_script(
    record: ServerRecord, san: San, reason: str, base: str, loader: Loader = Loader.IPXE
) -> str:
    """Give the script that sends a diskless machine to its volume."""
    return san_text(manner_of(record, loader), san, reason, base, _local_menu(record))


def manner_of(record: ServerRecord | None, loader: Loader, nic: str = "") -> Manner:
    """Say how a server is spoken to by a loader, after its quirks. `nic`: the MAC that asks, if it told one."""
    if record is None:
        return Manner(loader)
    facts = record.facts
    word, _, url = (quirk(facts, "local_boot") or "").partition(":")
    local = LocalBoot(LocalBootMethod(word) if word else None, url or None)
    return Manner(loader, local, quirk(facts, "grub"), quirk(facts, "grub_media"), nic)


def _local_menu(record: ServerRecord | None) -> Menu | None:
    if record is None:
        return None
    try:
        return menu_for(record.facts.vars, record.life.name, "Boot as usual")
    except Invalid:
        return None
