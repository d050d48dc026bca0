"""The scripts of the RAM system, run by real shells: what is wiped, and when nothing is; what is reported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.lint.lint import lint_profile
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer, render_install_script
from baremetal.netboot.templates import Templates, freeze
from tests.unit.netboot.sample import SERVER
from tests.unit.netboot.stage import FC, ISCSI, SHELLS, Machine, Office, disks_of, office

pytestmark = pytest.mark.slow

MIB = 2**20
NAMES = ("inspect", "rescue", "wipe")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFSAMPLE0000000000000000000000000000000000000 operator"
MORE_TOOLS = ("dd", "wc", "uname")


def profile(name: str) -> Profile:
    return Profile(name, Family.RAMDISK, "vmlinuz", "initrd.img", f"ramdisk/{name}.sh.j2")


def context(name: str, base: str, server: ServerFacts = SERVER) -> Context:
    return Context(
        server=server,
        run=7,
        profile=profile(name),
        variables=merge_variables({"ssh_authorized_keys": [KEY]}),
        urls=Urls.of(base, "ramdisk", "f" * 44, "c" * 44),
    )


def script(name: str, base: str, server: ServerFacts = SERVER) -> str:
    return render_answer(freeze(profile(name), Templates.with_own()), "run.sh", context(name, base, server))


@pytest.fixture(params=SHELLS, ids="-".join)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    shell, fetcher = request.param
    for tool in (shell, fetcher):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    built = Machine(tmp_path, shell, fetcher).nic("eth0", SERVER.boot_mac)
    for tool in MORE_TOOLS:
        (built.folder / "bin" / tool).symlink_to(shutil.which(tool) or "/nonexistent")
    (built.folder / "dev").mkdir()
    return built


@pytest.fixture
def there() -> Iterator[Office]:
    with office() as here:
        here.replies["wipe-started"] = [(200, "go")]
        yield here


def disk(machine: Machine, name: str, size: int, **files: str) -> Path:
    """Add a disk that holds data: its sysfs folder, and a file in the place of its device."""
    machine.disk(name, size // 512, **files)
    path = machine.folder / "dev" / name
    path.write_bytes(os.urandom(size))
    return path


def wipe(machine: Machine, there: Office, server: ServerFacts = SERVER) -> None:
    machine.run(script("wipe", there.url, server), BM_DEV=str(machine.folder / "dev"), BM_REST="0")
    assert machine.is_off


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_scripts_pass_their_linter(name: str) -> None:
    assert lint_profile(profile(name), Templates.with_own()) == []


def test_the_boot_script_names_the_script_and_no_call_back() -> None:
    text = render_install_script(
        freeze(profile("wipe"), Templates.with_own()), context("wipe", "http://b.test")
    )
    assert f"bm.script=http://b.test/answer/{'f' * 44}/run.sh" in text
    assert "/callback/" not in text


def test_every_fixed_disk_is_zeroed_after_go_and_told_by_its_serial(machine: Machine, there: Office) -> None:
    sizes = {"sda": 5 * MIB + 1536, "sdb": 3 * MIB}
    paths = {name: disk(machine, name, size, serial=f"SER-{name}") for name, size in sizes.items()}
    stick = disk(machine, "sdu", MIB, removable="1")
    kept = stick.read_bytes()
    wipe(machine, there)
    assert all(path.read_bytes() == bytes(sizes[name]) for name, path in paths.items())
    assert stick.read_bytes() == kept
    assert there.signals() == ["wipe-started", "wipe-complete"]
    assert set(disks_of(there.last("wipe-started"))) == {"sda", "sdb"}
    said = there.last("wipe-complete")["message"]
    assert "sda serial SER-sda overwritten" in said
    assert "sdb serial SER-sdb overwritten" in said
    told = [
        call.fields for call in there.calls if call.signal == "progress" and call.fields["stage"] == "sda"
    ]
    assert [int(fields["percent"]) for fields in told] == sorted(int(fields["percent"]) for fields in told)
    assert all("SER-sda" in fields["message"] for fields in told)


def test_a_discard_that_only_says_so_is_followed_by_an_overwrite(machine: Machine, there: Office) -> None:
    path = disk(machine, "nvme0n1", 2 * MIB, serial="N1")
    lying = machine.folder / "bin/blkdiscard"
    lying.write_text("#!/bin/sh\nexit 0\n")
    lying.chmod(0o755)
    wipe(machine, there)
    assert path.read_bytes() == bytes(2 * MIB)
    assert "overwritten" in there.last("wipe-complete")["message"]


@pytest.mark.parametrize("status", [404, 409])
def test_without_go_nothing_is_written(machine: Machine, there: Office, status: int) -> None:
    path = disk(machine, "sda", MIB)
    before = path.read_bytes()
    there.replies["wipe-started"] = [(503, "wait"), (status, "no")]
    wipe(machine, there)
    assert path.read_bytes() == before
    assert there.signals() == ["wipe-started", "wipe-started"]


def test_another_machine_is_not_wiped(machine: Machine, there: Office) -> None:
    """I19."""
    path = disk(machine, "sda", MIB)
    before = path.read_bytes()
    wipe(machine, there, ServerFacts(SERVER.id, SERVER.name, ("02:00:00:00:00:77",), "02:00:00:00:00:77"))
    assert path.read_bytes() == before
    assert there.signals() == ["wipe-failed"]
    assert there.last("wipe-failed")["stage"] == "identity"


@pytest.mark.parametrize("where", [FC, ISCSI, "virtual/nvme-fabrics/ctl/nvme1"])
def test_a_disk_of_a_storage_network_is_neither_wiped_nor_named_in_go(
    machine: Machine, there: Office, where: str
) -> None:
    """A server with a host bus adapter sees the volumes of others."""
    sizes = {"sda": MIB, "sdc": MIB}
    own = [disk(machine, name, size) for name, size in sizes.items()]
    shared = disk(machine, "sdb", MIB)
    before = shared.read_bytes()
    machine.through("sdb", where)
    disk(machine, "sdd", MIB, ro="1")  # nor does a read-only one refuse the wipe of the others
    machine.through("sdd", where)
    wipe(machine, there)
    assert shared.read_bytes() == before
    assert [path.read_bytes() for path in own] == [bytes(MIB)] * 2
    assert set(disks_of(there.last("wipe-started"))) == set(sizes)
    assert "storage network: sdb" in there.last("wipe-complete")["message"]


def test_an_nvme_disk_says_by_which_transport_it_comes(machine: Machine, there: Office) -> None:
    local = disk(machine, "nvme0n1", MIB, device__transport="pcie")
    shared = disk(machine, "nvme1n1", MIB, device__transport="tcp")
    before = shared.read_bytes()
    wipe(machine, there)
    assert (local.read_bytes(), shared.read_bytes()) == (bytes(MIB), before)


def test_where_all_disks_lie_in_a_storage_network_nothing_is_wiped(machine: Machine, there: Office) -> None:
    disk(machine, "sda", MIB)
    machine.through("sda", FC)
    wipe(machine, there)
    assert there.signals() == ["wipe-failed"]
    assert "in a storage network: sda" in there.last("wipe-failed")["message"]


def test_a_read_only_disk_refuses_the_whole_wipe(machine: Machine, there: Office) -> None:
    path = disk(machine, "sda", MIB)
    before = path.read_bytes()
    disk(machine, "sdb", MIB, ro="1")
    wipe(machine, there)
    assert path.read_bytes() == before
    assert there.signals() == ["wipe-failed"]
    assert "sdb is read-only" in there.last("wipe-failed")["message"]


def test_a_disk_that_cannot_be_written_is_named_and_the_others_are_wiped(
    machine: Machine, there: Office
) -> None:
    path = disk(machine, "sda", MIB, serial="GOOD")
    disk(machine, "sdb", MIB, serial="BAD").unlink()
    (machine.folder / "dev/sdb").mkdir()
    wipe(machine, there)
    assert path.read_bytes() == bytes(MIB)
    assert there.signals() == ["wipe-started", "wipe-failed"]
    assert "sdb serial BAD cannot be written" in there.last("wipe-failed")["message"]


def test_no_disk_at_all_is_told(machine: Machine, there: Office) -> None:
    wipe(machine, there)
    assert there.last("wipe-failed")["stage"] == "disk"


def test_an_inspection_reports_what_is_there(machine: Machine, there: Office) -> None:
    disk(machine, "sda", 2 * MIB, serial="SER-A")
    machine.write(
        "proc/cpuinfo", 'processor : 0\nmodel name : A "fine" CPU\nprocessor : 1\nmodel name : the same'
    )
    machine.write("proc/meminfo", "MemTotal:       16308924 kB\nMemFree: 1 kB")
    machine.write("sys/class/dmi/id/sys_vendor", "ACME")
    machine.write("sys/class/dmi/id/product_name", "Box 9")
    machine.write("sys/class/net/eth0/device/vendor", "0x8086")
    machine.write("sys/class/net/eth0/speed", "10000")
    machine.write("sys/class/net/eth0/carrier", "1")
    machine.nic("eth1", "02:00:00:00:00:11").write("sys/class/net/eth1/device/vendor", "0x8086")
    machine.run(script("inspect", there.url), BM_PROC=str(machine.folder / "proc"), BM_REST="0")
    assert there.signals() == ["inspect-complete"]
    fields = there.last("inspect-complete")
    assert disks_of(fields)["sda"]["serial"] == "SER-A"
    assert json.loads(fields["inventory"]) == {
        "cpus": 2,
        "cpu": "A fine CPU",
        "arch": os.uname().machine,
        "memory_mib": 16308924 // 1024,
        "nics": [
            {"name": "eth0", "mac": SERVER.boot_mac, "speed_mbps": 10000, "link": True},
            {"name": "eth1", "mac": "02:00:00:00:00:11", "speed_mbps": None, "link": None},
        ],
        "bmc_address": "",
        "vendor": "ACME",
        "product": "Box 9",
    }


def test_a_rescue_without_an_sshd_says_so(machine: Machine, there: Office) -> None:
    machine.run(script("rescue", there.url))
    assert machine.is_off
    assert there.signals() == ["rescue-failed"]
    assert there.last("rescue-failed")["stage"] == "sshd"
    keys = machine.folder / "root/root/.ssh/authorized_keys"
    assert keys.read_text() == f"{KEY}\n"
    assert keys.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("blkdiscard /dev/sda\nbm_ask_wipe\nbm_report wipe-complete\n", "before the call-back wipe-started"),
        (
            'if dd if=/dev/zero of="$disk" bs=1M; then bm_report wipe-complete; fi\n',
            "before the call-back wipe-started",
        ),
        ("bm_ask_wipe\nblkdiscard /dev/sda\n", "never calls back"),
    ],
)
def test_the_linter_finds_a_script_that_writes_too_early_or_says_nothing(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "ramdisk/mine.sh.j2"
    path.parent.mkdir()
    path.write_text(text)
    mine = Profile("mine", Family.RAMDISK, "vmlinuz", "initrd.img", "ramdisk/mine.sh.j2")
    found = lint_profile(mine, Templates.with_own(tmp_path))
    assert any(complaint in str(finding) for finding in found), found


def test_a_script_that_asks_first_passes(tmp_path: Path) -> None:
    path = tmp_path / "ramdisk/mine.sh.j2"
    path.parent.mkdir()
    path.write_text("bm_ask_wipe\nblkdiscard /dev/sda\nbm_report wipe-complete\n")
    mine = Profile("mine", Family.RAMDISK, "vmlinuz", "initrd.img", "ramdisk/mine.sh.j2")
    assert lint_profile(mine, Templates.with_own(tmp_path)) == []
