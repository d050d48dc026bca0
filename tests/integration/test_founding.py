"""What the founding systems booted over the network, over real sockets: each file their loaders ask for is there.

Their names lead to our boot answer; what it starts is followed as iPXE would follow it. In real iPXE, with dummy files:
`lab/test_fetches.py`. Their `sanhook` and `sanboot` belong to volumes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MAC, Service, running
from tests.unit.media import skeleton

HEXED, HYPHENS = MAC.replace(":", ""), MAC.replace(":", "-")
BOOT_CFG = (
    "bootstate=0\nkernel=/b.b00\nkernelopt=cdromBoot runweasel\nmodules=/jumpstrt.gz --- /useropts.gz\n"
)
UBUNTU = {f"ubuntu-installer/amd64/{name}": name.encode() for name in ("linux", "initrd.gz")}
ESXI = {**{path.lower(): data for path, data in skeleton.ESXI.items()}, "boot.cfg": BOOT_CFG.encode()}
WINDOWS = {**skeleton.WINDOWS, "wimboot": b"wimboot"}
MEDIA: Mapping[str, skeleton.Tree] = {
    "centos7": skeleton.red_hat("CentOS", "7"),
    "ubuntu1804": UBUNTU,
    "esxi7": ESXI,
    "windows2022": WINDOWS,
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("founding")
    with running(folder) as service:
        for name, tree in MEDIA.items():
            skeleton.lay_out(tree, folder / "data/media" / name)
        yield service


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    yield shared
    shared.clear()


def start(service: Service, profile: str, name: str, **variables: Any) -> str:
    """Deploy a profile, and ask for the boot script under a founding system's name for the machine."""
    service.enrol()
    service.post("/v1/servers/r1/deploy", {"profile": profile, "vars": variables})
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")
    script = service.machine.get(f"/{name}")
    assert script.status_code == 200
    return script.text


def follow(service: Service, script: str) -> dict[str, bytes]:
    """Fetch what a script starts, in its order, as iPXE would: by the name that each file has then."""
    named = dict(re.findall(r"^set (bm-\S+) (\S+)$", script, re.M))
    found = {}
    for line in re.findall(r"^(?:kernel|initrd) .*", script, re.M):
        words = re.sub(r"\$\{(bm-[^}]+)\}", lambda name: named[name[1]], line.partition(" || ")[0]).split()
        url = next(word for word in words if word.startswith("http://"))
        fetched = service.machine.get(url)
        assert fetched.status_code == 200, url
        found[words[2] if words[1] == "--name" else url.rpartition("/")[2]] = fetched.content
    return found


def kernel_line(script: str) -> list[str]:
    (line,) = re.findall(r"^kernel (\S+ .*) \|\| ", script, re.M)
    return str(line).split()


def test_winpe_by_wimboot(service: Service) -> None:
    """S0-10, S4-6: wimboot with bcd, boot.sdi, boot.wim; bootmgr and UEFI's bootx64.efi, where they are asked for."""
    more = {"install_share": r"\\192.0.2.1\windows", "wimboot_files": "bootmgr efi/boot/bootx64.efi"}
    found = follow(service, start(service, "windows2022", f"boot/mac-{HEXED}.ipxe", **more))
    assert list(found) == [
        "wimboot", "bcd", "boot.sdi", "boot.wim", "bootmgr", "bootx64.efi",
        "winpeshl.ini", "install.bat", "SetupComplete.cmd", "unattend.xml",
    ]  # fmt: skip
    for name, path in {"bcd": "boot/bcd", "boot.wim": "sources/boot.wim", "bootmgr": "bootmgr"}.items():
        assert found[name] == WINDOWS[path]
    assert found["bootx64.efi"] == WINDOWS["efi/boot/bootx64.efi"]


def test_ubuntus_netboot_installer_with_its_preseed(service: Service) -> None:
    """S0-10, S4-4, S4-6: linux and initrd.gz with `auto=true fb=false url=…/preseed.cfg DEBCONF_DEBUG=5` and a name."""
    script = start(
        service, "ubuntu1804", f"ipxe/cfg/mac-{HEXED}.ipxe.cfg",
        kernel_args="fb=false DEBCONF_DEBUG=5", hostname="r1.Ubuntu",
    )  # fmt: skip
    found = follow(service, script)
    assert list(found.values()) == [b"linux", b"initrd.gz"]
    url, *words = kernel_line(script)
    assert url.endswith("/ubuntu-installer/amd64/linux")
    assert {"auto=true", "fb=false", "DEBCONF_DEBUG=5", "hostname=r1.Ubuntu"} <= set(words)
    (preseed,) = [word.removeprefix("url=") for word in words if word.startswith("url=")]
    assert preseed.endswith("/preseed.cfg")
    assert "d-i partman/early_command string" in service.machine.get(preseed).text


def test_centos_with_its_repository(service: Service) -> None:
    """S0-10: vmlinuz and initrd.img, and the repository by URL; pain 18: the NIC that netboots is named."""
    script = start(service, "centos7", f"{HYPHENS}.ipxe")
    tree = MEDIA["centos7"]
    assert list(follow(service, script).values()) == [
        tree["images/pxeboot/vmlinuz"],
        tree["images/pxeboot/initrd.img"],
    ]
    words = kernel_line(script)
    assert f"BOOTIF=01-{HYPHENS}" in words
    (repository,) = [word.removeprefix("inst.repo=") for word in words if word.startswith("inst.repo=")]
    assert service.machine.get(f"{repository}/.treeinfo").content == tree[".treeinfo"]


def test_esxi_by_its_own_loader(service: Service) -> None:
    """S0-10, S0-11: its boot.cfg with `prefix`, and its modules below that; the loader is its own, not memdisk."""
    script = start(service, "esxi7", f"boot/mac-{HEXED}.ipxe", esxi_disk="mpx.vmhba0:C0:T0:L0")
    (url,) = re.findall(r" -c (\S+/boot\.cfg) ", script)
    text = service.machine.get(url).text
    settings = dict(line.split("=", 1) for line in text.splitlines())
    assert list(settings)[:7] == ["bootstate", "title", "timeout", "prefix", "kernel", "kernelopt", "modules"]
    assert (settings["bootstate"], settings["timeout"]) == ("0", "5")
    assert settings["kernelopt"].split()[0] == "runweasel", "its medium's cdromBoot would look for a CD"
    assert f"BOOTIF=01-{HYPHENS}" in settings["kernelopt"].split()
    assert settings["modules"] == "jumpstrt.gz --- useropts.gz"
    assert service.machine.get(f"{settings['prefix']}/{settings['kernel']}").content == b"b"


def test_a_machine_with_a_menu_finds_it_under_its_founding_names(service: Service) -> None:
    """S4-5, S0-5: `menu-timeout` and `menu-default` before the one answer; S1-3: the host's own script by its MAC."""
    service.enrol(vars={"menu_timeout_s": "5", "menu_default": "local"})
    names = (f"ipxe/cfg/mac-{HEXED}.ipxe.cfg", f"cfg/mac-{HEXED}.ipxe.cfg", f"{HYPHENS}.ipxe")
    scripts = {service.machine.get(f"/{name}").text for name in names}
    (script,) = scripts
    assert "choose --default local --timeout 5000 " in script
    labels = re.findall(r"^item (?!--)(\S+) ", script, re.M)
    assert {"local", "shell", "reboot"} <= set(labels)
    assert all(f"\n:{label}\n" in script for label in labels), "each item leads somewhere"


def test_machines_that_are_nobodys_get_the_next_name_or_their_disk(service: Service) -> None:
    """S1-3, S4-5: a script per host, and none for strangers."""
    service.enrol()
    for name in ("52-54-00-99-99-99.ipxe", "cfg/mac-525400999999.ipxe.cfg"):
        told = service.machine.get(f"/{name}").text
        assert "unknown machine" in told
        assert "kernel" not in told
    assert Path(service.folder, "data/media").is_dir()
    assert not list(Path(service.folder, "data").rglob(f"*{HEXED}*")), "nothing per machine stands on disk"
