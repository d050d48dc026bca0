"""The scripts of the newer families, run by real shells: nothing is written before go, nor any other disk."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baremetal.netboot.context import Context, Urls, merge_variables
from baremetal.netboot.lint.samples import NEEDS
from baremetal.netboot.render import render_answer
from baremetal.netboot.templates import Templates, freeze
from tests.unit.netboot.sample import PROOF_KEY, SERVER
from tests.unit.netboot.shipped import shipped
from tests.unit.netboot.stage import OFF, SHELLS, TOOLS, Machine, Office, office

pytestmark = pytest.mark.slow

GIB = 2**30 // 512
MORE_TOOLS = [
    "dd",
    "mkfifo",
    "sha256sum",
    "tee",
    "gunzip",
    "gzip",
    "base64",
    "ssh-keygen",
    "env",
    "ip",
    "sh",
    "cut",
]
GUARD = """
reboot() { echo "$@" >"$BM_TMP/reboot"; }
systemctl() { echo "$@" >"$BM_TMP/reboot"; }
blockdev() { :; }
"""
INSTALLER = """#!/bin/sh
echo "$@" >"$BM_TMP/installed"
cp "$4" "$BM_TMP/written.ign"
"""


@pytest.fixture(params=SHELLS, ids="-".join)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    shell, fetcher = request.param
    for tool in (shell, fetcher):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = Machine(tmp_path, shell, fetcher).nic("eth0", SERVER.boot_mac)
    for tool in MORE_TOOLS:
        if (found := shutil.which(tool)) and tool not in TOOLS:
            (tmp_path / "bin" / tool).symlink_to(found)
    installer = tmp_path / "bin/coreos-installer"
    installer.write_text(INSTALLER)
    installer.chmod(0o755)
    return made


@pytest.fixture
def there() -> Iterator[Office]:
    with office() as here:
        yield here


def script(name: str, file: str, there: Office, **variables: Any) -> str:
    profile = shipped()[name]
    needs = {**NEEDS.get(profile.family, {}), **profile.variables, **variables}
    urls = Urls.of(there.url, profile.name, "fetch-token-" + "f" * 40, "callback-token-" + "c" * 40)
    context = Context(SERVER, 3, profile, merge_variables(needs), urls, PROOF_KEY)
    return render_answer(freeze(profile, Templates.with_own()), file, context)


def test_autoinstall_names_the_disk_where_the_installer_reads_it(machine: Machine, there: Office) -> None:
    machine.disk("nvme0n1", 20 * GIB, serial="DISK-1").disk("sda", 2 * GIB, serial="DISK-2")
    answers = machine.folder / "autoinstall.yaml"
    answers.write_text(script("ubuntu2404", "user-data", there))
    early = script("ubuntu2404", "early.sh", there, disk="serial=DISK-1")
    done = machine.run(early, BM_ANSWERS=str(answers))
    assert done.returncode == 0, done.stderr
    assert "match: {path: /dev/nvme0n1}" in answers.read_text()
    assert there.signals() == ["install-started"]
    assert there.last("install-started")["disk"] == "nvme0n1"


@pytest.mark.parametrize("reply", [(404, "not found"), (409, "refused")])
@pytest.mark.parametrize("name", ["ubuntu2404", "sles15", "fcos", "image"])
def test_without_go_nothing_is_named_and_the_machine_is_off(
    machine: Machine, there: Office, name: str, reply: tuple[int, str]
) -> None:
    machine.disk("vda", 20 * GIB, serial="DISK-1")
    there.replies["install-started"] = [reply]
    answers = machine.folder / "autoinst.xml"
    answers.write_text("<device>/dev/bm-disk-not-chosen</device>\n")
    (machine.folder / "vda").write_bytes(b"old")
    file = {"fcos": "install.sh", "image": "run.sh"}.get(name, "early.sh")
    done = machine.run(
        GUARD + script(name, file, there),
        BM_ANSWERS=str(answers),
        BM_PROFILE=str(machine.folder),
        BM_DEV=str(machine.folder),
    )
    assert done.returncode == OFF
    assert machine.is_off
    assert "bm-disk-not-chosen" in answers.read_text()
    assert not (machine.folder / "modified.xml").exists()
    assert not (machine.folder / "tmp/installed").exists()
    assert (machine.folder / "vda").read_bytes() == b"old"


def test_an_answer_file_without_the_place_for_the_disk_refuses(machine: Machine, there: Office) -> None:
    machine.disk("vda", 20 * GIB, serial="DISK-1")
    answers = machine.folder / "autoinstall.yaml"
    answers.write_text("autoinstall: {storage: {layout: {name: lvm}}}\n")
    done = machine.run(script("ubuntu2404", "early.sh", there), BM_ANSWERS=str(answers))
    assert done.returncode == OFF
    assert there.signals() == ["install-started", "install-failed"]
    assert "could not be named" in there.last("install-failed")["message"]


def test_autoyast_gets_a_modified_profile(machine: Machine, there: Office) -> None:
    machine.disk("vda", 20 * GIB, serial="DISK-1")
    (machine.folder / "autoinst.xml").write_text(script("sles15", "autoinst.xml", there))
    done = machine.run(script("sles15", "early.sh", there), BM_PROFILE=str(machine.folder))
    assert done.returncode == 0, done.stderr
    text = (machine.folder / "modified.xml").read_text()
    assert "<device>/dev/vda</device>" in text
    assert "not-chosen" not in text


@pytest.mark.parametrize(("name", "file"), [("sles15", "late.sh"), ("ubuntu2404", "late.sh")])
def test_the_late_scripts_settle_in_and_report(machine: Machine, there: Office, name: str, file: str) -> None:
    machine.disk("vda", 20 * GIB, serial="DISK-1")
    (machine.folder / "root/etc").mkdir()
    if name == "ubuntu2404":
        (machine.folder / "autoinstall.yaml").write_text("path: /dev/bm-disk-not-chosen\n")
        early = script(name, "early.sh", there)
        assert machine.run(early, BM_ANSWERS=str(machine.folder / "autoinstall.yaml")).returncode == 0
    done = machine.run(script(name, file, there))
    assert done.returncode == 0, done.stderr
    assert there.signals("install-started") == ["install-complete"]
    assert "AAAAhost" in there.last("install-complete")["ssh_host_keys"]
    assert (machine.folder / "root/etc/baremetal/run").read_text() == f"{SERVER.id}/3\n"


def test_coreos_is_installed_with_a_host_key_that_was_reported(machine: Machine, there: Office) -> None:
    if machine.fetcher == "wget":
        pytest.skip("the live system has curl")
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    if machine.shell == "dash":
        pytest.skip("the live system's shell is bash")
    machine.disk("vda", 20 * GIB, serial="DISK-1")
    text = script("fcos", "install.sh", there)
    # The office answers every path alike, so the config is handed over in a file of its own.
    target = machine.folder / "served.ign"
    target.write_text(script("fcos", "target.ign", there))
    fetch = f'bm_curl() {{ case $1 in */target.ign) cp {target} "$BM_TARGET" ;; *) bm_real_curl "$@" ;; esac; }}\n'
    text = text.replace("BM_TARGET=$BM_TMP/target.ign\n", "BM_TARGET=$BM_TMP/target.ign\n" + _KEEP + fetch)
    done = machine.run(GUARD + text)
    assert done.returncode == 0, done.stderr
    assert (machine.folder / "tmp/installed").read_text().split()[:2] == ["install", "/dev/vda"]
    written = (machine.folder / "tmp/written.ign").read_text()
    assert "BM-HOST-KEY" not in written
    key = there.last("install-complete")["ssh_host_keys"]
    assert key.startswith('["ssh-ed25519 AAAA')
    assert (machine.folder / "tmp/reboot").read_text() == "reboot\n"


_KEEP = 'eval "bm_real_curl() $(declare -f bm_curl | tail -n +2)"\n'


def _image(
    there: Office, machine: Machine, data: bytes, name: str, **variables: Any
) -> subprocess.CompletedProcess[str]:
    (machine.folder / name).write_bytes(data)
    machine.disk("vda", 20 * GIB, serial="DISK-1")
    (machine.folder / "vda").write_bytes(b"\xff" * (3 << 20))
    text = script("image", "run.sh", there, image_url=f"http://image.invalid/{name}", **variables)
    fetch = f"bm_fetch() {{ cat {machine.folder / name}; }}\n"
    at = text.index("bm_progress image ")
    (machine.folder / "root/etc").mkdir()
    return machine.run(GUARD + text[:at] + fetch + text[at:], BM_DEV=str(machine.folder), BM_MOUNTED="yes")


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_is_streamed_and_compared_before_it_is_reported(
    machine: Machine, there: Office, packed: bool
) -> None:
    """S2-8: an image as a way to deploy."""
    data = os.urandom(2 << 20)
    served = gzip.compress(data) if packed else data
    done = _image(
        there,
        machine,
        served,
        "image.raw.gz" if packed else "image.raw",
        image_sha256=hashlib.sha256(served).hexdigest().upper(),
        ip="192.0.2.10/24",
    )
    assert done.returncode == 0, done.stderr
    assert (machine.folder / "vda").read_bytes() == data + b"\xff" * (1 << 20)
    assert there.signals() == ["install-started", "install-complete"]
    seed = machine.folder / "root/var/lib/cloud/seed/nocloud"
    assert (seed / "meta-data").read_text().startswith('instance-id: "baremetal-')
    assert "192.0.2.10/24" in (seed / "network-config").read_text()
    assert (machine.folder / "root/etc/baremetal/run").exists()
    assert (machine.folder / "tmp/reboot").exists()


@pytest.mark.parametrize("fault", ["checksum", "torn"])
def test_an_image_that_is_not_the_one_asked_for_leaves_nothing_to_boot(
    machine: Machine, there: Office, fault: str
) -> None:
    served = gzip.compress(os.urandom(2 << 20))
    torn = served[: len(served) // 2] if fault == "torn" else served
    wanted = hashlib.sha256(torn if fault == "torn" else b"other").hexdigest()
    done = _image(there, machine, torn, "image.raw.gz", image_sha256=wanted)
    assert done.returncode == OFF
    assert machine.is_off
    assert (machine.folder / "vda").read_bytes()[: 1 << 20] == b"\0" * (1 << 20)
    assert there.signals() == ["install-started", "install-failed"]
    said = there.last("install-failed")["message"]
    assert ("SHA-256" in said) if fault == "checksum" else ("could not be written" in said)


EFIBOOTMGR = """#!/bin/sh
[ $# -eq 0 ] || { echo "$@" >"$BM_TMP/order"; exit 0; }
echo 'BootCurrent: 0003'
echo 'Timeout: 1 seconds'
echo 'BootOrder: 0007,0001,0003,0004'
echo 'Boot0003* UEFI PXEv4 (MAC:525400123456)'
"""


@pytest.mark.parametrize("efi", [True, False])
def test_the_network_goes_back_to_the_head_of_the_uefi_boot_order(
    machine: Machine, there: Office, efi: bool
) -> None:
    (machine.folder / "root/etc").mkdir()
    (machine.folder / "bin/efibootmgr").write_text(EFIBOOTMGR)
    (machine.folder / "bin/efibootmgr").chmod(0o755)
    if efi:
        (machine.folder / "sys/firmware/efi").mkdir(parents=True)
    done = machine.run(script("sles15", "late.sh", there, network_first=True))
    assert done.returncode == 0, done.stderr
    order = machine.folder / "tmp/order"
    assert order.exists() == efi
    assert not efi or order.read_text() == "-q -o 0003,0007,0001,0004\n"


def test_the_boot_order_is_left_alone_unless_asked(there: Office) -> None:
    assert "efibootmgr" not in script("sles15", "late.sh", there)
