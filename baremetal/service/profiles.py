"""The profiles that can be installed: what each is, where its media lie, and whether it would render.

Owns the registry and the checks that need no server. Deliberately unknown: configuration files (wiring reads them) and
states.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from baremetal import telemetry
from baremetal.errors import BaremetalError, Invalid, MediaMissing, Unknown
from baremetal.lifecycle.model import BootTarget, Budgets, Limits, Method, Proof
from baremetal.netboot.context import ServerFacts, merge_variables
from baremetal.netboot.fetched import fetched
from baremetal.netboot.lint.esxi import read_boot_config
from baremetal.netboot.lint.finding import Finding, Severity
from baremetal.netboot.lint.lint import check_renders, lint_profile
from baremetal.netboot.lint.samples import NEEDS, SAMPLE_SERVER
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.standing import Judgement, Standing, judge
from baremetal.netboot.templates import Templates, freeze
from baremetal.service.recipe import Kitchen, Recipe, Shelf, media_reference

log = telemetry.logger(__name__)

_LINTED_KEPT = 64


@dataclass(frozen=True, slots=True)
class Offer:
    """A profile with what the lifecycle needs to run it. `media` names a folder below the media directory.

    `storage`, `golden`, `volume_size` and `data_disks`: where its volumes are made, of which golden image, how large,
    and which data disks beside; "" where a deploy says it, or there is but one.
    """

    profile: Profile
    media: str
    title: str = ""
    arch: str = "x86_64"
    method: Method = Method.INSTALLER
    target: BootTarget = BootTarget.DISK
    storage: str = ""
    golden: str = ""
    volume_size: str = ""
    data_disks: str = ""
    proof: Proof = Proof.SSH
    reboots: bool = False
    budgets: Budgets = field(default_factory=Budgets)
    limits: Limits = field(default_factory=Limits)

    @property
    def name(self) -> str:
        return self.profile.name


class Profiles:
    """All offers by name, and the folders their parts are in."""

    def __init__(
        self,
        offers: Sequence[Offer],
        *,
        templates: Templates,
        kitchen: Kitchen,
        media: Path,
        base: str,
        defaults: Mapping[str, Any],
    ) -> None:
        self._offers = {offer.name: offer for offer in offers}
        self._templates = templates
        self._kitchen = kitchen
        self._media = media
        self._base = base
        self._defaults = dict(defaults)
        self._linted: Shelf[str, tuple[Finding, ...]] = Shelf(_LINTED_KEPT)
        self._linting = threading.Lock()

    def offer(self, name: str) -> Offer:
        """Find a profile. Raises Unknown BM201 with the nearest name."""
        try:
            return self._offers[name]
        except KeyError:
            near = get_close_matches(name, self._offers, n=1, cutoff=0.5)
            known = ", ".join(sorted(self._offers)) or "none"
            raise Unknown(
                f"no profile {name[:64]!r}",
                code="BM201",
                nearest=near[0] if near else None,
                fix=None if near else f"known are {known}",
            ) from None

    def names(self) -> list[str]:
        return sorted(self._offers)

    def installable(self) -> list[str]:
        """Return the names of what can be deployed: all but the RAM systems that other verbs boot."""
        return [name for name in self.names() if self._offers[name].profile.family is not Family.RAMDISK]

    def briefs(self) -> list[dict[str, Any]]:
        return [self._brief(self._offers[name]) for name in self.names()]

    def show(self, name: str) -> dict[str, Any]:
        """Describe a profile with its settings and files."""
        offer = self.offer(name)
        profile = offer.profile
        return self._brief(offer, self._lint_once(self._sample(offer))) | {
            "kernel": profile.kernel,
            "initrd": profile.initrd,
            "kernel_args": profile.kernel_args,
            "template": profile.template,
            "files": profile.answer_files,
            "asks_go": profile.asks_go,
            "vars": dict(profile.variables),
            "media_folder": str(self._media / offer.media),
            "budgets": asdict(offer.budgets),
            "limits": asdict(offer.limits),
        }

    def lint(self, name: str) -> dict[str, Any]:
        """Check a profile with sample servers and every checker there is; with `problems`, deploying is refused.

        `warnings` are bad ideas, checkers that are not installed, and media that are not there yet.
        """
        offer = self.offer(name)
        findings = lint_profile(offer.profile, self._templates, self._defaults)
        problems = [_problem(found) for found in findings if found.severity is Severity.ERROR]
        warnings = [_problem(found) for found in findings if found.severity is not Severity.ERROR]
        try:
            self.check_fetched(offer)
        except MediaMissing as error:
            warnings.append(error.as_dict() | {"severity": str(Severity.WARNING)})
        return {"name": offer.name, "ok": not problems, "problems": problems, "warnings": warnings}

    def recipe(
        self,
        offer: Offer,
        server: ServerFacts,
        of_server: Mapping[str, Any],
        asked: Mapping[str, Any],
        inventory: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """Freeze a profile for one server: variables merged (defaults, profile, server, deploy). Raises Invalid."""
        return Recipe(
            profile=offer.profile,
            media=offer.media,
            variables=merge_variables(
                self._of_media(offer), self._defaults, offer.profile.variables, of_server, asked
            ),
            server=server,
            templates=freeze(offer.profile, self._templates),
            asked=dict(asked),
            first_boot=offer.proof is not Proof.NONE or not offer.profile.has_script,
            inventory=dict(inventory or {}),
        )

    def check(self, recipe: Recipe, run: int) -> list[BaremetalError]:
        """Render everything a run would be served and lint its profile; returns what is wrong, never raises it.

        What the rendered texts send the machine to must be there too, once the media themselves are (`check_media`).
        """
        try:
            files = self._kitchen.preview(recipe, run, self._base)
        except BaremetalError as error:
            return [error]
        problems: list[BaremetalError] = [
            _error(found) for found in self._lint_once(recipe) if found.severity is Severity.ERROR
        ]
        missing = self._missing(recipe, run, files)
        return [*problems, missing] if missing is not None else problems

    def _missing(self, recipe: Recipe, run: int, files: Sequence[Mapping[str, str]]) -> MediaMissing | None:
        """Say what rendered texts send the machine to and is not there; None while even what it boots is not."""
        below = f"{self._base}/media/{media_reference(recipe.server.name, run)}"
        named = {path for file in files for path in fetched(file["text"], below)}
        # os.path: a name that no file can have is not there, and is no error
        missing = sorted(path for path in named if not os.path.exists(self._media / path))
        boots = {f"{recipe.media}/{path}" for path in recipe.profile.media_files}
        if not missing or boots & set(missing):
            return None
        return MediaMissing(
            f"profile {recipe.profile.name}: {' and '.join(missing)} missing, which its installer fetches",
            seen=f"looked in {self._media}",
            fix="put it there, or correct the variable that names it",
        )

    def _lint_once(self, recipe: Recipe) -> tuple[Finding, ...]:
        """Lint a profile as it is frozen; the installers' checkers take a second, so once for each set of texts."""
        key = f"{recipe.templates.digest} {recipe.profile!r}"
        with self._linting:
            found = self._linted.get(key)
            if found is None:
                made = lint_profile(recipe.profile, self._templates, self._defaults)
                found = self._linted.put(key, tuple(made))
            return found

    def warm_up(self) -> None:
        """Render every profile for sample servers and log what is wrong, so that a typo fails here and not in the rack.

        Those whose media are here are linted too, so that the first deploy need not wait for the installers' checkers.
        """
        for name in self.names():
            offer = self._offers[name]
            found: Sequence[Finding] = check_renders(offer.profile, self._templates, self._defaults)
            if not found:
                with suppress(MediaMissing):
                    self.check_media(offer)
                    found = self._lint_once(self._sample(offer))
            for finding in found:
                if finding.severity is Severity.ERROR:
                    log.warning("profile is broken", profile=name, code=finding.code, error=str(finding))

    def _sample(self, offer: Offer) -> Recipe:
        return self.recipe(offer, SAMPLE_SERVER, NEEDS.get(offer.profile.family, {}), {})

    def _of_media(self, offer: Offer) -> dict[str, Any]:
        """Read the variables that are the medium's to say: ESXi's kernel and modules, in its boot.cfg."""
        if offer.profile.family is not Family.ESXI:
            return {}
        try:
            text = (self._media / offer.media / "boot.cfg").read_text("utf-8", "replace")
        except OSError:
            return {}
        kernel, modules = read_boot_config(text)
        return {"esxi_kernel": kernel, "esxi_modules": list(modules)} if kernel else {}

    def check_media(self, offer: Offer) -> None:
        """Make sure that what a machine boots is there. Raises MediaMissing BM202."""
        folder = self._media / offer.media
        missing = [path for path in offer.profile.media_files if not (folder / path).is_file()]
        if missing:
            raise MediaMissing(
                f"profile {offer.name}: {' and '.join(missing)} missing",
                seen=f"looked in {folder}",
                fix=f"baremetal media add {offer.name} ISO|DIR, or put them there",
            )

    def check_fetched(self, offer: Offer) -> None:
        """Make sure of that too which the installer of a sample server fetches. Raises MediaMissing BM202."""
        self.check_media(offer)
        sample = self._sample(offer)
        try:
            files = self._kitchen.preview(sample, 1, self._base)
        except BaremetalError:
            return  # what does not render is told by `check` and `lint`
        if missing := self._missing(sample, 1, files):
            raise missing

    def _judge(self, offer: Offer, findings: Sequence[Finding] | None) -> Judgement:
        try:
            return judge(offer.profile, freeze(offer.profile, self._templates), findings)
        except BaremetalError as error:
            return Judgement(Standing.BROKEN, str(error))

    def _brief(self, offer: Offer, findings: Sequence[Finding] | None = None) -> dict[str, Any]:
        judged = self._judge(offer, findings)
        try:
            self.check_fetched(offer)
            ready = True
        except MediaMissing:
            ready = False
        return {
            "name": offer.name,
            "title": offer.title,
            "family": str(offer.profile.family),
            "arch": offer.arch,
            "state": str(judged.standing),
            "state_reason": judged.reason,
            "method": str(offer.method),
            "boot_target": str(offer.target),
            "proof": str(offer.proof),
            "media": offer.media,
            "media_ready": ready,
        }


def _problem(found: Finding) -> dict[str, Any]:
    """Write a finding as an error body, so that whoever shows errors can show it."""
    return _error(found).as_dict() | {"severity": str(found.severity), "rendered": found.rendered}


def _error(found: Finding) -> Invalid:
    file = f"{found.file} as rendered" if found.rendered else found.file
    return Invalid(found.message, code=found.code, file=file, line=found.line, variable=found.variable)
