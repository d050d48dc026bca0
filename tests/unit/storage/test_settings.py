"""What is said of a storage host is checked when it is said."""

from __future__ import annotations

from typing import Any

import pytest

from baremetal.errors import Invalid
from baremetal.storage.settings import Kind, StorageSettings
from baremetal.storage.sizes import read_size

GOOD: dict[str, Any] = {
    "kind": "tgt",
    "portal": "10.0.0.5",
    "base_iqn": "iqn.2026-01.org.example",
    "folder": "/srv/volumes",
}


def test_what_is_not_said_has_its_default() -> None:
    """S0-7: the first LUN is the storage host's to say."""
    said = StorageSettings.parse("nas", GOOD)
    assert (said.kind, said.lun, said.chap, said.mutual_chap) == (Kind.TGT, 1, True, False)
    lio = {**GOOD, "kind": "lio", "folder": None, "volume_group": "vg0"}
    assert StorageSettings.parse("nas", lio).lun == 0
    external = {"kind": "external", "portal": "10.0.0.5", "base_iqn": "iqn.2000-01.com.synology"}
    assert StorageSettings.parse("ds918", {**external, "first_lun": 1}).lun == 1
    assert StorageSettings.parse("ds3617", external).lun == 0
    assert not StorageSettings.parse("ds3617", external).makes


def test_it_comes_back_as_it_was_said() -> None:
    said = StorageSettings.parse("nas", {**GOOD, "mutual_chap": True, "first_lun": 3})
    assert StorageSettings.parse("nas", said.as_dict()) == said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "iscsi"}, "no kind"),
        ({"portal": "nas.example.net"}, "portal"),
        ({"portal": ""}, "portal is missing"),
        ({"base_iqn": "org.example"}, "RFC 3720"),
        ({"folder": ""}, "where are its volumes kept"),
        ({"volume_group": "vg0"}, "where are its volumes kept"),
        ({"folder": "srv/volumes"}, "folder"),
        ({"folder": "/srv/../etc"}, "without .."),
        ({"folder": "/srv/vol umes"}, "folder"),
        ({"folder": "", "volume_group": "vg0;reboot"}, "volume_group"),
        ({"folder": "", "volume_group": "-vg0"}, "volume_group"),
        ({"thin_pool": "a b"}, "thin_pool"),
        ({"first_lun": 0}, "controller"),
        ({"first_lun": 256}, "first_lun"),
        ({"address": "nas.example.net"}, "host_key"),
        ({"address": "-oProxyCommand=x", "host_key": "ssh-ed25519 AAAA"}, "address"),
        ({"ssh_user": "root;"}, "ssh_user"),
        ({"socket": "/var/run/tgtd/socket"}, "socket"),
        ({"volumegroup": "vg0"}, "Did you mean volume_group"),
        ({"target": "{base}:{nobody}"}, "nothing is known"),
    ],
)
def test_what_cannot_be_right_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        StorageSettings.parse("nas", {**GOOD, **change})


@pytest.mark.parametrize("name", ["", "Nas", "-nas", "nas-", "a" * 49, "n/s"])
def test_its_name_is_plain(name: str) -> None:
    with pytest.raises(Invalid, match="name"):
        StorageSettings.parse(name, GOOD)


@pytest.mark.parametrize(
    ("text", "size"), [("20G", 20 << 30), ("512M", 512 << 20), ("1 GiB", 1 << 30), ("1048577", 1049088)]
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1.5G", "512K", "1000", "1X", "9" * 16])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid):
        read_size(text)
