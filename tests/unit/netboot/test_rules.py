"""Our own rules for the answer files and boot scripts: each fault is found, named and placed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from baremetal.netboot.lint.autoinstall import autoinstall_rules
from baremetal.netboot.lint.batch import check_batch
from baremetal.netboot.lint.esxi import boot_config_rules, esxi_rules, read_boot_config
from baremetal.netboot.lint.finding import Finding, Severity
from baremetal.netboot.lint.gate import script_rules, signal_rules, write_before_go
from baremetal.netboot.lint.ignition import ignition_rules, scripts_within
from baremetal.netboot.lint.leaks import leak_rules
from baremetal.netboot.lint.loaderscripts import check_grub, check_ipxe, check_pxelinux
from baremetal.netboot.lint.xmlanswers import autoyast_rules, unattend_rules
from tests.unit.netboot.shipped import VLAN, files_of

USER_DATA = files_of("ubuntu2404", **VLAN)["user-data"]
AUTOINST = files_of("sles15", **VLAN)["autoinst.xml"]
UNATTEND = files_of("windows2022")["unattend.xml"]
ESXI = files_of("esxi8")["ks.cfg"]
CONFIG = json.loads(files_of("fcos")["target.ign"])
Rules = Callable[[str, str], Iterable[Finding]]


def errors(rules: Rules, text: str) -> list[tuple[int | None, str]]:
    return [(found.line, found.message) for found in rules(text, "f") if found.severity is Severity.ERROR]


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("#cloud-config\n", "\n", "begins with #cloud-config"),
        ("  version: 1\n", "  version: 2\n", "version is 1"),
        ("      match: {path: /dev/bm-disk-not-chosen}\n", "", "takes the largest disk"),
        ("{path: /dev/bm-disk-not-chosen}", "{size: largest}", "takes what sorts first"),
        ("{path: /dev/bm-disk-not-chosen}", "{serial: 'S*'}", "may fit several"),
        ("{path: /dev/bm-disk-not-chosen}", "{colour: blue}", "cannot be matched by colour"),
        ("  storage:\n", "  storge:\n", "did you mean storage"),
        ("  shutdown: reboot\n", "  interactive-sections: [storage]\n", "stop at a question"),
        ("  shutdown: reboot\n", "  shutdown: never\n", "reboot or poweroff"),
        ("  updates: security\n", "  updates: [security]\n", "updates is a list"),
        ("    users: []\n", "    users: [\n", "not YAML"),
        ('"link": "bootnic"', '"link": "eth7"', "a link to a device that is there"),
        ("    version: 2\n", "    version: 1\n", "network.version is 2"),
        ("  user-data:\n", "  identity: {username: u, password: secret}\n  user-data:\n", "in the open"),
        ("autoinstall:\n", "autoinstal:\n", "no map autoinstall"),
    ],
)
def test_faults_of_an_autoinstall(old: str, new: str, words: str) -> None:
    assert errors(autoinstall_rules, USER_DATA) == []
    found = errors(autoinstall_rules, changed(USER_DATA, old, new))
    assert any(words in message for _, message in found), found


def test_an_autoinstall_that_lays_disks_out_itself_names_each() -> None:
    config = "{type: disk, id: a, ptable: gpt}, {type: disk, id: b, serial: S1}, "
    config += "{type: disk, id: c, match: {size: largest}}"
    layout = USER_DATA[USER_DATA.index("    layout:") : USER_DATA.index("  ssh:")]
    found = errors(autoinstall_rules, changed(USER_DATA, layout, f"    config: [{config}]\n"))
    assert [message[:28] for _, message in found] == [
        "the disk a has no serial, pa",
        "a match by serial or path me",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<device>/dev/bm-disk-not-chosen</device>", "", "takes the first disk"),
        ("/dev/bm-disk-not-chosen", "/dev/sd*", "may fit several"),
        ('<confirm config:type="boolean">false', '<confirm config:type="boolean">true', "it would ask"),
        ("<use>all</use>", "<use>all</used>", "not well-formed"),
        ('<encrypted config:type="boolean">true', '<encrypted config:type="boolean">false', "in the open"),
        ('<initialize config:type="boolean">true', '<initialize config:type="boolean">yes', "true or false"),
        ('<timeout config:type="integer">3', '<timeout config:type="integer">soon', "not a number"),
        ("<!DOCTYPE profile>", '<!DOCTYPE profile [<!ENTITY x "y">]>', "entities"),
        ('xmlns="http://www.suse.com/1.0/yast2ns"', 'xmlns="urn:other"', "root element"),
    ],
)
def test_faults_of_an_autoyast_profile(old: str, new: str, words: str) -> None:
    assert errors(autoyast_rules, AUTOINST) == []
    found = errors(autoyast_rules, changed(AUTOINST, old, new))
    assert any(words in message for _, message in found), found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<DiskID>0</DiskID>", "<DiskID></DiskID>", "without its DiskID"),
        ("<DiskID>0</DiskID>", "<DiskID>1</DiskID>", "name one disk, in both places"),
        ('pass="specialize"', 'pass="special"', "not a pass"),
        (' processorArchitecture="amd64"', "", "is passed over"),
        ("<AcceptEula>true", "<AcceptEula>false", "it would ask"),
        ("</unattend>", "", "not well-formed"),
    ],
)
def test_faults_of_an_unattend(old: str, new: str, words: str) -> None:
    assert errors(unattend_rules, UNATTEND) == []
    found = errors(unattend_rules, changed(UNATTEND, old, new))
    assert any(words in message for _, message in found), found


def test_a_windows_password_is_the_operators_choice_and_doubted() -> None:
    text = files_of("windows2022", administrator_password="made-up-by-a-test")["unattend.xml"]
    found = list(unattend_rules(text, "f"))
    assert [(one.severity, "in the open" in one.message) for one in found] == [(Severity.WARNING, True)]
    assert "made-up" not in str(found[0])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("--disk=mpx.vmhba0:C0:T0:L0", "--firstdisk", "takes the first disk"),
        ("rootpw --iscrypted", "rootpw", "in the open"),
        ("vmaccepteula\n", "", "no vmaccepteula"),
        ("reboot\n", "clearpart --alldrives\n", "every disk"),
        ("reboot\n", "rebot\n", "no command rebot"),
    ],
)
def test_faults_of_an_esxi_kickstart(old: str, new: str, words: str) -> None:
    assert errors(esxi_rules, ESXI) == []
    found = errors(esxi_rules, changed(ESXI, old, new))
    assert any(words in message for _, message in found), found


def test_a_mediums_boot_cfg_is_read_and_ours_checked() -> None:
    text = "bootstate=0\nkernel=/b.b00\nkernelopt=cdromBoot runweasel\n"
    text += "modules=/jumpstrt.gz --- /useropts.gz --- /s.v00\n"
    assert read_boot_config(text) == ("b.b00", ("jumpstrt.gz", "useropts.gz", "s.v00"))
    assert read_boot_config("kernel=../b\nmodules=x\n") == ("", ())
    assert read_boot_config("nothing here") == ("", ())
    assert errors(boot_config_rules, files_of("esxi8")["boot.cfg"]) == []
    said = [message for _, message in errors(boot_config_rules, "kernel=b\nkernelopt=runweasel\n")]
    assert len(said) == 3
    assert "no ks=" in said[-1]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("ignition", "version"), "2.3.0", "3.0.0 to 3.5.0"),
        (("ignition", "verson"), "3.3.0", "no key verson"),
        (("storge",), {}, "no section storge"),
        (("storage", "disks"), [{"device": "/dev/sd*", "wipeTable": True}], "named by a path"),
        (
            ("storage", "disks"),
            [{"device": "/dev/sda", "wipeTable": True}],
            "before anything has asked for go",
        ),
        (("storage", "disks"), [{"device": "/dev/sda", "partitions": [{}]}], "is partitioned before"),
        (("storage", "filesystems"), [{"device": "/dev/sda1", "wipeFilesystem": True}], "formatted before"),
        (("storage", "files"), [{"path": "etc/x"}], "absolute"),
        (("storage", "files"), [{"path": "/x"}, {"path": "/x"}], "there twice"),
        (("storage", "files"), [{"path": "/x", "mode": "0644"}], "decimal number"),
        (("storage", "files"), [{"path": "/x", "contents": {"source": "file:///x"}}], "does not fetch"),
        (("systemd", "units"), [{"name": "x"}], "not a unit's name"),
        (("passwd", "users"), [{"sshAuthorizedKeys": []}], "no name"),
        (("passwd", "users"), [{"name": "x", "sshKeys": []}], "no key sshKeys"),
    ],
)
def test_faults_of_an_ignition_config(path: tuple[str, ...], value: Any, words: str) -> None:
    config = json.loads(json.dumps(CONFIG))
    assert errors(ignition_rules, json.dumps(config)) == []
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    found = errors(ignition_rules, json.dumps(config, indent=1))
    assert any(words in message for _, message in found), found


def test_ignition_that_is_no_json_and_the_scripts_within_one_that_is() -> None:
    assert errors(ignition_rules, "{")[0][0] == 1
    assert list(scripts_within("{")) == []
    assert [path for path, _ in scripts_within(json.dumps(CONFIG))] == ["/etc/baremetal/first-boot"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("echo x\n", 1, "begins with #!ipxe"),
        ("#!ipxe\nchian http://x\n", 2, "did you mean chain"),
        ("#!ipxe\ngoto there || goto here\n:there\n", 2, "goto here"),
        ("#!ipxe\n:a\n:a\n", 2, "there twice"),
        ("#!ipxe\necho ${net0/mac\n", 2, "not closed"),
        ("#!ipxe\nisset ${a} && ech b ||\n", 2, "did you mean echo"),
    ],
)
def test_faults_of_an_ipxe_script(text: str, line: int, words: str) -> None:
    found = errors(check_ipxe, text)
    assert any(number == line and words in message for number, message in found), found


def test_what_ipxe_allows_is_not_a_fault() -> None:
    text = "#!ipxe\n# ${\n:a\nset x ${${y}}\necho a; b\ngoto ${x}\niseq ${a} b && goto a ||\nexit 1 ||\n"
    assert errors(check_ipxe, text) == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("if [ x ]; then\n  linux /v\n", 1, "if is opened here"),
        ("fi\n", 1, "closes nothing"),
        ("menuentry 'x' {\n  linx /v\n}\n", 2, "did you mean linux"),
        ("echo 'x\n", 1, "quote"),
        ("root=hd0\n", 1, "set root=hd0"),
        ("menuentry 'x' { boot\n", 1, "{ is opened"),
        ("if true; then fi }\n", 1, "} closes nothing"),
    ],
)
def test_faults_of_a_grub_script(text: str, line: int, words: str) -> None:
    found = errors(check_grub, text)
    assert any(number == line and words in message for number, message in found), found


def test_a_grub_script_as_it_should_be() -> None:
    text = """# comment
set timeout=1
function try { source "$1"; }
if [ -n "$net_default_mac" ]; then
  for f in a b; do
    if test -s "($root)/$f"; then try "/$f"; else true; fi
  done
elif ! true; then
  echo 'x; }'
fi
menuentry 'Install' --id install { linux (http,${server})/vmlinuz ds='nocloud-net;s=x'; initrd /i; }
"""
    assert errors(check_grub, text) == []


# What the article that this project began with printed (seeds S2), with its faults.
ARTICLE = """default menu
prompt 0
label pxe
  kernel centos7/vmlinuz
  append initrd=centos7/initrd.img devfs=nomount ksdevice=bootif ks=ftp://192.0.2.1/pub/ks/centos.ks
"""


def test_the_faults_of_the_founding_article_are_found() -> None:
    """S2: a default that names no label, and ksdevice=bootif of which the kernel is never told."""
    assert [(line, message.partition(":")[0]) for line, message in errors(check_pxelinux, ARTICLE)] == [
        (1, "default menu names a label that does not exist (there are"),
        (5, "ksdevice=bootif without IPAPPEND 2"),
    ]
    mended = ARTICLE.replace("default menu", "default pxe") + "  ipappend 2\n"
    assert errors(check_pxelinux, mended) == []
    assert errors(check_pxelinux, "IPAPPEND 3\n" + ARTICLE.replace("default menu", "default pxe")) == []


def test_further_faults_of_a_pxelinux_file() -> None:
    text = "default vesamenu.c32\nlabel a\nlabel A\nkernle x\nappend ks=http://x/ks.cfg\n"
    assert [line for line, _ in errors(check_pxelinux, text)] == [3, 4]
    assert [one.severity for one in check_pxelinux(text, "f")][-1] is Severity.WARNING
    good = "label a\nkernel x\nappend ks=http://x/ks.cfg"
    assert [list(check_pxelinux(good + more, "f")) for more in (" initrd=y\n", "\ninitrd y\n")] == [[], []]


@pytest.mark.parametrize(
    ("text", "severity", "words"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----", Severity.ERROR, "a private key"),
        ("url=ipmi://admin:hunter22@10.0.0.1", Severity.ERROR, "BMC's password"),
        ("ipmitool -I lanplus -H 10.0.0.1 -U admin -P hunter22 power on", Severity.ERROR, "BMC's password"),
        (
            "# password: hunter22\nrootpw --iscrypted $6$salt$0123456789abcdef",
            Severity.ERROR,
            "plain text beside",
        ),
        ("rootpw --iscrypted $5$salt$0123456789abcdef # pw = hunter22", Severity.ERROR, "plain text beside"),
        ("rootpw --iscrypted $1$salt$0123456789abcdef", Severity.WARNING, "a password hash"),
    ],
)
def test_secrets_are_found_and_never_repeated(text: str, severity: Severity, words: str) -> None:
    found = list(leak_rules(text, "f"))
    assert [(one.severity, words in one.message) for one in found] == [(severity, True)]
    assert "hunter22" not in str(found[0])
    assert "0123456789" not in str(found[0])


@pytest.mark.parametrize(
    "text",
    [
        "ipmi://admin@10.0.0.1",
        "ipmitool -H 10.0.0.1 -p 623 power on",
        "price $6 and $5",
        "# password: none set",
    ],
)
def test_what_is_no_secret_is_not_found(text: str) -> None:
    assert list(leak_rules(text, "f")) == []


def test_a_batch_file_that_jumps_nowhere() -> None:
    text = '@echo off\nrem goto moon "\ngoto there\n:here\necho "x\ngoto :eof\n:here\n'
    assert errors(check_batch, text) == [
        (None, "the label here is there twice"),
        (3, "goto there: there is no such label"),
        (5, "a quote that is not closed"),
    ]


@pytest.mark.parametrize(
    "command", ["wipefs -a /dev/sda", "coreos-installer install /dev/sda", "flatcar-install -d x"]
)
def test_writing_before_go_is_found_and_after_it_is_not(command: str) -> None:
    early, late = f"{command}\nbm_ask_go\n", f"bm_ask_go() {{ :; }}\nbm_ask_go\n{command}\n"
    assert [found.line for found in script_rules([("early.sh", early), ("late.sh", late)])] == [1]
    assert write_before_go(late.splitlines()) is None
    assert [found.severity for found in signal_rules(["install-started"], "f")] == [
        Severity.ERROR,
        Severity.WARNING,
    ]
