"""Loaders other than iPXE: the names they ask for, in order, and what they are told, shown in full as golden text."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.netboot import filters, grub, pxelinux
from baremetal.netboot.dialect import Manner, install_text
from baremetal.netboot.lint.loaderscripts import check_grub, check_ipxe, check_pxelinux
from baremetal.netboot.lint.samples import sample_context, samples
from baremetal.netboot.lookup import By, Loader, Question, mac_key, swap_uuid
from baremetal.netboot.menu import Menu, menu_for
from baremetal.netboot.render import render_command_line, render_install_script
from baremetal.netboot.scripts import LocalBoot, LocalBootMethod, local_boot_script
from baremetal.netboot.templates import LOADERS, Frozen, Templates, freeze
from tests.unit.netboot.sample import PROFILES, context, frozen
from tests.unit.netboot.shipped import shipped
from tests.unit.netboot.test_render import golden

MAC = "50:98:b8:1a:34:8d"
UUID = "b8945908-d6a6-41a9-8e5d-c5a1d5c0f00d"
MENU = Menu("baremetal: node-1", "Install rocky9 (run 3)", 10)
LOCAL: dict[str, Any] = {"local_boot": LocalBoot().as_dict(), "menu": None}


def with_menu(menu: Menu = MENU) -> dict[str, Any]:
    return LOCAL | {"menu": menu.as_dict()}


# -- lookup orders --


def test_grub_asks_in_this_order() -> None:
    """S3-2, with its worked example."""
    assert grub.lookups(MAC, "10.1.1.30") == [
        "/grub.cfg-01-50-98-b8-1a-34-8d",
        "/grub.cfg-0A01011E",
        "/grub.cfg-0A01011",
        "/grub.cfg-0A0101",
        "/grub.cfg-0A010",
        "/grub.cfg-0A01",
        "/grub.cfg-0A0",
        "/grub.cfg-0A",
        "/grub.cfg-0",
        "/grub.cfg",
    ]
    assert grub.lookups(MAC, prefix="/EFI/BOOT/")[-1] == "/EFI/BOOT/grub.cfg"


def test_pxelinux_asks_in_this_order() -> None:
    """S3-3: the client's UUID byte-swapped, the MAC, the address, `default`."""
    assert pxelinux.lookups(MAC, "192.168.2.91/24", UUID) == [
        "pxelinux.cfg/085994b8-a6d6-a941-8e5d-c5a1d5c0f00d",
        "pxelinux.cfg/01-50-98-b8-1a-34-8d",
        "pxelinux.cfg/C0A8025B",
        "pxelinux.cfg/C0A8025",
        "pxelinux.cfg/C0A802",
        "pxelinux.cfg/C0A80",
        "pxelinux.cfg/C0A8",
        "pxelinux.cfg/C0A",
        "pxelinux.cfg/C0",
        "pxelinux.cfg/C",
        "pxelinux.cfg/default",
    ]


@pytest.mark.parametrize(("version", "is_asked"), [("0f", False), ("10", True), ("ef", True), ("f0", False)])
def test_pxelinux_is_not_said_to_ask_by_a_uuid_that_it_passes_over(version: str, is_asked: bool) -> None:
    """S3-3: as `lab/test_loaders.py` saw it."""
    first = pxelinux.lookups(MAC, uuid=f"59cac7d3-1ff9-46{version}-9086-20eb2a0e61e2")[0]
    key = f"d3c7ca59-f91f-{version}46-9086-20eb2a0e61e2" if is_asked else mac_key(MAC)
    assert first == f"pxelinux.cfg/{key}"


def test_every_name_of_a_lookup_is_understood_as_what_it_asks() -> None:
    """S3-2, S3-3."""
    for prefix in ("/", "/grub/", "/EFI/BOOT/", "/EFI/debian/", "/loaders/", "/media/rocky9/EFI/BOOT/"):
        asked = [grub.read_name(name.lstrip("/")) for name in grub.lookups(MAC, "10.1.1.30", UUID, prefix)]
        assert asked[:3] == [
            Question(By.UUID, UUID),
            Question(By.MAC, MAC),
            Question(By.ADDRESS, "10.1.1.30"),
        ]
        assert [question and question.by for question in asked[3:]] == [By.PREFIX] * 7 + [By.LAST]
    for prefix in ("", "boot/"):
        asked = [pxelinux.read_name(name) for name in pxelinux.lookups(MAC, "10.1.1.30", UUID, prefix)]
        assert asked[:3] == [
            Question(By.UUID, swap_uuid(UUID)),
            Question(By.MAC, MAC),
            Question(By.ADDRESS, "10.1.1.30"),
        ]
        assert [question and question.by for question in asked[3:]] == [By.PREFIX] * 7 + [By.LAST]
    back = [pxelinux.read_name(pxelinux.own_name(key)) for key in (MAC, UUID, "")]
    assert back == [Question(By.MAC, MAC, own=True), Question(By.UUID, UUID, own=True), Question(By.LAST)]
    *lists, last, own = (grub.read_name(name.lstrip("/")) for name in grub.debian_lookups(MAC))
    assert (lists, last, own) == ([None] * 4, Question(By.LAST), Question(By.MAC, MAC, own=True))


@pytest.mark.parametrize(
    "name",
    [
        "grub.cfg-01-50-98-b8-1a-34",
        "grub.cfg-01-50-98-b8-1a-34-8d-",
        "grub.cfg-01-50:98:b8:1a:34:8d",
        "grub.cfg-06-50-98-b8-1a-34-8d",
        "grub.cfg-01-ff-ff-ff-ff-ff-ff",
        "grub.cfg-01-00-00-00-00-00-00",
        "grub.cfg-0A01011E0",
        "grub.cfg-",
        "grub.cfg-é",
        "grub.cfg ",
        "GRUB.CFG\n",
        "grub/x86_64-efi/grub.cfg",
        "grub/x86_64-efi/command.lst",
        "../grub.cfg",
        "a//grub.cfg",
        "a/../grub.cfg",
        "grub/mac/50-98-b8-1a-34-8d.cfg",
        "grub/mac/.cfg",
        "grub/mac/../../grub.cfg",
    ],
)
def test_other_names_are_no_configuration_of_grub(name: str) -> None:
    assert grub.read_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "pxelinux.cfg",
        "pxelinux.cfg/",
        "pxelinux.cfg/DEFAULT",
        "pxelinux.cfg/default\n",
        "pxelinux.cfg/../default",
        "../pxelinux.cfg/default",
        "pxelinux.cfg/01-50-98-b8-1a-34-8d.cfg",
        "pxelinux.cfg/C0A8025B0",
        "pxelinux.cfg/b8945908-d6a6-41a9-8e5d-c5a1d5c0f00",
        "a/b/c/d/e/pxelinux.cfg/default",
    ],
)
def test_other_names_are_no_configuration_of_pxelinux(name: str) -> None:
    assert pxelinux.read_name(name) is None


@given(st.text(max_size=80))
def test_any_name_at_all_is_read_without_trouble(name: str) -> None:
    for prefix in ("", "grub.cfg-", "pxelinux.cfg/", "grub/mac/"):
        for read in (grub.read_name, pxelinux.read_name):
            found = read(prefix + name)
            assert found is None or found.by in By


def test_swapping_a_uuid_twice_gives_it_back() -> None:
    """S3-3: both spellings of one machine are matched."""
    assert swap_uuid("00112233-4455-6677-8899-aabbccddeeff") == "33221100-5544-7766-8899-aabbccddeeff"
    assert swap_uuid(swap_uuid(UUID.upper())) == UUID
    assert swap_uuid("no uuid") == "no uuid"


# -- what is served, in full --


def grub_install(profile: str, more: dict[str, Any] = LOCAL, **told: Any) -> str:
    chosen: dict[str, Any] = {key: told.pop(key) for key in ("commands", "media") if key in told}
    return grub.install_config(frozen(profile), context(profile, **told), **chosen, more=more)


def pxelinux_install(
    profile: str, loader: Loader = Loader.PXELINUX, more: dict[str, Any] = LOCAL, **told: Any
) -> str:
    return pxelinux.install_config(frozen(profile), context(profile, **told), loader, more=more)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_installs(profile: str) -> None:
    """S3-4 (GRUB's entry, with inst.repo by URL), S2-3 (pxelinux's); pain 3 (`linux`), pain 18 (BOOTIF)."""
    golden(f"loaders/{profile}.install.grub.cfg", grub_install(profile))
    golden(f"loaders/{profile}.install.pxelinux.cfg", pxelinux_install(profile))
    golden(f"loaders/{profile}.install.lpxelinux.cfg", pxelinux_install(profile, Loader.LPXELINUX))
    for text in (grub_install(profile), pxelinux_install(profile)):
        assert "callback" not in text
        assert "hd:LABEL" not in text, "inst.stage2 from a medium would look for one (S3-4)"


def test_builds_of_grub_before_2_06_and_http() -> None:
    """S3-4: `linuxefi` and `initrdefi` by the server's quirk; HTTP where it knows it. Pain 3."""
    text = grub_install("rocky9", commands="linuxefi", media="http")
    golden("loaders/rocky9.install.linuxefi-http.grub.cfg", text)
    assert "if linux " not in text


def test_red_hat_6_is_told_its_nic_in_the_old_way() -> None:
    """S2-3: `ks=` and `ksdevice=bootif`, which needs the BOOTIF that IPAPPEND 2 adds. Pain 18."""
    old = pxelinux_install("centos7", release=6)
    assert "ks=http://192.0.2.1:8080/answer/" in old
    assert " ksdevice=bootif" in old
    assert "IPAPPEND 2\n" in old
    assert "inst.ks" not in old
    assert "ksdevice" not in pxelinux_install("centos7")


def test_menus() -> None:
    """S0-5, S0-8: a title, a default, a time-out; the local disk, a shell and a reboot beside the one answer."""
    golden("loaders/menu.install.grub.cfg", grub_install("rocky9", with_menu()))
    golden("loaders/menu.install.pxelinux.cfg", pxelinux_install("rocky9", more=with_menu()))
    golden(
        "loaders/menu.install.ipxe", render_install_script(frozen("rocky9"), context("rocky9"), with_menu())
    )
    menu = replace(MENU, answer="Boot as usual", default="local")
    sanboot = LocalBoot(LocalBootMethod.SANBOOT)
    golden("loaders/menu.local.grub.cfg", grub.local_config("active: boots its disk", sanboot, menu))
    golden("loaders/menu.local.pxelinux.cfg", pxelinux.local_config("active: boots its disk", sanboot, menu))
    golden("loaders/menu.local.ipxe", local_boot_script("active: boots its disk", sanboot, menu))


@pytest.mark.slow
@pytest.mark.parametrize("loader", [Loader.GRUB, Loader.PXELINUX, Loader.LPXELINUX])
@pytest.mark.parametrize("name", sorted(name for name, profile in shipped().items() if profile.has_script))
def test_every_loader_starts_a_shipped_profile_or_says_that_it_cannot(name: str, loader: Loader) -> None:
    """A kernel is told the same words by whatever starts it; ESXi and Windows boot no kernel."""
    profile = shipped()[name]
    kept = freeze(profile, Templates.with_own())
    for variables in samples(profile.family):
        told = sample_context(profile, **{**variables, **profile.variables})
        if profile.needs_ipxe:
            with pytest.raises(Invalid, match=f"only iPXE can start {name}"):
                install_text(kept, told, Manner(loader), None)
            continue
        wanted = render_command_line(kept, told)
        assert f" {wanted} ||" in render_install_script(kept, told)
        text = install_text(kept, told, Manner(loader), None)
        check = check_grub if loader is Loader.GRUB else check_pxelinux
        assert list(check(text, name)) == []
        if loader is Loader.GRUB:
            start = next(line.strip() for line in text.splitlines() if line.strip().startswith("if linux "))
            words = grub_words(start.removesuffix("; then"))
            assert words[2] == f"/media/{name}/{profile.kernel}"
            assert words[4:] == wanted.split()
            assert f"if initrd /media/{name}/{profile.initrd}; then" in text
        else:
            assert f"\n  APPEND {wanted}\n" in text


@pytest.mark.parametrize("name", ["esxi8", "windows2022", "rocky9", "fcos"])
def test_a_menu_stands_before_every_familys_installer(name: str) -> None:
    """S0-5. A machine that is to show a menu starts no installer before it."""
    profile = shipped()[name]
    kept, told = freeze(profile, Templates.with_own()), sample_context(profile)
    text = install_text(kept, told, Manner(), replace(MENU, default="local"))
    assert list(check_ipxe(text, name)) == []
    lines = text.splitlines()
    choice = next(at for at, line in enumerate(lines) if line.startswith("choose --default local "))
    assert (
        choice
        < lines.index(":answer")
        < next(at for at, line in enumerate(lines) if line.startswith("kernel "))
    )
    assert ":local" in lines[lines.index(":failed") :]


def test_a_menu_is_shown_where_the_servers_variables_ask_for_one() -> None:
    """S0-5."""
    assert menu_for({}, "node-1", "x") is None
    made = menu_for({"menu_timeout_s": "15", "menu_default": "local"}, "node-1", "Boot as usual")
    assert made == Menu("baremetal: node-1", "Boot as usual", 15, "local")
    for wrong in ({"menu_timeout_s": "0"}, {"menu_timeout_s": "5", "menu_default": "esxi"}):
        with pytest.raises(Invalid):
            menu_for(wrong, "node-1", "x")


def test_what_belongs_to_no_run() -> None:
    golden("loaders/first.grub.cfg", grub.first_config())
    golden("loaders/wait.grub.cfg", grub.wait_config())
    golden("loaders/wait.pxelinux.cfg", pxelinux.wait_config(MAC))
    for method in (None, LocalBootMethod.EXIT, LocalBootMethod.NEXT, LocalBootMethod.SANBOOT):
        name = f"localboot.{method or 'default'}"
        golden(f"loaders/{name}.grub.cfg", grub.local_config("active: boots its disk", LocalBoot(method)))
        golden(
            f"loaders/{name}.pxelinux.cfg", pxelinux.local_config("active: boots its disk", LocalBoot(method))
        )


def test_what_a_run_froze_before_these_loaders_existed_still_boots() -> None:
    now = frozen("rocky9")
    before = Frozen(now.files, {name: text for name, text in now.texts.items() if name not in LOADERS})
    told = context("rocky9")
    assert grub.install_config(before, told, more=LOCAL) == grub_install("rocky9")


def test_an_operators_own_template_is_taken(tmp_path: Path) -> None:
    (tmp_path / "loaders").mkdir()
    (tmp_path / "loaders/install.grub.j2").write_text("echo {{ server.name | grub }} {{ cmdline | line }}\n")
    kept = freeze(PROFILES["tiny"], Templates.with_own(tmp_path))
    assert grub.install_config(kept, context("tiny"), more=LOCAL).startswith("echo node-1 inst.ks=")


# -- quoting --


def grub_words(line: str) -> list[str]:
    """Split a line as GRUB's lexer does (script/yylex.l), without variables: what it would expand is an error here."""
    words: list[str] = []
    word: str | None = None
    at = 0
    while at < len(line):
        sign = line[at]
        if sign == "'":
            end = line.index("'", at + 1)
            word = (word or "") + line[at + 1 : end]
            at = end
        elif sign == "\\":
            at += 1
            word = (word or "") + line[at]
        elif sign in ' \t"':
            assert sign != '"'
            if word is not None:
                words.append(word)
            word = None
        else:
            assert sign not in "$;&|<>{}()#*?", f"{sign} outside quotes in {line}"
            word = (word or "") + sign
        at += 1
    return words if word is None else [*words, word]


lines = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40)


@given(st.lists(lines, max_size=4))
def test_grub_reads_back_what_was_quoted(words: list[str]) -> None:
    assert grub_words(filters.grub(words)) == words


def test_the_data_source_of_cloud_init_is_one_word() -> None:
    """Ubuntu's `ds=nocloud-net;s=…`: a bare semicolon would end GRUB's command."""
    words = ["autoinstall", "ds=nocloud-net;s=http://192.0.2.1:8080/answer/T/"]
    assert filters.grub(words) == "autoinstall 'ds=nocloud-net;s=http://192.0.2.1:8080/answer/T/'"
    told = grub_install("rocky9", kernel_args="ds=nocloud-net;s=http://192.0.2.1/x/")
    assert "'ds=nocloud-net;s=http://192.0.2.1/x/'" in told


@pytest.mark.parametrize("hostile", ["a\nb", "a\rb", "a\x00b", "a\u2028b"])
def test_line_breaks_are_refused(hostile: str) -> None:
    for escape in (filters.grub, filters.pxelinux):
        with pytest.raises(Invalid):
            escape(hostile)


@pytest.mark.parametrize("hostile", ["quiet initrd=http://evil/x", "INITRD=x", "# c", "^x", "é"])
def test_pxelinux_refuses_what_it_would_not_take_literally(hostile: str) -> None:
    with pytest.raises(Invalid):
        filters.pxelinux(hostile)


def test_a_line_that_pxelinux_would_cut_is_refused() -> None:
    with pytest.raises(Invalid, match="2047"):
        pxelinux_install("rocky9", kernel_args=" ".join(f"option{n}=value" for n in range(150)))
    assert "option149=value" in grub_install(
        "rocky9", kernel_args=" ".join(f"option{n}=value" for n in range(150))
    )


def test_a_reason_cannot_become_a_command() -> None:
    hostile = "x'; reboot; '\nLABEL evil\n  KERNEL http://evil/ $prefix ${net_default_mac} `id`"
    for text in (grub.local_config(hostile), pxelinux.local_config(hostile)):
        assert text.count("\n") == (
            grub.local_config("x") if "chainloader" in text else pxelinux.local_config("x")
        ).count("\n")
        assert "$prefix" not in text


# -- our own linter, and the real parser --


def test_our_own_linter_accepts_every_script() -> None:
    checks = {".grub.cfg": check_grub, "linux.cfg": check_pxelinux, ".ipxe": check_ipxe}
    golden_folder = Path(__file__).parents[2] / "golden"
    for ending, check in checks.items():
        files = sorted(golden_folder.rglob(f"*{ending}"))
        assert len(files) > 10
        for file in files:
            assert list(check(file.read_text(), file.name)) == [], file.name


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="needs grub-common")
def test_grub_itself_accepts_every_configuration(tmp_path: Path) -> None:
    golden_folder = Path(__file__).parents[2] / "golden" / "loaders"
    files = sorted(golden_folder.glob("*.grub.cfg"))
    assert len(files) > 10
    for file in files:
        done = subprocess.run(["grub-script-check", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (file.name, done.stderr)
