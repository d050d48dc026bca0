"""What the verbs beside deploy and rebuild ask and freeze: inspections, wipes, rescues and the way back from one.

Owns which RAM system a verb boots, and the checks that need a profile. Deliberately unknown: what the verbs do
(`lifecycle`), and where a server may be asked (`deploys.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from baremetal.engine.engine import Begin
from baremetal.errors import BaremetalError, Invalid, Unknown
from baremetal.lifecycle.events import Asked
from baremetal.lifecycle.model import BootDevice, BootTarget, Proof, Verb
from baremetal.lifecycle.workflows import INSPECTION, RESCUE, WIPE, Errand, row
from baremetal.netboot.profile import Family
from baremetal.service.profiles import Offer, Profiles
from baremetal.service.recipe import Recipe
from baremetal.service.servers.enrolment import quirk
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

PROFILES: Mapping[Errand, str] = {INSPECTION: "inspect", RESCUE: "rescue", WIPE: "wipe"}
"""The profile of each errand that needs a RAM system."""


def flip_of(record: ServerRecord, target: BootTarget) -> BootDevice:
    """Say what a server's boot device is to be once its system is in place: what boots its volume netboots, always."""
    if target is BootTarget.ISCSI:
        return BootDevice.PXE
    return BootDevice.NONE if quirk(record.facts, "flip") == "none" else BootDevice.DISK


MakeRecipe = Callable[[ServerRecord, Offer, Mapping[str, Any]], Recipe]


class Errands:
    """Completes what an operator asked with what the profiles say. `recipe` freezes a profile for a server."""

    def __init__(self, store: Store, profiles: Profiles, recipe: MakeRecipe) -> None:
        self._store = store
        self._profiles = profiles
        self._recipe = recipe

    def prepare(
        self, record: ServerRecord, asked: Asked, variables: Mapping[str, Any]
    ) -> tuple[Asked, Begin | None]:
        """Return the verb as it goes to the engine, and what its run freezes. Raises what stands in its way."""
        flow = row(asked.verb, wipe=asked.wipe)
        assert flow is not None
        if flow.errand is not None:
            return self._ramdisk(record, asked, flow.errand, variables)
        if asked.verb is Verb.UNRESCUE:
            return self._unrescue(record, asked), None
        return asked, None

    def _ramdisk(
        self, record: ServerRecord, asked: Asked, errand: Errand, variables: Mapping[str, Any]
    ) -> tuple[Asked, Begin]:
        offer = self._profiles.offer(PROFILES[errand])
        if offer.profile.family is not Family.RAMDISK:
            raise Invalid(
                f"profile {offer.name} is no RAM system",
                variable="profile",
                fix=f'give [profile.{offer.name}] family = "ramdisk", or another name',
            )
        recipe = self._recipe(record, offer, variables)
        if errand is RESCUE and not recipe.variables.get("ssh_authorized_keys"):
            raise Invalid(
                "rescue: nobody could log in, there is no key",
                variable="ssh_authorized_keys",
                server=record.life.name,
                fix="set ssh_authorized_keys in [deploy], or give --ssh-key FILE",
            )
        problems: list[BaremetalError] = self._profiles.check(recipe, record.life.runs + 1)
        if problems:
            raise problems[0]
        self._profiles.check_media(offer)
        complete = replace(asked, budgets=offer.budgets, limits=offer.limits)
        return complete, Begin(profile=offer.name, frozen=recipe.as_dict() | {"by": asked.by})

    def _unrescue(self, record: ServerRecord, asked: Asked) -> Asked:
        """Prove again what the deploy proved, where it was us who deployed; of its proofs a login can be repeated."""
        flip = flip_of(record, record.life.target)
        known = self._store.run(record.id, record.life.deployed) if record.life.deployed else None
        if known is None:
            return replace(asked, proof=Proof.NONE, flip=flip)
        try:
            offer = self._profiles.offer(known.profile)
        except Unknown:  # it was taken out of the settings since
            return replace(asked, proof=Proof.SSH if known.ssh_host_keys else Proof.NONE, flip=flip)
        return replace(asked, proof=offer.proof, flip=flip, budgets=offer.budgets, limits=offer.limits)
