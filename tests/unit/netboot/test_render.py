"""Rendering of whole answer files: shown in full as golden text, frozen, without secrets where none belong."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baremetal.errors import Invalid
from baremetal.netboot.context import Urls
from baremetal.netboot.render import render_answer, render_install_script
from baremetal.netboot.scripts import LocalBoot, LocalBootMethod, boot_script, local_boot_script, wait_script
from baremetal.netboot.templates import Frozen, Templates, freeze
from tests.unit.netboot.sample import PROFILES, context, frozen

GOLDEN = Path(__file__).parents[2] / "golden"
BASE = "http://192.0.2.1:8080"
BOND = "bond0:eno1,eno2:mode=802.3ad,miimon=100:9000"
STATIC: dict[str, Any] = {
    "domain": "example.net",
    "ip": "192.0.2.10/24",
    "gateway": "192.0.2.254",
    "dns": "192.0.2.2,192.0.2.3",
    "ntp": "192.0.2.4,time.example.net",
    "vlan": "12",
    "disk": "serial=S3Z8NB0K",
    "console": "ttyS1,115200n8",
    "timezone": "Europe/Rome",
    "kernel_args": "nomodeset",
    "mirror": "http://mirror.example.net/tree",
}


def golden(name: str, text: str) -> None:
    """Compare with the golden file; UPDATE_GOLDEN=yes writes it, for a person to read the difference."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN") == "yes":
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_main_answer_file_and_boot_script(profile: str) -> None:
    kept, asked = frozen(profile), context(profile, **(STATIC if profile in ("rocky9", "debian12") else {}))
    for file in kept.files:
        golden(f"{profile}.{file}", render_answer(kept, file, asked))
    golden(f"{profile}.install.ipxe", render_install_script(kept, asked))


def test_a_bond_on_a_kickstart() -> None:
    text = render_answer(
        frozen("rocky9"), "ks.cfg", context("rocky9", bond="bond0:eno1,eno2:mode=802.3ad,miimon=100:9000")
    )
    assert (
        "network --device=bond0 --bondslaves=eno1,eno2 --bondopts=mode=802.3ad,miimon=100 --mtu=9000 "
        "--bootproto=dhcp --onboot=on --activate\n"
    ) in text


def test_the_debian_installer_refuses_a_bond_in_words() -> None:
    with pytest.raises(Invalid, match="cannot make a bond") as caught:
        render_install_script(frozen("debian12"), context("debian12", bond="bond0:a,b"))
    assert caught.value.file == "preseed/_args.j2"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_boot_scripts_hold_no_callback_token(profile: str) -> None:
    script = render_install_script(frozen(profile), context(profile))
    assert "callback" not in script
    assert "/answer/fetch-token-" in script


def test_a_boot_script_that_asks_for_the_callback_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loaders").mkdir()
    (tmp_path / "loaders/install.ipxe.j2").write_text("#!ipxe\nchain {{ urls.callback | ipxe }}\n")
    kept = freeze(PROFILES["tiny"], Templates.with_own(tmp_path))
    with pytest.raises(Invalid, match="undefined variable callback") as caught:
        render_install_script(kept, context("tiny"))
    assert (caught.value.code, caught.value.line) == ("BM203", 2)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_shipped_answers_hold_no_password_hash(profile: str) -> None:
    for file in frozen(profile).files:
        text = render_answer(frozen(profile), file, context(profile))
        assert "$6$" not in text
        assert "--plaintext" not in text


def test_a_run_keeps_the_text_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "kickstart").mkdir()
    own = tmp_path / "kickstart/tiny.ks.j2"
    own.write_text("# first {{ hostname | ks }}\n{% include 'kickstart/own.j2' %}\n")
    (tmp_path / "kickstart/own.j2").write_text("part\n")
    kept = Frozen.from_dict(
        json.loads(json.dumps(freeze(PROFILES["tiny"], Templates.with_own(tmp_path)).as_dict()))
    )
    own.write_text("# second\n")
    (tmp_path / "kickstart/own.j2").unlink()
    assert render_answer(kept, "ks.cfg", context("tiny")) == "# first node-1\npart\n"
    assert freeze(PROFILES["tiny"], Templates.with_own(tmp_path)).digest != kept.digest


def test_a_file_that_a_profile_has_not_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        render_answer(frozen("tiny"), "user-data", context("tiny"))


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "/etc/passwd", "kickstart/../../x", "", "kickstart//x", ".hidden"]
)
def test_template_names_stay_inside_their_folders(name: str) -> None:
    with pytest.raises(Invalid):
        Templates.with_own().text(name)


@pytest.mark.parametrize(
    "change", [{"kernel": "../vmlinuz"}, {"initrd": "/etc/x"}, {"name": "Bad Name"}, {"files": {"../x": "y"}}]
)
def test_profiles_check_themselves(change: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        replace(PROFILES["tiny"], **change)  # type: ignore[arg-type]


def test_kernel_arguments_of_a_profile_are_checked_as_words() -> None:
    profile = replace(PROFILES["tiny"], kernel_args="{{ vars.own }}")
    kept = freeze(profile, Templates.with_own())
    with pytest.raises(Invalid) as caught:
        render_install_script(kept, context("tiny", own="x || goto evil"))
    assert (caught.value.code, caught.value.file) == ("BM204", "kernel_args")


def test_the_scripts_that_belong_to_no_run() -> None:
    golden("boot.ipxe", boot_script(BASE))
    golden("wait.ipxe", wait_script(BASE))
    golden("localboot.exit.ipxe", local_boot_script("active: boots its disk"))
    golden(
        "localboot.sanboot.ipxe",
        local_boot_script("active: boots its disk", LocalBoot(LocalBootMethod.SANBOOT)),
    )
    golden(
        "localboot.chain.ipxe",
        local_boot_script(
            "active: boots its disk", LocalBoot(LocalBootMethod.CHAIN, f"{BASE}/media/loaders/chain.efi")
        ),
    )


def test_a_reason_cannot_become_a_command() -> None:
    script = local_boot_script("x\nchain http://evil || # ${net0/mac} && reboot ; `id`")
    assert "echo baremetal: x chain http://evil net0/mac reboot id\n" in script
    assert script.count("\nchain ") == 0


def test_urls_are_laid_out_as_the_boot_app_serves_them() -> None:
    assert Urls.of(BASE + "/", "tiny", "F", "C") == Urls(
        BASE, f"{BASE}/media/tiny", f"{BASE}/answer/F", f"{BASE}/callback/C"
    )
