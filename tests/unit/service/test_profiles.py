"""Profiles as the service offers them: what their media lack, what their media say, and how far each is proven."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from baremetal.errors import MediaMissing
from baremetal.netboot.context import ServerFacts
from baremetal.netboot.lint import checkers
from baremetal.netboot.lint.samples import SAMPLE_SERVER
from baremetal.netboot.templates import Templates
from baremetal.netboot.tokens import TokenMint
from baremetal.service.profiles import Offer, Profiles
from baremetal.service.recipe import Kitchen
from tests.unit.netboot.shipped import shipped

SERVER = ServerFacts("0" * 32, "r1", ("52:54:00:00:00:01",), "52:54:00:00:00:01")
BOOT_CFG = "kernel=/b.b00\nmodules=/jumpstrt.gz --- /s.v00\n"


@pytest.fixture
def offered(tmp_path: Path) -> Callable[..., Profiles]:
    def offered(*names: str) -> Profiles:
        return Profiles(
            [Offer(shipped()[name], name) for name in names],
            templates=Templates.with_own(tmp_path / "templates"),
            kitchen=Kitchen(TokenMint(b"s" * 32), "ssh-ed25519 AAAA proof"),
            media=tmp_path / "media",
            base="http://192.0.2.1:8080",
            defaults={},
        )

    return offered


def put(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(BOOT_CFG if file == "boot.cfg" else "x")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("esxi8", ["boot.cfg", "mboot.c32", "efi/boot/bootx64.efi"]),
        ("windows2022", ["wimboot", "sources/boot.wim", "boot/bcd", "boot/boot.sdi"]),
        ("rocky9", ["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"]),
    ],
)
def test_all_that_a_machine_boots_must_be_there(
    offered: Callable[..., Profiles], tmp_path: Path, name: str, files: list[str]
) -> None:
    profiles = offered(name)
    put(tmp_path / "media" / name, *files[1:])
    with pytest.raises(MediaMissing, match=files[0].replace(".", r"\.")):
        profiles.check_media(profiles.offer(name))
    put(tmp_path / "media" / name, files[0])
    profiles.check_media(profiles.offer(name))
    assert profiles.briefs()[0]["media_ready"] is True


@pytest.mark.parametrize(
    ("name", "boots", "fetched"),
    [
        ("ubuntu2404", ["casper/vmlinuz", "casper/initrd"], "ubuntu-24.04-live-server-amd64.iso"),
        ("fcos", ["vmlinuz", "initramfs.img"], "rootfs.img"),
    ],
)
def test_what_an_installer_fetches_from_us_must_be_there(
    offered: Callable[..., Profiles], tmp_path: Path, name: str, boots: list[str], fetched: str
) -> None:
    profiles = offered(name)
    offer = profiles.offer(name)
    put(tmp_path / "media" / name, *boots)
    profiles.check_media(offer)
    with pytest.raises(MediaMissing, match=rf"{name}/{fetched} missing, which its installer fetches"):
        profiles.check_fetched(offer)
    assert profiles.show(name)["media_ready"] is False
    recipe = profiles.recipe(offer, SERVER, {}, {"disk": "serial=S1"})
    assert [error.code for error in profiles.check(recipe, 3)] == ["BM202"]
    put(tmp_path / "media" / name, fetched)
    profiles.check_fetched(offer)
    assert profiles.check(recipe, 3) == []
    assert profiles.show(name)["media_ready"] is True


def test_a_file_that_a_server_is_sent_to_must_be_there(
    offered: Callable[..., Profiles], tmp_path: Path
) -> None:
    """By its own variables: another server's deploy of the same profile is not concerned."""
    profiles = offered("ubuntu2404")
    offer = profiles.offer("ubuntu2404")
    put(tmp_path / "media" / "ubuntu2404", "casper/vmlinuz", "casper/initrd", "own.iso")
    assert (
        profiles.check(profiles.recipe(offer, SERVER, {}, {"disk": "serial=S1", "iso": "own.iso"}), 1) == []
    )
    (problem,) = profiles.check(profiles.recipe(offer, SERVER, {"iso": "typo.iso"}, {"disk": "serial=S1"}), 1)
    assert "ubuntu2404/typo.iso missing" in str(problem)
    endless = {"iso": "x" * 300 + ".iso"}  # longer than any file system's names
    (problem,) = profiles.check(profiles.recipe(offer, SERVER, endless, {"disk": "serial=S1"}), 1)
    assert problem.code == "BM202"


def test_esxi_repeats_what_its_medium_boots(offered: Callable[..., Profiles], tmp_path: Path) -> None:
    profiles = offered("esxi8")
    asked = {"esxi_disk": "mpx.vmhba0:C0:T0:L0"}
    recipe = profiles.recipe(profiles.offer("esxi8"), SAMPLE_SERVER, {}, asked)
    assert [error.code for error in profiles.check(recipe, 1)] == ["BM204"]
    assert "boot.cfg of the medium" in str(profiles.check(recipe, 1)[0])
    put(tmp_path / "media/esxi8", "boot.cfg")
    recipe = profiles.recipe(profiles.offer("esxi8"), SAMPLE_SERVER, {}, asked)
    assert profiles.check(recipe, 1) == []
    kitchen = Kitchen(TokenMint(b"s" * 32), "")
    files = {file["name"]: file["text"] for file in kitchen.preview(recipe, 1, "http://192.0.2.1:8080")}
    assert "\nkernel=b.b00\n" in files["boot.cfg"]
    assert "\nmodules=jumpstrt.gz --- s.v00\n" in files["boot.cfg"]
    assert profiles.show("esxi8")["asks_go"] is False


@pytest.mark.slow
def test_the_list_tells_the_record_and_show_asks_the_checkers(
    offered: Callable[..., Profiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "templates/kickstart/redhat.ks.j2"
    own.parent.mkdir(parents=True)
    shipped_text = Templates.with_own().text("kickstart/redhat.ks.j2")
    profiles = offered("rocky9", "esxi8")
    states = {brief["name"]: brief["state"] for brief in profiles.briefs()}
    assert states == {"rocky9": "validated", "esxi8": "fetch-checked"}
    own.write_text("# ours\n" + shipped_text)
    assert profiles.briefs()[1]["state"] == "fetch-checked"  # its boot script is still the one that ran
    checked = profiles.show("rocky9")
    assert (checked["state"], checked["state_reason"]) == ("validated", "pykickstart finds nothing wrong")
    own.write_text("frobnicate --now\n" + shipped_text)
    assert profiles.show("rocky9")["state"] == "broken"
    assert "frobnicate" in profiles.show("rocky9")["state_reason"]
    own.write_text("# theirs\n" + shipped_text)
    monkeypatch.setattr(checkers, "find_program", lambda _: None)
    assert profiles.show("rocky9")["state"] == "fetch-checked"
    assert "pykickstart is not installed" in profiles.show("rocky9")["state_reason"]


def test_several_may_ask_at_once(offered: Callable[..., Profiles]) -> None:
    profiles = offered("rocky9", "esxi8", "fcos")
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append([brief["state"] for brief in profiles.briefs()]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [found[0]] * 4
