"""Whether a medium is known well enough, and is what its profile boots.

Owns these judgements and their words. Deliberately unknown: how media are read and where they are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches

from baremetal.errors import Invalid, MediaMissing
from baremetal.media.distros import DISTRO, DISTROS
from baremetal.media.finding import Confidence, Finding
from baremetal.netboot.profile import Family, media_files

UNFIT = "BM206"
# Installers whose answer files are not each other's; media of another kind are never what was meant.
_INSTALLERS = frozenset({"kickstart", "preseed", "autoinstall", "autoyast", "esxi", "windows"})


@dataclass(frozen=True, slots=True)
class Need:
    """What a profile wants of its media. ESXi has neither kernel nor initrd; for Windows the kernel is wimboot.

    `beside` is what its installer fetches by itself and no medium has on it: for Ubuntu the whole image. Where
    its `title` names a distribution, a medium of another one is wondered at.
    """

    profile: str
    media: str
    family: str
    arch: str
    kernel: str
    initrd: str
    release: str = ""
    beside: str = ""
    title: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """What must lie in the folder before a machine can boot it."""
        return media_files(Family(self.family), self.kernel, self.initrd)

    @property
    def of_medium(self) -> frozenset[str]:
        """What the medium itself must have: wimboot is on no medium of Microsoft's."""
        return frozenset(self.files) - ({self.kernel} if self.family == Family.WINDOWS else set())


# What these boot is no kernel with an initrd, and no setting names it.
_OWN_LOADERS = frozenset({"esxi", "windows"})


def check_known(finding: Finding, name: str) -> list[str]:
    """Refuse what is not known well enough; returns warnings. Raises Invalid BM206."""
    if finding.confidence is Confidence.NONE:
        found = f"; {finding.kernel} and {finding.initrd} look bootable" if finding.kernel else ""
        raise Invalid(
            f"{name} is no installation medium that is known here",
            code=UNFIT,
            seen=f"none of .treeinfo, .discinfo, .disk/info, casper/, media.1/, boot.cfg, sources/boot.wim{found}",
            fix=f"if you know what it is, say --as with one of {', '.join(DISTRO)}",
        )
    if finding.confidence is Confidence.GUESS:
        raise Invalid(
            f"{name} does not say what it is; the nearest match is {finding.title}",
            code=UNFIT,
            seen=", ".join(finding.evidence[:6]),
            fix=f"if that is right, say --as {finding.distro}; else one of {', '.join(DISTRO)}",
        )
    if finding.confidence is Confidence.LIKELY:
        return [
            f"{finding.title} is not known here; taken for {finding.family} media ({'; '.join(finding.evidence)})"
        ]
    return []


def check_fit(finding: Finding, paths: AbstractSet[str], needs: Sequence[Need]) -> list[str]:
    """Refuse a medium that its profile could not boot; returns warnings. Raises Invalid BM206, MediaMissing BM202."""
    fitting = [need for need in needs if need.of_medium <= paths]
    for need in needs:
        if finding.family != need.family and {finding.family, need.family} <= _INSTALLERS:
            raise Invalid(
                f"profile {need.profile} installs by {need.family}, and this is {finding.label}, which installs by "
                f"{finding.family}",
                code=UNFIT,
                fix=f"choose a profile of the family {finding.family}; or --as, if this is not {finding.title}",
            )
        if finding.arch and finding.arch != need.arch:
            raise Invalid(
                f"profile {need.profile} is for {need.arch}, and this is {finding.label}",
                code=UNFIT,
                fix=f"set arch = {finding.arch!r} in [profile.{need.profile}], or take the other medium",
            )
    if not fitting:
        raise _no_pair(finding, needs[0], paths)
    warnings = [
        f"profile {need.profile} expects release {need.release}, and this is {finding.label}"
        for need in fitting
        if need.release and finding.version and finding.version.split(".")[0] != need.release
    ]
    warnings += [
        f"profile {need.profile} is called {need.title!r}, and this is {finding.label}"
        for need in fitting
        if finding.distro in DISTRO and finding.distro not in (_named_in(need.title) or [finding.distro])
    ]
    return warnings + [
        f"profile {need.profile} needs {path} too, which is not on it: put it into media/{need.media}/"
        for need in fitting
        for path in (*need.files, need.beside)
        if path and path not in paths
    ]


def _named_in(title: str) -> list[str]:
    return [one.key for one in DISTROS if re.search(rf"\b(?:{one.says})", title.lower())]


def _no_pair(finding: Finding, need: Need, paths: AbstractSet[str]) -> MediaMissing:
    missing = " and ".join(path for path in need.files if path in need.of_medium - paths)
    if need.family == finding.family in _OWN_LOADERS:
        seen = finding.label
        fix = "take the whole medium as its maker publishes it"
    elif not finding.kernel:
        seen = f"{finding.label}; no kernel with an initrd in it"
        fix = "take a medium that installs over the network"
    elif finding.family not in _INSTALLERS:
        seen = f"{finding.label}; no profile family installs that yet"
        fix = finding.note or "take another medium"
    elif not finding.netboots:
        seen = f"{finding.label}; {finding.kernel} and {finding.initrd}"
        fix = finding.note
    else:
        seen = f"{finding.label}; {finding.kernel} and {finding.initrd}"
        fix = (
            f'set kernel = "{finding.kernel}" and initrd = "{finding.initrd}" in [profile.{need.profile}], '
            "and run this again"
        )
    return MediaMissing(
        f"profile {need.profile} boots {missing}, which this medium does not have", seen=seen, fix=fix
    )


def check_distro(as_distro: str) -> None:
    if as_distro and as_distro not in DISTRO:
        near = get_close_matches(as_distro.lower(), DISTRO, n=1, cutoff=0.4)
        raise Invalid(
            f"--as: no distribution {as_distro[:40]!r} is known",
            code=UNFIT,
            fix=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(DISTRO)}",
        )
