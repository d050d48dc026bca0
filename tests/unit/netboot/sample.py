"""The sample server that netboot's tests render for."""

from __future__ import annotations

from typing import Any

from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.templates import Frozen, Templates, freeze

REDHAT_ARGS = "inst.repo={{ mirror or urls.media }} inst.text"
DEBIAN_ARGS = '{% include "preseed/_args.j2" %}'
SERVER = ServerFacts(
    id="0123456789abcdef0123456789abcdef",
    name="node-1",
    macs=("52:54:00:12:34:56", "52:54:00:12:34:57"),
    boot_mac="52:54:00:12:34:56",
)
PROOF_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0F0000000000000000000000000000000000000000 baremetal-proof"

PROFILES = {
    "tiny": Profile(
        "tiny",
        Family.KICKSTART,
        "vmlinuz",
        "initrd.img",
        "kickstart/tiny.ks.j2",
        variables={"console": "ttyS0", "release": 8},
    ),
    "centos7": Profile(
        "centos7",
        Family.KICKSTART,
        "images/pxeboot/vmlinuz",
        "images/pxeboot/initrd.img",
        "kickstart/redhat.ks.j2",
        REDHAT_ARGS,
        {"release": 7, "selinux": "disabled"},
    ),
    "rocky9": Profile(
        "rocky9",
        Family.KICKSTART,
        "images/pxeboot/vmlinuz",
        "images/pxeboot/initrd.img",
        "kickstart/redhat.ks.j2",
        REDHAT_ARGS,
        {"release": 9},
    ),
    "debian12": Profile(
        "debian12",
        Family.PRESEED,
        "debian-installer/amd64/linux",
        "debian-installer/amd64/initrd.gz",
        "preseed/debian.cfg.j2",
        DEBIAN_ARGS,
    ),
}


def frozen(profile: str) -> Frozen:
    """Freeze a shipped profile's templates."""
    return freeze(PROFILES[profile], Templates.with_own())


def context(
    profile: str, base: str = "http://192.0.2.1:8080", server: ServerFacts = SERVER, **variables: Any
) -> Context:
    """Return the context of run 3 of the sample server; tokens are stand-ins of the right form."""
    chosen = PROFILES[profile]
    return Context(
        server=server,
        run=3,
        profile=chosen,
        variables=merge_variables(chosen.variables, variables),
        urls=Urls.of(base, chosen.name, "fetch-token-" + "f" * 40, "callback-token-" + "c" * 40),
        proof_key=PROOF_KEY,
    )
