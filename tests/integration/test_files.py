"""Plain names over TFTP: the same answers as over HTTP, and nothing that is not meant to be given away."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from baremetal.netboot import grub, pxelinux
from baremetal.service.boot.files import Files
from baremetal.service.boot.requests import FileRequest
from baremetal.service.media.fit import Need
from baremetal.service.media.importing import MediaImport
from baremetal.service.media.loaders import Loaders
from baremetal.service.media.media import Media
from tests.integration.conftest import MAC, Service
from tests.unit.media import skeleton

CLIENT = "10.0.0.5"
PXE = ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img")
HYPHENS = MAC.replace(":", "-")


@pytest.fixture
def files(service: Service) -> Files:
    return service.app.files


def text(files: Files, service: Service, name: str) -> str | None:
    found = files.resolve(name, CLIENT, service.boot_url)
    assert not isinstance(found, Path)
    return None if found is None else found.decode()


def test_pxelinux_boots_an_installer_by_tftp_alone(service: Service, files: Files) -> None:
    """S3-3, S2-3, S3-5: each name of its order, kernel and initrd, and all of it on the timeline."""
    service.enrol()
    number = service.deploy_until_window()
    files.saw(FileRequest(CLIENT, "pxelinux.0", served=True, bytes=42988))
    files.saw(FileRequest(CLIENT, "ldlinux.efi", served=False, reason="not found"))
    names = pxelinux.lookups(MAC, CLIENT, "b8945908-d6a6-41a9-8e5d-c5a1d5c0f00d")
    assert text(files, service, names[0]) is None
    config = text(files, service, names[1])
    assert config is not None
    assert f"KERNEL ::media/_r1.{number}/test/vmlinuz\n" in config
    kernel = files.resolve(f"media/_r1.{number}/test/vmlinuz", CLIENT, service.boot_url)
    assert isinstance(kernel, Path)
    assert kernel.read_bytes() == b"kernel"
    files.saw(FileRequest(CLIENT, "revocations.efi", served=False, is_harmless=True))
    time.sleep(0.8)
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    for note in (
        f"TFTP: pxelinux.0 fetched by {CLIENT} (42988 bytes)",
        f"TFTP: ldlinux.efi not served to {CLIENT}: not found",
        f"boot script served to {CLIENT}",
        f"kernel test/vmlinuz fetched by {CLIENT}",
        f"TFTP: revocations.efi asked for by {CLIENT}, which need not be there",
    ):
        assert note in notes, (note, notes)


def test_what_led_to_ipxe_is_on_the_timeline_too(service: Service, tmp_path: Path) -> None:
    """S3-5: iPXE is the first to say who it is; firmware fetched it before, by TFTP or by HTTP."""
    service.enrol()
    loader = service.app.config.data_dir / "loaders" / "ipxe.efi"
    loader.parent.mkdir(exist_ok=True)
    loader.write_bytes(b"loader")
    here = "127.0.0.1"
    service.app.files.saw(FileRequest(here, "snponly.efi", served=True, bytes=173792))
    assert service.machine.head("/loaders/ipxe.efi").headers["content-length"] == "6"
    assert service.machine.get("/loaders/ipxe.efi").content == b"loader"
    service.machine.get("/ipxe", params={"mac": MAC})
    time.sleep(0.8)
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    fetched = [note for note in notes if " fetched by " in note]
    assert fetched == [
        f"TFTP: snponly.efi fetched by {here} (173792 bytes)",
        f"HTTP: loaders/ipxe.efi fetched by {here} (6 bytes)",
    ]


def test_the_same_answers_as_over_http(service: Service, files: Files) -> None:
    """S0-1, S1-2: scripts embedded into iPXE chain to boot.ipxe or the MAC's script by TFTP."""
    service.enrol()
    for name in (
        f"grub.cfg-01-{HYPHENS}",
        f"grub/mac/{MAC}.cfg",
        "grub/grub.cfg",
        f"{HYPHENS}.ipxe",
        "boot.ipxe",
    ):
        assert text(files, service, name) == service.machine.get(f"/{name}").text, name
    assert text(files, service, "pxelinux.cfg/default") == service.machine.get("/pxelinux.cfg/default").text
    for name in grub.lookups("52:54:00:99:99:99", "10.0.0.9")[:-1]:
        assert files.resolve(name.lstrip("/"), CLIENT, service.boot_url) is None


def test_an_imported_image_is_booted_from_by_tftp_and_installed_from_by_http(
    service: Service, files: Files, tmp_path: Path
) -> None:
    """S2-4: kernel and initrd below the TFTP root, the tree below the HTTP root, syslinux's own files beside them."""
    root = service.folder / "data/media"
    need = Need("centos7", "centos7", "kickstart", "x86_64", *PXE, release="7")
    tree = skeleton.red_hat("CentOS", "7")
    added = MediaImport(root, (need,), now=lambda: datetime.now(UTC)).add(
        "centos7", skeleton.make_iso(tree, tmp_path / "CentOS-7-x86_64-Minimal-2009.iso")
    )
    assert added.record.version == "7"
    for path in PXE:
        found = files.resolve(f"media/centos7/{path}", CLIENT, service.boot_url)
        assert isinstance(found, Path)
        assert found.read_bytes() == tree[path]
    for path, data in tree.items():
        assert service.machine.get(f"/media/centos7/{path}").content == data, path
    service.enrol()
    number = service.post("/v1/servers/r1/deploy", {"profile": "centos7"})["run"]
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    config = text(files, service, f"pxelinux.cfg/01-{HYPHENS}")
    assert config is not None
    kernel, initrd = (re.findall(rf"{word} ::(\S+)", config)[0] for word in ("KERNEL", "INITRD"))
    assert kernel == f"media/_r1.{number}/centos7/{PXE[0]}"
    for name, path in ((kernel, PXE[0]), (initrd, PXE[1])):
        fetched = files.resolve(name, CLIENT, service.boot_url)
        assert isinstance(fetched, Path)
        assert fetched.read_bytes() == tree[path]
    own = service.folder / "data/loaders"
    own.mkdir(exist_ok=True)
    for name in ("pxelinux.0", "ldlinux.c32", "menu.c32"):
        (own / name).write_bytes(name.encode())
        assert files.resolve(name, CLIENT, service.boot_url) == own / name


@pytest.mark.parametrize(
    "name",
    ["control.token", "secrets/master.key", "baremetal.db", "media", "media/", "media/test", "media/../baremetal.db",
     "media/test/../../secrets/master.key", "loaders", "etc/passwd", "test/vmlinuz", "", "media/.hidden/x"],
)  # fmt: skip
def test_nothing_else_has_a_name(service: Service, files: Files, name: str) -> None:
    assert files.resolve(name, CLIENT, service.boot_url) is None


def test_loaders_are_files(service: Service, tmp_path: Path) -> None:
    """S0-1, S3-1."""
    (tmp_path / "undionly.kpxe").write_bytes(b"loader")
    boot = service.app.boot_answers
    files = Files(boot, Media(tmp_path, {}), Loaders(tmp_path))
    assert files.resolve("undionly.kpxe", CLIENT, "http://x") == tmp_path / "undionly.kpxe"
