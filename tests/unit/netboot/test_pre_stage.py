"""The pre stage of the kickstarts, run by real shells: nothing is written before go, and only to the disk named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baremetal.netboot.context import ServerFacts
from baremetal.netboot.render import render_answer
from tests.unit.netboot.sample import SERVER, context, frozen
from tests.unit.netboot.stage import FC, ISCSI, OFF, SHELLS, Machine, Office, disks_of, office, section

pytestmark = pytest.mark.slow

GIB = 2**30 // 512


@pytest.fixture(params=SHELLS, ids="-".join)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    shell, fetcher = request.param
    for tool in (shell, fetcher):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    return Machine(tmp_path, shell, fetcher).nic("eth0", SERVER.boot_mac)


@pytest.fixture
def there() -> Iterator[Office]:
    with office() as here:
        yield here


def pre(there: Office, server: ServerFacts = SERVER, **variables: Any) -> str:
    text = render_answer(frozen("tiny"), "ks.cfg", context("tiny", there.url, server, **variables))
    return section(text, "pre")


# What the founding article's kickstart says, and what ours says for it where that is more careful.
ARTICLE = [
    "install",
    "auth --enableshadow --passalgo=sha512",
    "text",  # for graphical: nobody looks at it
    "url --url=http://192.0.2.7/centos",
    "lang en_US.UTF-8",
    "keyboard --vckeymap=us --xlayouts=us",
    "timezone Asia/Shanghai --isUtc",
    "selinux --disabled",
    "services --enabled=sshd,chronyd",  # also for `systemctl enable sshd` in %post
    "firstboot --disable",
    "rootpw --lock",  # for rootpw --iscrypted: keys log in
    "network --hostname=node7.example.net",
    "network --device=bootif --bootproto=dhcp --onboot=on --activate",
    "reboot",
    "@core",
    "chrony",
    "kexec-tools",
    "%addon com_redhat_kdump --enable --reserve-mb='auto'",
]


def test_centos7_says_what_the_founding_articles_kickstart_does(machine: Machine, there: Office) -> None:
    """S2-5, with a named disk, a locked root and SSH keys in the place of `clearpart --all` and a password hash."""
    key = "ssh-ed25519 " + "A" * 68 + " ops@example"
    told: dict[str, Any] = {
        "hostname": "node7",
        "domain": "example.net",
        "timezone": "Asia/Shanghai",
        "ssh_authorized_keys": [key],
    }
    text = render_answer(
        frozen("centos7"), "ks.cfg", context("centos7", there.url, mirror="http://192.0.2.7/centos", **told)
    )
    lines = text.splitlines()
    assert [line for line in ARTICLE if line not in lines] == []
    assert not re.search(r"rootpw.*\$|clearpart --all(?! --drives=)", text)
    assert key in section(text, "post")
    machine.disk("vda", 20 * GIB)
    done = machine.run(section(text, "pre"))
    assert done.returncode == 0, done.stderr
    partitioning = (machine.include() or "").splitlines()
    assert {"autopart --type=lvm", "clearpart --all --drives=vda --initlabel"} <= set(partitioning)


def test_with_go_the_include_names_the_one_disk(machine: Machine, there: Office) -> None:
    machine.disk("vda", 20 * GIB, serial="DISK-1", queue__rotational="1")
    machine.disk("sr0", GIB).disk("loop0", GIB).disk("sdu", GIB, removable="1").disk("sdr", GIB, ro="1").disk(
        "nvme9n1", 0
    ).disk("nvme0c0n1", GIB)  # one path to a namespace, without a device of its own
    done = machine.run(pre(there))
    assert done.returncode == 0, done.stderr
    assert machine.include() == (
        "ignoredisk --only-use=vda\nzerombr\nclearpart --all --drives=vda --initlabel\n"
        "autopart --type=lvm\nbootloader --boot-drive=vda --append=console=ttyS0\n"
    )
    assert there.signals() == ["install-started"]
    hello = there.last("install-started")
    assert hello["disk"] == "vda"
    assert disks_of(hello) == {
        "vda": {"name": "vda", "serial": "DISK-1", "wwn": "", "size": 20 * 2**30, "rotational": True}
    }
    assert json.loads(hello["macs"]) == [SERVER.boot_mac]
    assert len(hello["boot_id"]) == 36
    assert [call.fields["stage"] for call in there.calls if call.signal == "progress"] == [
        "pre",
        "partitioning",
    ]
    assert (machine.folder / "tmp/bm-report.sh").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("selector", ["auto", "size>=10G", "rotational=false"])
@pytest.mark.parametrize("where", [FC, ISCSI, "virtual/nvme-fabrics/ctl/nvme1"])
def test_a_volume_of_others_is_not_chosen_by_its_size(
    machine: Machine, there: Office, where: str, selector: str
) -> None:
    """A server with a host bus adapter sees the volumes of others, which are no less large and empty than its own."""
    machine.disk("sda", 20 * GIB).disk("sdb", 400 * GIB, serial="LUN-7").through("sdb", where)
    machine.disk("nvme1n1", 20 * GIB, device__transport="tcp")
    done = machine.run(pre(there, disk=selector))
    assert done.returncode == 0, done.stderr
    assert "ignoredisk --only-use=sda\n" in (machine.include() or "")
    assert set(disks_of(there.last("install-started"))) == {"sda", "sdb", "nvme1n1"}


def test_a_machine_with_nothing_but_a_volume_of_others_is_refused(machine: Machine, there: Office) -> None:
    machine.disk("sdb", 400 * GIB, serial="LUN-7").through("sdb", FC)
    assert machine.run(pre(there, disk="size>=10G")).returncode == OFF
    assert machine.include() is None
    told = there.last("install-failed")["message"]
    assert "BM402 no disk fits" in told
    assert "serial=LUN-7 wwn=- (in a storage network)" in told


def test_a_volume_that_is_named_is_chosen(machine: Machine, there: Office) -> None:
    machine.disk("sda", 20 * GIB).disk("sdb", 400 * GIB, serial="LUN-7").through("sdb", FC)
    assert machine.run(pre(there, disk="serial=LUN-7,size>=10G")).returncode == 0
    assert "ignoredisk --only-use=sdb\n" in (machine.include() or "")


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("serial=SER-B", "sdb"),
        ("wwn=0x5000C500A1B2C3D4", "sda"),
        ("wwn=eui.0025385b", "nvme0n1"),
        ("path=/dev/sdb", "sdb"),
        ("size>=500G", "sdb"),
        ("size<=100G,rotational=false", "nvme0n1"),
        ("rotational=true,size<=200Gi", "sda"),
    ],
)
def test_each_selector_finds_its_disk(machine: Machine, there: Office, selector: str, chosen: str) -> None:
    machine.disk(
        "sda", 100 * GIB, device__wwid="naa.5000c500a1b2c3d4", queue__rotational="1", device__serial="SER-A"
    )
    machine.disk(
        "sdb", 900 * GIB, device__serial="SER B  ", queue__rotational="1", device__wwid="t10.ATA model SER B"
    )
    machine.disk("nvme0n1", 50 * GIB, device__serial="NVME-1", wwid="eui.0025385b")
    done = machine.run(pre(there, disk=selector.replace("SER-B", "SER_B")))
    assert done.returncode == 0, done.stderr
    assert there.last("install-started")["disk"] == chosen
    assert f"--only-use={chosen}\n" in (machine.include() or "")


@pytest.mark.parametrize(
    ("selector", "disks", "words"),
    [
        ("auto", [], "no disk"),
        ("auto", ["vda", "vdb"], "vda vdb"),
        ("serial=NONE", ["vda"], "vda size="),
        ("size>=1M", ["vda", "vdb"], "vda vdb"),
    ],
)
def test_none_or_two_disks_refuse_before_go(
    machine: Machine, there: Office, selector: str, disks: list[str], words: str
) -> None:
    for name in disks:
        machine.disk(name, GIB)
    done = machine.run(pre(there, disk=selector))
    assert done.returncode == OFF
    assert machine.is_off
    assert machine.include() is None
    assert there.signals() == ["install-failed"]
    told = there.last("install-failed")
    assert told["stage"] == "disk"
    assert told["message"].startswith("BM402 ")
    assert words in told["message"]


@pytest.mark.parametrize("status", [404, 409])
def test_a_no_powers_off_and_is_never_asked_again(machine: Machine, there: Office, status: int) -> None:
    there.replies["install-started"] = [(status, "refused")]
    done = machine.disk("vda", GIB).run(pre(there))
    assert done.returncode == OFF
    assert machine.include() is None
    assert there.signals() == ["install-started"]


def test_wait_is_asked_again_with_the_same_boot_id(machine: Machine, there: Office) -> None:
    there.replies["install-started"] = [(503, "wait"), (500, "oops"), (200, "not the word"), (200, "go")]
    done = machine.disk("vda", GIB).run(pre(there))
    assert done.returncode == 0, done.stderr
    assert machine.include() is not None
    asked = [call.fields["boot_id"] for call in there.calls if call.signal == "install-started"]
    assert len(asked) == 4
    assert len(set(asked)) == 1


def test_waiting_has_an_end(machine: Machine, there: Office) -> None:
    there.replies["install-started"] = [(503, "wait")]
    done = machine.disk("vda", GIB).run(pre(there), BM_GO_TRIES="3")
    assert done.returncode == OFF
    assert machine.include() is None
    assert there.signals() == ["install-started"] * 3


def test_nobody_there_ends_too(machine: Machine) -> None:
    nobody = Office(url="http://127.0.0.1:1")
    done = machine.disk("vda", GIB).run(pre(nobody), BM_GO_TRIES="2")
    assert done.returncode == OFF
    assert machine.include() is None


@pytest.mark.parametrize(
    ("server", "files", "words"),
    [
        ({"macs": ("52:54:00:99:99:99",)}, {}, "none of its MACs"),
        (
            {"uuid": "11111111-2222-3333-4444-555555555555"},
            {"product_uuid": "A" * 8 + "-0000-0000-0000-" + "0" * 12},
            "UUID",
        ),
        ({"serial": "CHASSIS-1"}, {"product_serial": "CHASSIS-2"}, "serial number"),
    ],
)
def test_another_machine_is_refused(
    machine: Machine, there: Office, server: dict[str, Any], files: dict[str, str], words: str
) -> None:
    known = {"id": SERVER.id, "name": SERVER.name, "macs": SERVER.macs, "boot_mac": SERVER.boot_mac} | server
    for file, text in files.items():
        machine.write(f"sys/class/dmi/id/{file}", text)
    done = machine.disk("vda", GIB).run(pre(there, ServerFacts(**known)))
    assert done.returncode == OFF
    assert machine.include() is None
    assert there.signals() == ["install-failed"]
    assert there.last("install-failed")["stage"] == "identity"
    assert words in there.last("install-failed")["message"]


def test_the_right_machine_is_known_by_mac_uuid_in_either_byte_order_and_serial(
    machine: Machine, there: Office
) -> None:
    machine.write("sys/class/dmi/id/product_uuid", "33221100-5544-7766-8899-AABBCCDDEEFF")
    machine.write("sys/class/dmi/id/product_serial", "CHASSIS 1 ")
    server = ServerFacts(
        SERVER.id, "n", SERVER.macs, SERVER.boot_mac, "00112233-4455-6677-8899-aabbccddeeff", "CHASSIS 1"
    )
    done = machine.disk("vda", GIB).run(pre(there, server))
    assert done.returncode == 0, done.stderr
    assert machine.include() is not None
    assert there.last("install-started")["uuid"] == "33221100-5544-7766-8899-aabbccddeeff"


def test_hostile_names_from_the_firmware_are_only_words(machine: Machine, there: Office) -> None:
    machine.write("sys/class/dmi/id/product_serial", 'x"; touch /tmp/owned; $(reboot) `id` \\')
    machine.disk("vda", GIB, serial='a"b$(id)`c`;é\\')
    done = machine.run(pre(there))
    assert done.returncode == 0, done.stderr
    assert disks_of(there.last("install-started"))["vda"]["serial"] == "abidc"
    assert there.last("install-started")["serial"] == "x; touch /tmp/owned; $(reboot) `id` "
