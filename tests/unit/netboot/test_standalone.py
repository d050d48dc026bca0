"""Files that no profile renders: told apart, and checked by the rules of what they are."""

from __future__ import annotations

import pytest

from baremetal.errors import Invalid
from baremetal.netboot.lint.finding import Severity
from baremetal.netboot.lint.standalone import kind_of, lint_file
from tests.unit.netboot.shipped import files_of
from tests.unit.netboot.test_rules import ARTICLE

# The article's kickstart, with its faults (seeds S2); the hash is made up.
KICKSTART = """install
url --url=ftp://192.0.2.1/pub
lang en_US.UTF-8
auth --enableshadow --passalgo=sha512
# password: example
rootpw --iscrypted $1$salt$0123456789abcdefghijkl
clearpart --all --initlabel
autopart --type=lvm
%packages
@core
%end
"""


def errors(text: str, name: str, release: int = 9) -> list[str]:
    return [found.message for found in lint_file(text, name, release)[1] if found.severity is Severity.ERROR]


@pytest.mark.parametrize(
    ("profile", "file", "kind"),
    [
        ("rocky9", "ks.cfg", "kickstart"),
        ("ubuntu2404", "user-data", "autoinstall"),
        ("sles15", "autoinst.xml", "AutoYaST profile"),
        ("windows2022", "unattend.xml", "unattend.xml"),
        ("fcos", "target.ign", "Ignition config"),
        ("rocky9", "install.ipxe", "iPXE script"),
    ],
)
def test_what_is_shipped_is_known_for_what_it_is_and_clean(profile: str, file: str, kind: str) -> None:
    text = files_of(profile)[file]
    assert kind_of(text, f"/srv/{file}") == kind
    assert errors(text, file) == []


def test_the_articles_files_are_not_clean() -> None:
    """S2, all four faults."""
    assert kind_of(ARTICLE, "pxelinux.cfg/default") == "pxelinux configuration"
    assert len(errors(ARTICLE, "pxelinux.cfg/default")) == 2
    said = " ".join(errors(KICKSTART, "centos.ks", 9))
    for words in ("every disk", "MD5 password", "plain text beside", "auth"):
        assert words in said
    assert (
        "auth" not in " ".join(errors(KICKSTART.replace("# password: example\n", ""), "centos.ks", 7)).lower()
    )


def test_a_grub_script_is_told_by_its_name_and_an_unknown_file_refused() -> None:
    assert lint_file("if true; then\n", "grub.cfg")[0] == "GRUB script"
    assert errors("if true; then\n", "grub.cfg") != []
    with pytest.raises(Invalid, match="neither a loader's script"):
        kind_of("hello\n", "letter.txt")
