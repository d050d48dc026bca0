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

AS_USUAL = "Boot as usual"


def local_script(record: ServerRecord | None, reason: str, loader: Loader = Loader.IPXE) -> str:
    """Give the script that leaves a machine to its own disk, in the way that its server wants it."""
    return local_text(manner_of(record, loader), reason, _menu(record, AS_USUAL))


def volume_script(
    record: ServerRecord, san: San, reason: str, base: str, loader: Loader = Loader.IPXE
) -> str:
    """Give the script that sends a diskless machine to its volume."""
    others = tuple(other.system for other in san.others)
    booted = f"Boot {san.system}" if others else AS_USUAL
    return san_text(manner_of(record, loader), san, reason, base, _menu(record, booted, others))


def manner_of(record: ServerRecord | None, loader: Loader, nic: str = "") -> Manner:
    """Say how a server is spoken to by a loader, after its quirks. `nic`: the MAC that asks, if it told one."""
    if record is None:
        return Manner(loader)
    facts = record.facts
    word, _, url = (quirk(facts, "local_boot") or "").partition(":")
    local = LocalBoot(LocalBootMethod(word) if word else None, url or None)
    return Manner(loader, local, quirk(facts, "grub"), quirk(facts, "grub_media"), nic)


def _menu(record: ServerRecord | None, answer: str, systems: tuple[str, ...] = ()) -> Menu | None:
    if record is None:
        return None
    try:
        return menu_for(record.facts.vars, record.life.name, answer, systems)
    except Invalid:
        return None
