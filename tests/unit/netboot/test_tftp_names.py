"""Names, requests and options of TFTP as values, and content as it is read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.netboot.tftp import is_harmless
from baremetal.netboot.tftp.content import AHEAD, BytesSource, FileSource
from baremetal.netboot.tftp.names import BadName, plain_name
from baremetal.netboot.tftp.packets import (
    Malformed,
    Opcode,
    Terms,
    agree,
    is_request,
    option_ack,
    read_request,
)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"pxelinux.0", "pxelinux.0"),
        (b"/pxelinux.cfg/default", "pxelinux.cfg/default"),
        (b"\\EFI\\BOOT\\BOOTX64.EFI", "EFI/BOOT/BOOTX64.EFI"),
        (b"//grub//x86_64-efi/./command.lst", "grub/x86_64-efi/command.lst"),
        (b"undionly.kpxe\xff", "undionly.kpxe"),
        (b"grub.cfg-01-52:54:00:12:34:56", "grub.cfg-01-52:54:00:12:34:56"),
        ("größe".encode(), "größe"),
        (b"a..b/...", "a..b/..."),
        (b"x" * 255, "x" * 255),
    ],
)
def test_names_are_made_plain(raw: bytes, plain: str) -> None:
    assert plain_name(raw) == plain


@given(st.binary(max_size=300) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_plain_name_is_plain_for_good(raw: bytes) -> None:
    try:
        name = plain_name(raw)
    except BadName:
        return
    assert plain_name(name.encode()) == name
    assert not name.startswith("/")
    assert "\\" not in name
    assert ".." not in name.split("/")
    assert name.isprintable()
    assert os.path.normpath(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "EFI/BOOT/revocations.efi",
        "revocations_sbat.efi",
        "revocations_sku.efi",
        "shim_certificate.efi",
        "shim_certificate_0.efi",
        "grub/x86_64-efi/command.lst",
        "grub/x86_64-efi/fs.lst",
        "crypto.lst",
        "terminal.lst",
        "EFI/debian/x86_64-efi/terminal.lst",
        "grub/locale/en.mo",
        "grub/locale/en_US.gmo.gz",
        "grub/fonts/unicode.pf2",
        "autoexec.ipxe",
        "pxelinux.cfg/01-52-54-00-12-34-56",
        "pxelinux.cfg/C0A80A",
        "pxelinux.cfg/564d1234-0000-1111-2222-1234567890ab",
        "grub/grub.cfg-01-52-54-00-12-34-56",
        "grub/grub.cfg-0A000002",
    ],
)
def test_what_loaders_ask_for_in_passing_is_harmless(name: str) -> None:
    assert is_harmless(name)


@pytest.mark.parametrize(
    "name",
    [
        "grubx64.efi",
        "pxelinux.cfg/default",
        "grub/grub.cfg",
        "ldlinux.c32",
        "shimx64.efi",
        "mmx64.efi",
        "boot.ipxe",
        "vmlinuz",
        "revocations_sbat.efi/x",
        "list",
        "pxelinux.cfg/DEADBEEF0",
    ],
)
def test_what_they_need_is_not(name: str) -> None:
    assert not is_harmless(name)


def test_a_request_is_taken_apart() -> None:
    packet = b"\x00\x01a\x00OCTET\x00BlkSize\x001468\x00tsize\x000\x00blksize\x008\x00alone\x00"
    wish = read_request(packet)
    assert (wish.opcode, wish.name, wish.mode) == (Opcode.RRQ, b"a", "octet")
    assert wish.options == {"blksize": "1468", "tsize": "0"}


@given(st.binary(max_size=600))
def test_no_request_breaks_the_reader(rest: bytes) -> None:
    packet = b"\x00\x01" + rest
    assert is_request(packet)
    try:
        wish = read_request(packet)
    except Malformed:
        return
    terms = agree(wish.options, size=5, max_block=1468, max_window=64)
    assert 8 <= terms.block_size <= 1468
    assert 1 <= terms.window <= 64


@given(
    st.dictionaries(
        st.sampled_from(["blksize", "windowsize", "timeout", "tsize", "x"]), st.integers(0, 99999)
    )
)
def test_nothing_is_granted_beyond_what_was_asked(asked: dict[str, int]) -> None:
    words = {key: str(value) for key, value in asked.items()}
    terms = agree(words, size=77, max_block=1468, max_window=64)
    for key, value in (terms.accepted or {}).items():
        assert key in asked
        assert value == 77 if key == "tsize" else value <= asked[key]
    assert terms.block_size == (terms.accepted or {}).get("blksize", 512)
    assert terms.window == (terms.accepted or {}).get("windowsize", 1)


def test_the_answer_to_options_keeps_their_order() -> None:
    terms = agree({"tsize": "0", "blksize": "9000", "timeout": "5"}, size=9, max_block=1468, max_window=4)
    assert terms == Terms(1468, 1, 5.0, {"tsize": 9, "blksize": 1468, "timeout": 5})
    assert option_ack(terms.accepted or {}) == b"\x00\x06tsize\x009\x00blksize\x001468\x00timeout\x005\x00"


def test_a_file_is_read_with_and_without_the_kernel_telling(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    body = os.urandom(AHEAD + 5000)
    path.write_bytes(body)
    for tells in (True, False):
        source = FileSource(path)
        if not tells:
            source._flags = 0  # as on a file system that does not know RWF_NOWAIT
        read, fetches = bytearray(), 0
        while len(read) < source.size:
            block = bytearray(min(1468, source.size - len(read)))
            if not source.read_into(memoryview(block), len(read)):
                fetches += 1
                source.fetch(len(read))
                assert source.read_into(memoryview(block), len(read)), "what was fetched is at hand"
            read += block
        assert bytes(read) == body
        assert tells or fetches == 2, "a piece at a time, not a block at a time"
        source.close()
        source.close()


def test_a_file_that_was_cut_cannot_be_fetched(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(bytes(5000))
    source = FileSource(path)
    os.truncate(path, 1000)
    assert not source.read_into(memoryview(bytearray(500)), 900)
    with pytest.raises(OSError, match="shorter") as cut:
        source.fetch(900)
    assert cut.value.errno == errno.EIO
    source.close()
    with pytest.raises(OSError, match="no regular file"):
        FileSource(tmp_path)


def test_computed_content_is_at_hand() -> None:
    source = BytesSource(b"0123456789")
    view = bytearray(4)
    assert source.read_into(memoryview(view), 6)
    assert (bytes(view), source.size) == (b"6789", 10)
