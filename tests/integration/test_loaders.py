"""Every loader's own names over a real socket: the same boot answer, in its language, counted alike."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import time
from pathlib import Path

import pytest

from baremetal.netboot import grub, pxelinux
from baremetal.netboot.dhcp.offer import Mode, Network, Segment
from baremetal.netboot.lookup import swap_uuid
from baremetal.netboot.scripts import boot_script
from baremetal.service.advice.print_config import Site
from baremetal.service.advice.print_config import text as print_config
from tests.integration.conftest import MAC, Service, running

HYPHENS = MAC.replace(":", "-")
STRANGER = "52:54:00:99:99:99"
UUID = "b8945908-d6a6-41a9-8e5d-c5a1d5c0f00d"


def walk(service: Service, names: list[str]) -> tuple[list[str], str]:
    """Ask for names in order as a loader does: those that were not there, and the text of the first that was."""
    missed: list[str] = []
    for name in names:
        answer = service.machine.get("/" + name.lstrip("/"))
        if answer.status_code == 200:
            return missed, answer.text
        assert (answer.status_code, answer.text) == (404, "not found")
        missed.append(name)
    raise AssertionError("the loader found nothing at all")


def answer_file(text: str) -> str:
    """Find the answer file's URL in a configuration, as `inst.ks=URL` for the rig."""
    found = re.search(r"inst\.ks=[^ ;\n]+", text)
    assert found is not None, text
    return found[0]


def serves(service: Service, name: str = "r1") -> int:
    run = service.app.store.server(name).life.run
    assert run is not None
    return run.serves


def test_red_hats_grub_finds_its_servers_answer_by_mac(service: Service) -> None:
    """S3-2."""
    service.enrol()
    assert "nothing to install" in walk(service, grub.lookups(MAC, "10.1.1.30"))[1]
    number = service.deploy_until_window()
    for prefix in ("/", "/EFI/BOOT/", "/grub/"):
        missed, text = walk(service, grub.lookups(MAC, "10.1.1.30", prefix=prefix))
        assert missed == []
        assert f"linux /media/_r1.{number}/test/vmlinuz BOOTIF=01-{HYPHENS} " in text
    answer, _ = service.tokens(answer_file(text))
    assert service.machine.get(answer).status_code == 200
    missed, text = walk(service, grub.lookups(STRANGER, "10.1.1.31"))
    assert len(missed) == 9, "every name but the last is not found"
    assert text == grub.first_config()


def test_debians_grub_never_asks_per_mac_and_is_sent_to_a_file_that_does(service: Service) -> None:
    """S3-2 for the signed build, which asks for lists of modules and then `$prefix/grub.cfg` alone."""
    service.enrol()
    number = service.deploy_until_window()
    *lists, last, own = grub.debian_lookups(MAC)
    assert {service.machine.get(name).status_code for name in lists} == {404}
    assert service.machine.get("/grub/x86_64-efi/grub.cfg").status_code == 404
    constant = service.machine.get(last).text
    assert constant == grub.first_config()
    assert "source /grub/mac/$net_default_mac.cfg" in constant
    assert f"/media/_r1.{number}/test/vmlinuz" in service.machine.get(own).text
    stranger = service.machine.get(grub.own_name(STRANGER))
    assert "unknown machine" in stranger.text, "a name that only we ask for always has an answer"


def test_opening_a_file_twice_is_one_boot(service: Service) -> None:
    """GRUB looks whether a file is there and then reads it, so `grub.cfg` is asked twice (S3-2); I3 counts boots."""
    service.enrol()
    service.deploy_until_window()
    name = grub.lookups(MAC)[0]
    texts = {service.machine.get(name).text for _ in range(5)}
    assert len(texts) == 1
    assert serves(service) == 1
    assert "/answer/" in service.machine.get(f"/pxelinux.cfg/01-{HYPHENS}").text
    assert serves(service) == 2, "another loader is another boot"
    assert "/answer/" in service.script()
    for loader in (f"/pxelinux.cfg/01-{HYPHENS}", f"/grub/mac/{MAC}.cfg"):
        assert "/answer/" not in service.machine.get(loader).text, "three times at most, whoever asks"


def test_nothing_is_repeated_after_go(service: Service) -> None:
    """I3: after go no installer's script is served, not even one that was served a moment ago."""
    service.enrol()
    service.deploy_until_window()
    name = f"/pxelinux.cfg/01-{HYPHENS}"
    _, callback = service.tokens(answer_file(service.machine.get(name).text))
    disks = [{"name": "vda", "serial": "S1", "size": 10**10, "rotational": False}]
    form = {"boot_id": "b", "macs": [MAC], "disks": disks, "disk": "vda"}
    assert service.machine.post(f"{callback}/install-started", json=form).text == "go"
    assert "/answer/" not in service.machine.get(name).text
    server = service.wait("r1", lambda server: server["provision_state"] == "deploy failed")
    assert "BM405" in server["last_error"]


def test_lpxelinux_is_given_urls_and_goes_down_its_list(service: Service) -> None:
    """S3-3, S2-3."""
    service.enrol()
    number = service.deploy_until_window()
    missed, text = walk(service, pxelinux.lookups(MAC, "10.1.1.30", UUID))
    assert missed == [f"pxelinux.cfg/{swap_uuid(UUID)}"]
    assert f"KERNEL {service.boot_url}/media/_r1.{number}/test/vmlinuz" in text
    assert "IPAPPEND 2" in text
    missed, text = walk(service, pxelinux.lookups(STRANGER, "10.1.1.31"))
    assert len(missed) == 9
    assert "LOCALBOOT 0" in text
    again = service.machine.get(f"/pxelinux.cfg/again-{STRANGER.replace(':', '')}").text
    assert "LOCALBOOT 0" in again, "outside the order there is always an answer"


def test_a_uuid_is_found_whichever_way_round_it_is_written(service: Service) -> None:
    """S3-3: pxelinux hands on the bytes of SMBIOS as they lie."""
    service.enrol(uuid=UUID)
    for uuid in (UUID, swap_uuid(UUID)):
        assert "nothing to install" in service.machine.get(f"/pxelinux.cfg/{uuid}").text
        assert "nothing to install" in service.machine.get("/ipxe", params={"uuid": uuid}).text


def test_an_address_alone_starts_no_installer_and_ends_none(service: Service) -> None:
    """Whoever has another machine's lease is not that machine."""
    service.enrol(ip="10.1.1.30/24")
    names = ["grub.cfg-0A01011E", "pxelinux.cfg/0A01011E"]
    for name in names:
        assert "nothing to install" in service.machine.get("/" + name).text
        assert service.machine.get("/" + name[:-1]).status_code == 404, "a prefix is a group of machines"
    service.deploy_until_window()
    for name in names:
        assert service.machine.get("/" + name).status_code == 404
    assert serves(service) == 0
    time.sleep(0.8)
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    assert any("not enough to install" in note for note in notes)


def test_the_founding_systems_scripts_find_theirs(service: Service) -> None:
    """S0-2, S0-3, S0-4, S1-1, S1-2, S1-3, S4-3: every name that their scripts chain to."""
    service.enrol(uuid=UUID)
    hexed = MAC.replace(":", "")
    want = service.script()
    for name in (
        f"boot/mac-{hexed}.ipxe",
        f"boot/uuid-{UUID}.ipxe",
        f"ipxe/cfg/mac-{hexed}.ipxe.cfg",
        f"cfg/mac-{hexed}.ipxe.cfg",
        f"{HYPHENS}.ipxe",
    ):
        assert service.machine.get(f"/{name}").text == want, name
    for name in (
        "boot/hostname-r1.ipxe",
        "boot/mac-525400999999.ipxe",
        "boot/pci-80861521.ipxe",
        "boot/chip-i350.ipxe",
    ):
        assert service.machine.get(f"/{name}").status_code == 404, "the next name of the order is asked"
    first = service.machine.get("/boot.ipxe").text
    for name in ("default.ipxe", "menu.ipxe", "autoexec.ipxe", "loaders/autoexec.ipxe", "ipxe/boot.ipxe"):
        assert service.machine.get(f"/{name}").text == first
    settings = service.machine.get("/ipxe/boot.ipxe.cfg").text
    assert f"set base-url {service.boot_url}\n" in settings
    assert f"set boot-url {service.boot_url}\n" in settings
    assert "chain" not in settings


def test_a_tftp_folder_of_the_operators_own_is_filled(service: Service, tmp_path: Path) -> None:
    """By the printed script, run where that server is: what is static, from us, by HTTP."""
    url = str(service.machine.base_url).rstrip("/")
    folder = service.folder / "data" / "loaders"
    folder.mkdir(exist_ok=True)
    for name in ("undionly.kpxe", "ipxe.efi"):
        (folder / name).write_bytes(name.encode())
    first = ipaddress.IPv4Address("127.0.0.9")
    loopback = ipaddress.IPv4Network("127.0.0.0/8")

    def fill(base: str) -> subprocess.CompletedProcess[str]:
        segment = Segment("lab", loopback, first, None, "lo", base, "127.0.0.1", f"{base}/boot.ipxe")
        script = print_config("tftp", Site(Network(Mode.EXTERNAL, (segment,)), is_placed=False))
        return subprocess.run(
            ["sh", "-s", str(tmp_path / "tftp root")],
            input=script, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    done = fill(url)
    assert done.returncode == 0, done.stderr
    assert "not there: ipxe-arm64.efi. Needed only" in done.stderr
    assert fill("http://127.0.0.1:9").returncode == 1, "nobody answers, and nothing is lost"
    filled = {path.name: path.read_bytes() for path in (tmp_path / "tftp root").iterdir()}
    script = boot_script(url).encode()
    assert filled == {
        "undionly.kpxe": b"undionly.kpxe",
        "ipxe.efi": b"ipxe.efi",
        "boot.ipxe": script,
        "autoexec.ipxe": script,
    }


def test_loaders_of_the_data_directory_are_served_under_every_spelling(service: Service) -> None:
    """S3-1, S3-6: from any folder, in either case, whole or by HEAD, and nothing else."""
    folder = service.folder / "data" / "loaders"
    folder.mkdir(exist_ok=True)
    (folder / "bootx64.efi").write_bytes(b"MZ shim")
    (folder / "own.efi").write_bytes(b"MZ own")
    (service.folder / "data" / "secret").write_text("x")
    for name in ("bootx64.efi", "BOOTX64.EFI", "EFI/BOOT/BOOTX64.EFI"):
        assert service.machine.get(f"/{name}").content == b"MZ shim", name
    head = service.machine.head("/BOOTX64.EFI")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "7", b"")
    assert service.machine.get("/own.efi").content == b"MZ own"
    for name in (
        "revocations.efi",
        "shim_certificate_0.efi",
        "EFI/BOOT/x86_64-efi/command.lst",
        "loaders/../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "secret",
        "loaders/",
        "",
    ):
        answer = service.machine.get(f"/{name}")
        assert (answer.status_code, answer.text) == (404, "not found"), name
    assert service.machine.head(f"/pxelinux.cfg/01-{HYPHENS}").status_code == 404, (
        "a script that is served counts"
    )


def test_the_configuration_of_an_installation_medium_is_never_served(service: Service) -> None:
    """I2: whoever boots the medium's own loader asks for `grub.cfg` beside it; the medium's would install."""
    folder = service.folder / "data" / "media" / "test" / "EFI" / "BOOT"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grub.cfg").write_text("linux /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=X")
    (folder / "grubx64.efi").write_bytes(b"MZ grub")
    service.enrol()
    number = service.deploy_until_window()
    prefix = "/media/test/EFI/BOOT/"
    assert service.machine.get(f"{prefix}grubx64.efi").content == b"MZ grub"
    assert service.machine.get(f"{prefix}grub.cfg").text == grub.first_config()
    missed, text = walk(service, grub.lookups(MAC, "10.1.1.30", prefix=prefix))
    assert (missed, f"/media/_r1.{number}/test/vmlinuz" in text) == ([], True)


@pytest.mark.parametrize("quirk", ["exit", "next", "sanboot"])
def test_local_boot_by_the_method_that_suits_the_server(service: Service, quirk: str) -> None:
    service.enrol(quirks=[f"local_boot={quirk}"])
    text = service.machine.get(f"/pxelinux.cfg/01-{HYPHENS}").text
    assert {"exit": "LOCALBOOT 0", "next": "LOCALBOOT -1", "sanboot": "COM32 chain.c32"}[quirk] in text
    config = service.machine.get(f"/grub/mac/{MAC}.cfg").text
    assert ("chainloader" in config) == (quirk == "sanboot")


def test_a_menu_where_the_server_asks_for_one(service: Service) -> None:
    """S0-5, S0-8."""
    service.enrol(vars={"menu_timeout_s": "7", "menu_default": "local"})
    assert "choose --default local --timeout 7000" in service.script()
    service.deploy_until_window()
    script = service.script()
    assert "choose --default local --timeout 7000" in script
    assert script.count("\nkernel ") == 1, "one installer, and no other"
    assert "\nitem shell " in script
    config = service.machine.get(f"/grub/mac/{MAC}.cfg").text
    assert "set timeout=7" in config
    assert "set default=local" in config
    config = service.machine.get(f"/pxelinux.cfg/01-{HYPHENS}").text
    assert "TIMEOUT 70\n" in config
    assert "ONTIMEOUT local\n" in config


def test_what_does_not_render_for_a_loader_boots_the_disk(service: Service) -> None:
    """I2."""
    service.enrol(vars={"kernel_args": " ".join(f"option{n}=value" for n in range(150))})
    service.deploy_until_window()
    text = service.machine.get(f"/pxelinux.cfg/01-{HYPHENS}").text
    assert "LOCALBOOT 0" in text
    assert serves(service) == 0
    time.sleep(0.8)
    notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
    assert any("BM204" in note and "pxelinux reads 2047" in note for note in notes)
    assert "/answer/" in service.script(), "the same server can still be installed by iPXE"


def test_a_database_that_does_not_answer_makes_every_loader_wait(tmp_path: Path) -> None:
    """I2: wait and ask again, then local boot; never a default installer."""
    with running(tmp_path) as service:
        service.enrol()
        service.deploy_until_window()
        broken = service.app.store.find_boot

        def fault(*_: object) -> None:
            from baremetal.errors import Unavailable

            raise Unavailable("the database does not answer")

        service.app.store.find_boot = fault  # type: ignore[method-assign, assignment]
        try:
            assert service.machine.get(f"/pxelinux.cfg/{UUID}").status_code == 404, "asked by its MAC next"
            config = service.machine.get(f"/pxelinux.cfg/01-{HYPHENS}").text
            again = re.search(r"CONFIG (pxelinux\.cfg/again-[0-9a-f]{12})\n", config)
            assert again is not None
            assert "PROMPT 1" in config
            assert service.machine.get(f"/{again[1]}").text == config
            assert service.machine.get(f"/grub.cfg-01-{HYPHENS}").text == grub.first_config()
            assert service.machine.get(f"/grub/mac/{MAC}.cfg").text == grub.wait_config()
            assert "cannot answer just now" in service.script()
        finally:
            service.app.store.find_boot = broken  # type: ignore[method-assign]
        assert "/answer/" in service.machine.get(f"/{again[1]}").text
        assert "/answer/" in service.machine.get(f"/grub/mac/{MAC}.cfg").text


def test_a_machine_that_is_known_by_its_uuid_waits_by_its_uuid(tmp_path: Path) -> None:
    """I2: what serving means could not be written down; the server may have no MAC that pxelinux could ask by next."""
    with running(tmp_path) as service:
        service.enrol(uuid=UUID)
        service.deploy_until_window()
        works = service.app.store.commit

        def fault(*_: object, **__: object) -> None:
            from baremetal.errors import Unavailable

            raise Unavailable("the disk is full")

        service.app.store.commit = fault  # type: ignore[method-assign]
        try:
            config = service.machine.get(f"/pxelinux.cfg/{swap_uuid(UUID)}").text
            again = re.search(r"CONFIG (pxelinux\.cfg/again-[0-9a-f]{32})\n", config)
            assert again is not None
            assert service.machine.get(f"/{again[1]}").text == config
        finally:
            service.app.store.commit = works  # type: ignore[method-assign]
        assert "/answer/" in service.machine.get(f"/{again[1]}").text
        assert serves(service) == 1


SHIM = ["bootx64.efi", "revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi", "grubx64.efi"]
WAYS = {
    "iPXE": ["boot.ipxe", f"ipxe?mac={MAC}"],
    "BIOS, iPXE from TFTP": ["undionly.kpxe", "boot.ipxe", f"ipxe?mac={MAC}"],
    "UEFI, iPXE from TFTP": ["ipxe.efi", "boot.ipxe", f"ipxe?mac={MAC}"],
    "BIOS, pxelinux": ["pxelinux.0", "ldlinux.c32", f"pxelinux.cfg/{swap_uuid(UUID)}"],
    "BIOS, lpxelinux": ["lpxelinux.0", "ldlinux.c32", f"pxelinux.cfg/{swap_uuid(UUID)}"],
    "UEFI, shim and Debian's GRUB": [
        *SHIM, "grub/x86_64-efi/command.lst", "grub/x86_64-efi/fs.lst", "grub/x86_64-efi/crypto.lst",
        "grub/x86_64-efi/terminal.lst", "grub/grub.cfg", f"grub/mac/{MAC}.cfg",
    ],
    "UEFI, shim and Red Hat's GRUB": [
        *SHIM, f"grub.cfg-01-{HYPHENS}",
    ],
    "UEFI HTTP boot": ["loaders/ipxe.efi", "boot.ipxe", f"ipxe?mac={MAC}"],
    "scripts of the founding systems": ["boot.ipxe.cfg", f"boot/uuid-{UUID}.ipxe"],
}  # fmt: skip


def test_explain_walks_every_way_as_the_machine_would(service: Service) -> None:
    """S3-2, S3-3: what it says of a name is what asking for that name gives."""
    service.enrol(uuid=UUID, ip="10.1.1.30/24")
    service.deploy_until_window()
    told = service.get("/v1/servers/r1/explain")
    assert [path["loader"] for path in told["paths"]] == list(WAYS)
    for path in told["paths"]:
        urls = [row["url"] for row in path["lookups"] if row["asked"]]
        names = [url.removeprefix("tftp:").removeprefix(f"{service.boot_url}/") for url in urls]
        assert names == WAYS[path["loader"]]
        assert path["lookups"][len(urls) - 1]["answer"].endswith("waits for this machine to netboot")
        assert "masked" in path["script"]
    (pxelinux_way,) = [path for path in told["paths"] if path["loader"] == "BIOS, pxelinux"]
    assert "KERNEL ::media/" in pxelinux_way["script"]
    for row in pxelinux_way["lookups"]:
        name = row["url"].removeprefix("tftp:")
        if not name.startswith("pxelinux.cfg/") or "netboot" in row["answer"]:
            continue
        answer = service.machine.get(f"/{name}")
        assert (answer.status_code == 404) == row["answer"].startswith("not found"), name
    stranger = service.get(f"/v1/servers/{STRANGER}/explain")
    (way,) = [path for path in stranger["paths"] if path["loader"] == "BIOS, lpxelinux"]
    assert [row["asked"] for row in way["lookups"]] == [True] * len(way["lookups"])
    assert way["lookups"][-1]["answer"].startswith("local boot")
    assert "address is not known" in stranger["text"] or "which is not known here" in stranger["text"]


def test_explain_names_what_firmware_of_arm64_is_given(service: Service) -> None:
    """It has no BIOS; the loaders and the folder of GRUB's modules are its own."""
    service.enrol(uuid=UUID, ip="10.1.1.30/24", arch="arm64")
    ways = {path["loader"]: path for path in service.get("/v1/servers/r1/explain")["paths"]}
    assert list(ways) == [title for title in WAYS if not title.startswith("BIOS")]
    for title, way in ways.items():
        asked = [
            row["url"].removeprefix("tftp:").removeprefix(f"{service.boot_url}/") for row in way["lookups"]
        ]
        wanted = [
            name.replace("x86_64-efi", "arm64-efi").replace("x64.efi", "aa64.efi") for name in WAYS[title]
        ]
        wanted = [name.replace("ipxe.efi", "ipxe-arm64.efi") for name in wanted]
        assert asked[: len(wanted)] == wanted


@pytest.mark.parametrize(
    ("loader", "file", "word"),
    [
        ("grub", "grub.cfg", "initrd /media/"),
        ("pxelinux", "pxelinux.cfg", "INITRD ::media/"),
        ("lpxelinux", "lpxelinux.cfg", "INITRD http://"),
        ("ipxe", "install.ipxe", "initrd --name"),
    ],
)
def test_render_shows_the_form_for_a_loader(service: Service, loader: str, file: str, word: str) -> None:
    service.enrol()
    told = service.get("/v1/servers/r1/render", profile="test", loader=loader)
    assert told["files"][0]["name"] == file
    assert word in told["files"][0]["text"]
    assert service.get("/v1/servers/r1/render", 422, profile="test", loader="lilo")["code"] == "BM505"


def test_doctor_names_the_missing_loaders_and_their_packages(service: Service) -> None:
    (found,) = [check for check in service.get("/v1/doctor")["checks"] if check["name"] == "loaders"]
    assert found["ok"] is not False, "machines may bring iPXE themselves"
    if found["ok"] is None:
        assert "apt-get install" in found["fix"]
