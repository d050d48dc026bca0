"""What is written stays in its folder, whatever the medium says; a folder is a medium like an image."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baremetal.errors import Invalid
from baremetal.media.folder import Folder
from baremetal.media.iso import open_source
from baremetal.media.tree import Kind, Member
from baremetal.media.unpack import unpack
from tests.unit.media import skeleton
from tests.unit.media.skeleton import lay_out, make_iso


@dataclass
class Hostile:
    """A source that claims whatever a test wants, as if its reader had let it through."""

    members: Sequence[Member]
    name: str = "hostile"
    room: int = 1 << 20
    data: dict[str, bytes] = field(default_factory=dict)

    def chunks(self, member: Member) -> Iterator[bytes]:
        yield self.data.get(member.path, b"x" * member.size)

    def close(self) -> None:
        pass


def quiet(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "inside" / "new"
    folder.mkdir(parents=True)
    return folder


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_an_image_comes_out_as_it_went_in(tmp_path: Path, into: Path) -> None:
    tree = skeleton.red_hat("Rocky Linux", "9.4")
    source = open_source(
        make_iso(tree, tmp_path / "x.iso", links={"Packages": "BaseOS/Packages", "self": "."})
    )
    told: list[tuple[int, int]] = []
    size, files = unpack(source, into, lambda done, total: told.append((done, total)))
    source.close()
    assert {path: (into / path).read_bytes() for path in tree} == tree
    assert (size, files) == (told[-1][0], len(tree))
    assert told[-1][0] == told[-1][1]
    assert os.readlink(into / "Packages") == "BaseOS/Packages"
    assert stat.S_IMODE((into / "images").stat().st_mode) == 0o755
    assert stat.S_IMODE((into / "images/pxeboot/vmlinuz").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "members",
    [
        [Member("../evil", Kind.FILE, 1)],
        [Member("/evil", Kind.FILE, 1)],
        [Member("a/../../evil", Kind.FILE, 1)],
        [Member("a//evil", Kind.FILE, 1)],
        [Member("", Kind.FILE, 1)],
        [Member("evil\x7f", Kind.FILE, 1)],
        [Member("n" * 256, Kind.FILE, 1)],
        [Member("a", Kind.LINK, target="/"), Member("a/evil", Kind.FILE, 1)],
        [Member("a", Kind.LINK, target="."), Member("a/evil", Kind.FILE, 1)],
        [Member("a", Kind.FILE, 1), Member("a/evil", Kind.FILE, 1)],
        [Member("nowhere/evil", Kind.FILE, 1)],
        [Member("a", Kind.FILE, 1), Member("a", Kind.LINK, target="b")],
        [Member("a", Kind.FOLDER), Member("a", Kind.FILE, 1)],
        [Member("a", Kind.LINK, target="")],
        [Member("a", Kind.LINK, target="../../outside")],
        [Member("big", Kind.FILE, 2 << 20)],
    ],
)
def test_nothing_is_written_for_a_hostile_list(members: list[Member], into: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        unpack(Hostile(members), into, quiet)
    assert caught.value.code == "BM205"
    assert everything(tmp_path) == {"inside", "inside/new"}


def test_links_through_links_are_followed_to_their_end(into: Path, tmp_path: Path) -> None:
    """Each by itself stays inside: `here` is the top, and `up` is its parent."""
    members = [Member("here", Kind.LINK, target="."), Member("up", Kind.LINK, target="here/..")]
    with pytest.raises(Invalid, match="leads out of the medium: 'up'"):
        unpack(Hostile(members), into, quiet)
    deep = [
        Member("d", Kind.FOLDER),
        Member("d/e", Kind.LINK, target="../here"),
        Member("here", Kind.LINK, target="."),
        Member("up", Kind.LINK, target="d/e/../secret"),
    ]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Invalid, match="leads out"):
        unpack(Hostile(deep), other, quiet)


def test_links_that_lead_nowhere_or_in_circles_do_no_harm(into: Path) -> None:
    members = [
        Member("a", Kind.LINK, target="b"),
        Member("b", Kind.LINK, target="a"),
        Member("c", Kind.LINK, target="gone/file"),
    ]
    unpack(Hostile(members), into, quiet)
    assert everything(into) == {"a", "b", "c"}


def test_capitals_make_another_name_where_the_disk_says_so(into: Path) -> None:
    members = [Member("README", Kind.FILE, 1), Member("readme", Kind.FILE, 2)]
    unpack(Hostile(members), into, quiet)
    assert ((into / "README").read_bytes(), (into / "readme").read_bytes()) == (b"x", b"xx")


def test_what_stands_in_the_way_is_not_written_through(into: Path, tmp_path: Path) -> None:
    """As on a disk that folds capitals, or with somebody at work beside us."""
    target = tmp_path / "victim"
    target.write_text("mine")
    (into / "kernel").symlink_to(target)
    with pytest.raises(Invalid, match="two members have one name here: 'kernel'"):
        unpack(Hostile([Member("kernel", Kind.FILE, 3)]), into, quiet)
    assert target.read_text() == "mine"


def test_the_same_bytes_take_room_once(tmp_path: Path, into: Path) -> None:
    data = os.urandom(50_000)
    path = make_iso({"a": data, "b": b"other"}, tmp_path / "x.iso")
    raw = path.read_bytes()
    a, b = raw.index(b"F000001") - 33, raw.index(b"F000002") - 33
    path.write_bytes(raw[: b + 2] + raw[a + 2 : a + 18] + raw[b + 18 :])
    source = open_source(path)
    size, files = unpack(source, into, quiet)
    source.close()
    assert (size, files) == (50_000, 2)
    assert (into / "b").read_bytes() == data
    assert (into / "a").stat().st_ino == (into / "b").stat().st_ino


def test_our_record_is_not_theirs(into: Path) -> None:
    unpack(Hostile([Member("media.json", Kind.FILE, 1), Member("f", Kind.FILE, 1)]), into, quiet)
    assert everything(into) == {"f"}


def test_a_folder_is_copied_with_the_links_in_it(tmp_path: Path, into: Path) -> None:
    root = lay_out(skeleton.NETBOOT, tmp_path / "netboot")
    (root / "pxelinux.0").symlink_to("debian-installer/amd64/pxelinux.0")
    (root / "empty").mkdir()
    source = Folder(root)
    unpack(source, into, quiet)
    assert {path: (into / path).read_bytes() for path in skeleton.NETBOOT} == skeleton.NETBOOT
    assert (into / "pxelinux.0").is_symlink()
    assert (into / "pxelinux.0").read_bytes() == b"x"
    assert (into / "empty").is_dir()


@pytest.mark.parametrize("target", ["/etc", "../outside"])
def test_a_folder_with_a_link_out_is_refused(target: str, tmp_path: Path, into: Path) -> None:
    root = lay_out({"f": b"x"}, tmp_path / "tree")
    (root / "out").symlink_to(target)
    with pytest.raises(Invalid, match="leads out of the medium: 'out'"):
        unpack(Folder(root), into, quiet)
    assert everything(into) == set()


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    root = lay_out({"f": b"x"}, tmp_path / "tree")
    os.mkfifo(root / "pipe")
    with pytest.raises(Invalid, match="neither file, folder nor link: 'pipe'"):
        Folder(root)


def test_a_folder_that_changes_meanwhile_is_not_believed(tmp_path: Path, into: Path) -> None:
    root = lay_out({"f": b"12345"}, tmp_path / "tree")
    source = Folder(root)
    (root / "f").write_bytes(b"123")
    with pytest.raises(Invalid, match="changed while it was read"):
        unpack(source, into, quiet)
    (root / "f").unlink()
    (root / "f").symlink_to("/etc/passwd")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Invalid, match="cannot read 'f'"):
        unpack(source, other, quiet)
