"""Real images by every builder: what is on them is read, and what strangers put on them does no harm."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
from pycdlib import PyCdlib

from baremetal.errors import Invalid
from baremetal.media.image import SECTOR, Image, NamesOnly
from baremetal.media.iso import Iso, open_source
from baremetal.media.tree import Kind, Source, check_members
from tests.unit.media import skeleton
from tests.unit.media.skeleton import Tree, make_by, make_iso, patched

ROCKY = skeleton.red_hat("Rocky Linux", "9.4")
MKISOFS = ["genisoimage", "-quiet", "-input-charset", "utf-8"]
XORRISO = ["xorriso", "-as", "mkisofs", "-quiet"]


def content(source: Source) -> Tree:
    return {
        member.path: b"".join(source.chunks(member)) for member in source.members if member.kind is Kind.FILE
    }


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_iso(ROCKY, tmp_path / "rocky.iso")


@pytest.mark.parametrize(
    "words",
    [
        [*MKISOFS, "-R", "-J"],
        [*MKISOFS, "-J", "-joliet-long"],
        [*MKISOFS, "-udf"],
        [*MKISOFS, "-R", "-udf"],
        [*XORRISO, "-R", "-J"],
        [*XORRISO, "-R", "-iso-level", "3"],
    ],
    ids=" ".join,
)
def test_every_builder_and_name_space_gives_the_same_files(words: list[str], tmp_path: Path) -> None:
    tree = dict(ROCKY) | {"empty": b"", "größe.txt": b"u"}
    if "-R" in words:
        tree["a/b/c/d/e/f/g/h/i/j/deep.txt"] = b"deep"
    source = open_source(make_by(words, tree, tmp_path / "image.iso", tmp_path / "tree"))
    check_members(source)
    assert content(source) == tree
    source.close()


def test_plain_names_are_shown_as_linux_shows_them(tmp_path: Path) -> None:
    source = open_source(
        make_by([*MKISOFS, "-iso-level", "2"], skeleton.ESXI, tmp_path / "esxi.iso", tmp_path / "tree")
    )
    assert content(source) == {path.lower(): data for path, data in skeleton.ESXI.items()}
    source.close()


def test_windows_discs_are_read_by_udf(tmp_path: Path) -> None:
    tree = dict(skeleton.WINDOWS) | {"sources/Long Name, With Capitals.Dll.mui": os.urandom(5000)}
    source = open_source(make_by([*MKISOFS, "-udf"], tree, tmp_path / "win.iso", tmp_path / "tree"))
    assert content(source) == tree
    source.close()


def test_boot_records_that_make_no_sense_do_not_matter(tmp_path: Path) -> None:
    """The library that reads the names has refused publishers' images for their boot catalogs; it never sees them."""
    words = [*XORRISO, "-R", "-b", "images/pxeboot/vmlinuz", "-no-emul-boot", "-boot-load-size", "4"]
    path = make_by([*words, "-c", "boot.cat"], ROCKY, tmp_path / "boot.iso", tmp_path / "tree")
    data = bytearray(path.read_bytes())
    assert data[17 * SECTOR + 7 :].startswith(b"EL TORITO")
    catalog = int.from_bytes(data[17 * SECTOR + 71 : 17 * SECTOR + 75], "little") * SECTOR
    data[catalog : catalog + 64] = os.urandom(64)
    data[:512] = b"\x33\xed" + os.urandom(508) + b"\x55\xaa"
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(Exception):  # noqa: B017  # whatever it raises: it cannot
        PyCdlib().open_fp(file)
    source = open_source(path)
    assert {**content(source), "boot.cat": b""} == {**ROCKY, "boot.cat": b""}
    source.close()


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_file_in_pieces_is_one_file(pieces: int, tmp_path: Path) -> None:
    """As files of 4 GiB and more are kept: records of one name, all but the last marked (ECMA-119 9.1.6, bit 7)."""
    tree = {name: os.urandom(3000) for name in ("big.0", "big.1", "big.2")}
    path = make_iso(tree | {"f": b"x"}, tmp_path / "x.iso")
    data = bytearray(path.read_bytes())
    for number in range(pieces):
        at = data.index(b"F00000%d" % (number + 1)) - 33
        data[at + 33 : at + 40] = b"F000001"
        data[at + 25] |= 0x80 if number < pieces - 1 else 0
        name = data.index(b"NM\x0a\x01\x00big.%d" % number) + 5
        data[name : name + 5] = b"big.0"
    path.write_bytes(data)
    source = open_source(path)
    check_members(source)
    found = content(source)
    source.close()
    assert found["big.0"] == b"".join(list(tree.values())[:pieces])
    assert set(found) == {"f", "big.0", *list(tree)[pieces:]}


def test_links_are_members_and_not_followed(tmp_path: Path) -> None:
    links = {"debian": ".", "dists/stable": "bookworm", "dists/up": "../pool"}
    source = open_source(make_iso({"dists/bookworm/Release": b"r"}, tmp_path / "x.iso", links=links))
    found = {member.path: member.target for member in source.members if member.kind is Kind.LINK}
    assert found == links
    check_members(source)
    source.close()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../outside", "../.."])
def test_links_out_are_refused(target: str, tmp_path: Path) -> None:
    source = open_source(make_iso({"a/f": b"x"}, tmp_path / "x.iso", links={"out": target}))
    with pytest.raises(Invalid, match="leads out") as caught:
        check_members(source)
    assert caught.value.code == "BM205"
    source.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"../../xxx", "leave its folder"),
        (b"/etc/cron", "leave its folder"),
        (b"..", "leave its folder"),
        (b".", "leave its folder"),
        (b"a\x1b[31mred", "control characters"),
        (b"a\nb", "control characters"),
        (b"a\x00b", "control characters"),
    ],
)
def test_names_that_are_no_plain_names_are_refused(name: bytes, words: str, tmp_path: Path) -> None:
    harmless = "Z" * len(name)
    path = make_iso({harmless: b"x", "vmlinuz": b"k"}, tmp_path / "x.iso")
    # In the name entry of Rock Ridge: signature, length, version, flags, name.
    entry = b"NM" + bytes([5 + len(name), 1, 0])
    patched(path, entry + harmless.encode(), entry + name)
    with pytest.raises(Invalid, match=words) as caught:
        open_source(path)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices_are_refused(tmp_path: Path) -> None:
    path = make_iso({"disk": b"", "vmlinuz": b"k"}, tmp_path / "x.iso")
    data = path.read_bytes()
    at = data.index(b"PX", data.index(b"NM\x09\x01\x00disk"))
    block = struct.pack("<L", 0o060644) + struct.pack(">L", 0o060644)
    path.write_bytes(data[: at + 4] + block + data[at + 12 :])
    with pytest.raises(Invalid, match=r"neither file, folder nor link: 'disk'"):
        open_source(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make device nodes")
def test_devices_by_a_real_builder_are_refused(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    try:
        os.mknod(tree / "sda", 0o060600, os.makedev(8, 0))
    except PermissionError:
        pytest.skip("not here either")
    path = make_by([*XORRISO, "-R"], {"f": b"x"}, tmp_path / "x.iso", tree)
    with pytest.raises(Invalid, match="neither file, folder nor link: 'sda'"):
        open_source(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = make_iso({"vmlinuy": b"1", "vmlinuz": b"2"}, tmp_path / "x.iso")
    patched(path, b"NM\x0c\x01\x00vmlinuy", b"NM\x0c\x01\x00vmlinuz")
    source = open_source(path)
    with pytest.raises(Invalid, match="two members have one name: 'vmlinuz'"):
        check_members(source)
    source.close()


def test_a_small_image_cannot_claim_much(tmp_path: Path) -> None:
    """Files that overlap could fill a disk from an image of a megabyte; the same bytes twice are one file."""
    tree = {f"f{number:02d}": os.urandom(40_000) for number in range(30)}
    path = make_iso(tree, tmp_path / "x.iso")
    data = bytearray(path.read_bytes())
    first = Iso(path).members[0].extents[0][0] // SECTOR
    size = path.stat().st_size - first * SECTOR
    for number in range(30):
        at = data.index(b"F%06d" % (number + 1)) - 33
        length = size - number
        data[at + 2 : at + 10] = struct.pack("<L", first) + struct.pack(">L", first)
        data[at + 10 : at + 18] = struct.pack("<L", length) + struct.pack(">L", length)
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(Invalid, match="claim more bytes than it has"):
        check_members(source)
    source.close()


def test_half_an_image_is_called_truncated(image: Path) -> None:
    whole = image.stat().st_size
    for size in (whole - SECTOR, whole // 2, 17 * SECTOR):
        os.truncate(image, size)
        with pytest.raises(Invalid, match=r"rocky\.iso is truncated") as caught:
            open_source(image)
        assert caught.value.seen == f"{size} bytes of {whole}"


def test_files_beyond_the_end_are_found(image: Path) -> None:
    """A descriptor that lies about the size does not hide that the last file is not there."""
    source = open_source(image)
    cut = max(at for member in source.members for at, _ in member.extents)
    source.close()
    with image.open("r+b") as file:
        file.seek(16 * SECTOR + 80)
        file.write(struct.pack("<L", cut // SECTOR) + struct.pack(">L", cut // SECTOR))
    os.truncate(image, cut)
    with pytest.raises(Invalid, match="beyond its end"):
        open_source(image)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"hello", "only 5 bytes"),
        (b"\x1f\x8b" + bytes(99), "gzip"),
        (b"QFI\xfb" + bytes(99), "qcow2"),
        (b"\n<!DOCTYPE html><title>404</title>" + bytes(99), "web page"),
        (bytes(40 * SECTOR), "no ISO 9660 volume descriptor"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.iso"
    path.write_bytes(data)
    with pytest.raises(Invalid, match="is no ISO image") as caught:
        open_source(path)
    assert words in str(caught.value)


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no"):
        open_source(tmp_path / "nothing.iso")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Invalid, match="neither an image file nor a folder"):
        open_source(tmp_path / "pipe")


def test_descriptors_without_an_end_are_refused(image: Path) -> None:
    data = bytearray(image.read_bytes())
    for sector in range(17, 90):
        data[sector * SECTOR : sector * SECTOR + 6] = b"\x02CD001"
    image.write_bytes(data)
    with pytest.raises(Invalid, match="does not end"):
        open_source(image)


def test_directories_that_loop_end(image: Path) -> None:
    """A folder whose record points to the root again."""
    data = image.read_bytes()
    root = data[16 * SECTOR + 158 : 16 * SECTOR + 174]  # both-byte-order place and length
    at = data.index(b"D000003") - 33
    image.write_bytes(data[: at + 2] + root + data[at + 18 :])
    with pytest.raises(Invalid):
        open_source(image)


def test_a_directory_as_large_as_the_image_is_not_swallowed(tmp_path: Path) -> None:
    """What is read for names is bounded, whatever an image of many gigabytes claims; here it is sparse."""
    image = make_iso({"f": b"x"}, tmp_path / "big.iso")
    os.truncate(image, 3 << 30)
    opened = Image(image)
    view = NamesOnly(opened, udf=True)
    view.seek(0)
    with pytest.raises(ValueError, match="more directories"):
        view.read()
    opened.close()
    with image.open("r+b") as file:
        file.seek(16 * SECTOR + 166)
        file.write(struct.pack("<L", 2 << 30) + struct.pack(">L", 2 << 30))
    with pytest.raises(Invalid, match="directories"):
        open_source(image)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rock ridge", "udf"])
def test_damaged_images_are_read_or_refused_and_nothing_else(kind: str, tmp_path: Path) -> None:
    if kind == "udf":
        path = make_by([*MKISOFS, "-udf"], skeleton.WINDOWS, tmp_path / "x.iso", tmp_path / "tree")
    else:
        path = make_iso(ROCKY, tmp_path / "x.iso", links={"a": "EFI"})
    whole = path.read_bytes()
    dice = random.Random(20)
    hurt = tmp_path / "hurt.iso"
    refused = 0
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(dice.choice([1, 3, 10])):
            data[dice.randrange(16 * SECTOR, min(len(data), 320 * SECTOR))] = dice.randrange(256)
        hurt.write_bytes(data)
        refused += not _readable(hurt)
    assert 0 < refused < 250


def _readable(path: Path) -> bool:
    """Whether an image can be read; whatever is raised other than Invalid ends the test."""
    try:
        source = open_source(path)
    except Invalid:
        return False
    try:
        check_members(source)
        content(source)
    except Invalid:
        return False
    finally:
        source.close()
    return True


def test_nothing_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "x.iso"
    path.write_bytes(bytes(40 * SECTOR))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(Invalid):
            open_source(path)
    make_iso(ROCKY, path)
    open_source(path).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_second_program_reads_the_same(image: Path, tmp_path: Path) -> None:
    """Our bytes against xorriso's, of an image that neither of our builders' readers made for us."""
    try:
        subprocess.run(
            ["xorriso", "-osirrox", "on", "-indev", str(image), "-extract", "/", str(tmp_path / "out")],
            check=True,
            capture_output=True,
            timeout=50,
        )
    except FileNotFoundError:
        pytest.skip("xorriso is not installed; ./dev setup installs it")
    source = open_source(image)
    ours = content(source)
    source.close()
    assert ours == {path: (tmp_path / "out" / path).read_bytes() for path in ours} == ROCKY
