"""The profiles of the shipped config.toml, as netboot sees them, and the files that their sample servers are served."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from baremetal.config.load import load
from baremetal.netboot.lint.samples import sample_context
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer, render_install_script
from baremetal.netboot.templates import Templates, freeze

_NOWHERE: Final = Path("/nonexistent/config.toml")
STATIC: Final[dict[str, Any]] = {
    "domain": "example.net",
    "ip": "192.0.2.10/24",
    "gateway": "192.0.2.254",
    "dns": "192.0.2.2,192.0.2.3",
    "ntp": "192.0.2.4,time.example.net",
    "console": "ttyS1,115200n8",
    "timezone": "Europe/Rome",
    "kernel_args": "nomodeset",
}
VLAN: Final[dict[str, Any]] = {**STATIC, "vlan": "12"}
BOND: Final[dict[str, Any]] = {"bond": "bond0:eno1,eno2:mode=802.3ad,miimon=100:9000"}
BOND_VLAN: Final[dict[str, Any]] = {**VLAN, **BOND}


@lru_cache
def shipped() -> dict[str, Profile]:
    """Read the profiles that every installation has, without this machine's own settings."""
    config = load(None, system=_NOWHERE, local=_NOWHERE)
    return {
        name: Profile(
            name=name,
            family=Family(found.family),
            kernel=found.kernel,
            initrd=found.initrd,
            template=found.template,
            kernel_args=found.kernel_args,
            variables=dict(found.vars),
            files=dict(found.files),
        )
        for name, found in config.profile.items()
    }


def files_of(name: str, **variables: Any) -> dict[str, str]:
    """Render everything that a profile's machine is served, the boot script too."""
    profile = shipped()[name]
    frozen, context = freeze(profile, Templates.with_own()), sample_context(profile, **variables)
    files = {file: render_answer(frozen, file, context) for file in frozen.files}
    if not profile.has_script:
        return files
    return files | {"install.ipxe": render_install_script(frozen, context)}
