"""Media arrive whole, verified and where their profile boots them from; or nothing changes and the words say why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from baremetal.errors import BaremetalError, Conflict, Invalid, MediaMissing, Refused, Unknown
from baremetal.lifecycle.model import Fetch
from baremetal.media.tree import CHUNK
from baremetal.service.media.fit import Need
from baremetal.service.media.importing import MediaImport
from baremetal.service.media.media import Media
from tests.unit.media import skeleton
from tests.unit.media.skeleton import lay_out, make_iso

PXE = ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img")
DI = ("debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz")
NEEDS = (
    Need("rocky9", "rocky9", "kickstart", "x86_64", *PXE, release="9"),
    Need("rocky9-arm", "rocky9-arm", "kickstart", "arm64", *PXE),
    Need("debian12", "debian12", "preseed", "x86_64", *DI),
    Need("noble", "noble", "autoinstall", "x86_64", "casper/vmlinuz", "casper/initrd", beside="noble.iso"),
    Need("small", "shared", "kickstart", "x86_64", *PXE),
    Need("large", "shared", "kickstart", "x86_64", "other/vmlinuz", "other/initrd.img"),
    Need("esxi7", "esxi7", "esxi", "x86_64", "", ""),
    Need("windows2022", "windows2022", "windows", "x86_64", "wimboot", "sources/boot.wim"),
)
# As a plain ISO shows it, whose names Linux and we write in small letters.
ESXI = {path.lower(): data for path, data in skeleton.ESXI.items()}
ROCKY = skeleton.red_hat("Rocky Linux", "9.4")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "media"


@pytest.fixture
def media(root: Path) -> MediaImport:
    return MediaImport(root, NEEDS, now=lambda: NOW)


@pytest.fixture
def rocky(tmp_path: Path) -> Path:
    return make_iso(ROCKY, tmp_path / "Rocky-9.4-x86_64-minimal.iso")


def below(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".lock"} if root.exists() else set()


def test_an_image_becomes_media_that_the_boot_app_serves(media: MediaImport, rocky: Path, root: Path) -> None:
    """S2-4."""
    added = media.add("rocky9", rocky)
    assert (added.name, added.folder, added.replaced, added.warnings) == (
        "rocky9",
        root / "rocky9",
        False,
        (),
    )
    served = Media(root, {f"rocky9/{PXE[0]}": Fetch.KERNEL})
    for path, data in ROCKY.items():
        found = served.find(f"rocky9/{path}")
        assert found is not None, path
        assert found.path.read_bytes() == data
    assert below(root) == {"rocky9"}
    written = json.loads((root / "rocky9/media.json").read_text())
    expected = {
        "distro": "rocky",
        "title": "Rocky Linux",
        "family": "kickstart",
        "version": "9.4",
        "arch": "x86_64",
        "kernel": PXE[0],
        "initrd": PXE[1],
        "kernel_sha256": skeleton.sha256(skeleton.KERNEL),
        "initrd_sha256": skeleton.sha256(skeleton.INITRD),
        "source": "Rocky-9.4-x86_64-minimal.iso",
        "added_at": "2026-01-02T03:04:05Z",
        "files": len(ROCKY),
        "bytes": sum(map(len, ROCKY.values())),
    }
    assert {key: written[key] for key in expected} == expected
    assert written["evidence"] == [".treeinfo: Rocky Linux 9.4"]


def test_a_minor_version_nobody_has_heard_of_is_imported(media: MediaImport, tmp_path: Path) -> None:
    """What ends elsewhere in "no signature matched"."""
    tree = skeleton.red_hat("Rocky Linux", "9.97")
    added = media.add("rocky9", make_iso(tree, tmp_path / "x.iso"))
    assert (added.record.version, added.warnings) == ("9.97", ())


def test_another_release_is_imported_with_a_warning(media: MediaImport, tmp_path: Path) -> None:
    added = media.add("rocky9", make_iso(skeleton.red_hat("Rocky Linux", "8.10"), tmp_path / "x.iso"))
    assert added.warnings == ("profile rocky9 expects release 9, and this is Rocky Linux 8.10 x86_64",)


@pytest.mark.parametrize(
    ("title", "wonders"),
    [
        ("Red Hat Enterprise Linux 9", True),
        ("Rocky Linux 9", False),
        ("AlmaLinux or Rocky 9", False),
        ("Salma's web servers", False),
        ("", False),
    ],
)
def test_another_distribution_than_the_profile_is_named_for_is_imported_with_a_warning(
    tmp_path: Path, title: str, wonders: bool
) -> None:
    need = Need("web", "web", "kickstart", "x86_64", *PXE, title=title)
    media = MediaImport(tmp_path / "data" / "media", [need], now=lambda: NOW)
    added = media.add("web", make_iso(ROCKY, tmp_path / "x.iso"))
    said = (f"profile web is called {title!r}, and this is Rocky Linux 9.4 x86_64",)
    assert added.warnings == (said if wonders else ())


def test_a_relative_is_imported_with_a_warning(media: MediaImport, tmp_path: Path) -> None:
    added = media.add("rocky9", make_iso(skeleton.red_hat("EuroLinux", "9.4"), tmp_path / "x.iso"))
    assert added.record.distro == "eurolinux"
    assert "EuroLinux is not known here; taken for kickstart media" in added.warnings[0]


def test_a_folder_is_imported_with_its_links(media: MediaImport, root: Path, tmp_path: Path) -> None:
    tree = lay_out(skeleton.NETBOOT, tmp_path / "netboot")
    (tree / "pxelinux.0").symlink_to("debian-installer/amd64/pxelinux.0")
    added = media.add("debian12", tree)
    assert (added.record.distro, added.record.version, added.record.source) == ("debian", "12", "netboot")
    served = Media(root, {})
    found = served.find("debian12/pxelinux.0")
    assert found is not None
    assert found.path.read_bytes() == b"x"
    again = media.add("debian12", root / "debian12")
    assert again.replaced, "an imported folder can be a source too"
    assert (root / "debian12" / DI[0]).read_bytes() == skeleton.KERNEL


def test_esxi_is_imported_with_its_own_loaders(media: MediaImport, root: Path, tmp_path: Path) -> None:
    added = media.add("esxi7", make_iso(ESXI, tmp_path / "esxi.iso"))
    assert (added.record.distro, added.record.version, added.warnings) == ("esxi", "7.0.3", ())
    for path in ("boot.cfg", "mboot.c32", "efi/boot/bootx64.efi"):
        assert (root / "esxi7" / path).read_bytes() == ESXI[path]
    assert {held.name: held.ready for held in media.held()}["esxi7"] == ("esxi7",)


def test_windows_is_imported_and_waits_for_wimboot(media: MediaImport, root: Path, tmp_path: Path) -> None:
    added = media.add("windows2022", make_iso(skeleton.WINDOWS, tmp_path / "windows.iso"))
    assert added.record.distro == "windows"
    assert added.warnings == (
        "profile windows2022 needs wimboot too, which is not on it: put it into media/windows2022/",
    )
    assert {held.name: held.ready for held in media.held()}["windows2022"] == ()
    (root / "windows2022/wimboot").write_bytes(b"w")
    assert {held.name: held.ready for held in media.held()}["windows2022"] == ("windows2022",)
    tree = lay_out({**skeleton.WINDOWS, "wimboot": b"w"}, tmp_path / "with-wimboot")
    assert media.add("windows2022", tree).warnings == ()


def test_ubuntus_live_system_needs_its_whole_image_too(
    media: MediaImport, root: Path, tmp_path: Path
) -> None:
    """Which is kept beside what was unpacked; an unpacked folder has none, and that is said."""
    image = make_iso(skeleton.LIVE_SERVER, tmp_path / "ubuntu-24.04.2-live-server-amd64.iso")
    added = media.add("noble", image)
    assert added.warnings == ()
    assert (root / "noble/noble.iso").read_bytes() == image.read_bytes()
    assert added.record.bytes > image.stat().st_size
    added = media.add("noble", lay_out(skeleton.LIVE_SERVER, tmp_path / "unpacked"))
    assert added.warnings == (
        "profile noble needs noble.iso too, which is not on it: put it into media/noble/",
    )
    assert not (root / "noble/noble.iso").exists()


def test_a_link_on_the_medium_by_the_images_name_is_not_written_through(
    media: MediaImport, root: Path, tmp_path: Path
) -> None:
    links = {"noble.iso": "casper/vmlinuz"}
    media.add("noble", make_iso(skeleton.LIVE_SERVER, tmp_path / "image.iso", links=links))
    assert (root / "noble/casper/vmlinuz").read_bytes() == skeleton.LIVE_SERVER["casper/vmlinuz"]


def test_new_media_replace_old_ones(media: MediaImport, rocky: Path, root: Path, tmp_path: Path) -> None:
    media.add("rocky9", rocky)
    (root / "rocky9" / "left-over").write_text("x")
    newer = make_iso(skeleton.red_hat("Rocky Linux", "9.5"), tmp_path / "newer.iso")
    added = media.add("rocky9", newer)
    assert added.replaced
    assert added.record.version == "9.5"
    assert not (root / "rocky9" / "left-over").exists()
    assert below(root) == {"rocky9"}


@pytest.mark.parametrize(
    ("name", "tree", "kind", "code", "words"),
    [
        ("rocky8", ROCKY, Unknown, "BM201", "no profile 'rocky8'"),
        (
            "debian12",
            ROCKY,
            Invalid,
            "BM206",
            "profile debian12 installs by preseed, and this is Rocky Linux 9.4",
        ),
        (
            "rocky9-arm",
            ROCKY,
            Invalid,
            "BM206",
            "profile rocky9-arm is for arm64, and this is Rocky Linux 9.4 x86_64",
        ),
        (
            "rocky9",
            skeleton.LIVE_SERVER,
            Invalid,
            "BM206",
            "installs by kickstart, and this is Ubuntu 24.04.1",
        ),
        ("debian12", skeleton.debian_cd(skeleton.DEBIAN), MediaMissing, "BM202", r"unpack netboot\.tar\.gz"),
        ("rocky9", ESXI, Invalid, "BM206", r"VMware ESXi 7\.0\.3.*Choose a profile of the family esxi"),
        ("rocky9", skeleton.WINDOWS, Invalid, "BM206", "which installs by windows"),
        ("esxi7", ROCKY, Invalid, "BM206", "profile esxi7 installs by esxi, and this is Rocky Linux 9.4"),
        (
            "esxi7",
            {path: data for path, data in ESXI.items() if not path.startswith("efi")},
            MediaMissing,
            "BM202",
            r"boots efi/boot/bootx64\.efi, which this medium does not have.*Take the whole medium",
        ),
        (
            "large",
            ROCKY,
            MediaMissing,
            "BM202",
            r'Set kernel = "images/pxeboot/vmlinuz" and initrd = "images/pxeboot',
        ),
        ("rocky9", {"readme": b"x"}, Invalid, "BM206", "is no installation medium that is known here"),
        (
            "rocky9",
            {"LiveOS/squashfs.img": b"s", PXE[0]: b"k", PXE[1]: b"i"},
            Invalid,
            "BM206",
            "the nearest match is CentOS.*--as centos",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_plain_words(
    name: str,
    tree: skeleton.Tree,
    kind: type[BaremetalError],
    code: str,
    words: str,
    media: MediaImport,
    root: Path,
    tmp_path: Path,
) -> None:
    """Pain 13: with the nearest match, and `--as`."""
    with pytest.raises(kind, match=words) as caught:
        media.add(name, make_iso(tree, tmp_path / "x.iso"))
    assert (caught.value.code, type(caught.value)) == (code, kind)
    assert below(root) == set()


def test_the_operators_word_is_taken(media: MediaImport, tmp_path: Path) -> None:
    image = make_iso({PXE[0]: b"k", PXE[1]: b"i"}, tmp_path / "own.iso")
    with pytest.raises(Invalid, match="nearest match"):
        media.add("rocky9", image)
    added = media.add("rocky9", image, as_distro="rocky")
    assert (added.record.distro, added.record.evidence) == ("rocky", ("you said so",))
    with pytest.raises(Invalid, match=r"no distribution 'rokcy'.*Did you mean 'rocky'"):
        media.add("rocky9", image, as_distro="rokcy")


def test_media_that_profiles_share_are_added_by_either_name(
    media: MediaImport, rocky: Path, root: Path
) -> None:
    added = media.add("small", rocky)
    assert added.name == "shared"
    assert added.warnings == (
        "profile large boots from this too, and misses other/vmlinuz and other/initrd.img",
    )
    assert media.add("shared", rocky).replaced
    assert below(root) == {"shared"}


def test_a_kernel_that_is_not_what_its_medium_says_is_refused(
    media: MediaImport, root: Path, tmp_path: Path
) -> None:
    good = make_iso(ROCKY, tmp_path / "good.iso")
    media.add("rocky9", good)
    bad = make_iso({**ROCKY, PXE[1]: b"damaged" * 700}, tmp_path / "bad.iso")
    with pytest.raises(
        Invalid, match=r"images/pxeboot/initrd\.img' is damaged: it is not what \.treeinfo says"
    ):
        media.add("rocky9", bad)
    assert (root / "rocky9" / PXE[1]).read_bytes() == skeleton.INITRD
    assert below(root) == {"rocky9"}


def test_a_kernel_that_is_a_link_is_followed_and_must_lead_somewhere(
    media: MediaImport, root: Path, tmp_path: Path
) -> None:
    tree = {path: data for path, data in ROCKY.items() if path != PXE[0]} | {
        "isolinux/vmlinuz": skeleton.KERNEL
    }
    added = media.add("rocky9", make_iso(tree, tmp_path / "a.iso", links={PXE[0]: "../../isolinux/vmlinuz"}))
    assert added.record.kernel_sha256 == skeleton.sha256(skeleton.KERNEL)
    with pytest.raises(Invalid, match=r"images/pxeboot/vmlinuz' cannot be read"):
        media.add("rocky9", make_iso(tree, tmp_path / "b.iso", links={PXE[0]: "gone"}))
    assert (root / "rocky9" / PXE[0]).read_bytes() == skeleton.KERNEL


def test_the_whole_image_is_verified_first(media: MediaImport, rocky: Path, root: Path) -> None:
    with pytest.raises(Invalid, match="is not the image that was meant"):
        media.add("rocky9", rocky, sha256="0" * 64)
    with pytest.raises(Invalid, match="64 hexadecimal digits"):
        media.add("rocky9", rocky, sha256="abc")
    with pytest.raises(Invalid, match="a folder has none"):
        media.add("rocky9", lay_out(ROCKY, rocky.parent / "tree"), sha256="0" * 64)
    assert below(root) == set()
    whole = skeleton.sha256(rocky.read_bytes())
    assert media.add("rocky9", rocky, sha256=whole.upper()).record.source_sha256 == whole


def test_media_put_there_by_hand_are_not_lost_by_accident(
    media: MediaImport, rocky: Path, root: Path
) -> None:
    lay_out({"vmlinuz": b"mine"}, root / "rocky9")
    with pytest.raises(Conflict, match=r"was not made by `media add`.*--replace"):
        media.add("rocky9", rocky)
    with pytest.raises(Conflict, match="was not made by"):
        media.check("rocky9")
    media.check("rocky9", replace=True)
    with pytest.raises(Conflict, match="--force"):
        media.remove("rocky9")
    assert (root / "rocky9/vmlinuz").read_bytes() == b"mine"
    assert media.add("rocky9", rocky, replace=True).replaced
    (root / "debian12").symlink_to("rocky9")
    with pytest.raises(Conflict, match="is no folder"):
        media.add("debian12", rocky, replace=True)


def test_a_folder_that_holds_the_media_is_no_medium(media: MediaImport, root: Path) -> None:
    lay_out(ROCKY, root.parent)
    with pytest.raises(Invalid, match="holds the media folder itself"):
        media.add("rocky9", root.parent)


def test_no_room_is_found_before_anything_is_written(media: MediaImport, root: Path, tmp_path: Path) -> None:
    """A sparse file that claims more than any disk of a test machine has."""
    tree = lay_out(ROCKY, tmp_path / "tree")
    with (tree / "huge").open("wb") as file:
        file.truncate(15 << 40)
    with pytest.raises(Refused, match="no room") as caught:
        media.add("rocky9", tree)
    assert caught.value.code == "BM207"
    assert below(root) == set()


def test_what_is_there_is_listed_and_removed(media: MediaImport, rocky: Path, root: Path) -> None:
    assert {held.name: held.present for held in media.held()} == dict.fromkeys(
        ["rocky9", "rocky9-arm", "debian12", "noble", "shared", "esxi7", "windows2022"], False
    )
    media.add("small", rocky)
    lay_out({"f": b"x"}, root / "by-hand")
    held = {entry.name: entry for entry in media.held()}
    assert (held["shared"].profiles, held["shared"].ready) == (("small", "large"), ("small",))
    assert held["by-hand"].present
    assert held["by-hand"].record is None
    with pytest.raises(Unknown, match="no media 'sharde'") as caught:
        media.remove("sharde")
    assert caught.value.nearest == "shared"
    assert media.remove("small").name == "shared"
    assert media.remove("by-hand", force=True).profiles == ()
    assert below(root) == set()


def test_an_interrupt_leaves_the_old_media(
    media: MediaImport, rocky: Path, root: Path, tmp_path: Path
) -> None:
    media.add("rocky9", rocky)

    def stop(done: int, total: int) -> None:
        if done > 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        media.add(
            "rocky9", make_iso(skeleton.red_hat("Rocky Linux", "9.5"), tmp_path / "n.iso"), progress=stop
        )
    assert below(root) == {"rocky9"}
    assert "rocky9-arm" in {held.name for held in media.held() if not held.present}
    assert (root / "rocky9/.treeinfo").read_bytes() == ROCKY[".treeinfo"]


# A real process, which imports a folder over and over until somebody kills it.
PROCESS = """
import sys
from pathlib import Path
from baremetal.service.media.fit import Need
from baremetal.service.media.importing import MediaImport
need = Need("rocky9", "rocky9", "kickstart", "x86_64", "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img")
media = MediaImport(Path(sys.argv[1]), [need])
def told(done, total):
    print(done, flush=True)
while True:
    for source in sys.argv[2:]:
        media.add("rocky9", Path(source), progress=told)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_whole_media(media: MediaImport, root: Path, tmp_path: Path) -> None:
    versions = ("9.1", "9.2")
    sources = []
    for version in versions:
        tree = {**skeleton.red_hat("Rocky Linux", version), "big": version[-1:].encode() * (3 * CHUNK)}
        sources.append(str(make_iso(tree, tmp_path / f"{version}.iso")))
    media.add("rocky9", Path(sources[0]))
    halves = 0
    for round_ in range(14):
        child = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(root), *sources],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        assert child.stdout is not None
        for _ in range(2 + round_ % 7):
            assert child.stdout.readline()
        time.sleep(0.001 * round_)
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        child.stdout.close()
        halves += any(name.startswith(".new-") for name in below(root))
        found = below(root)
        assert "rocky9" in found
        assert len(found) <= 2
        version = (root / "rocky9/.treeinfo").read_text().partition("version = ")[2][:3]
        assert version in versions
        assert (root / "rocky9/big").read_bytes() == version[-1:].encode() * (3 * CHUNK)
        assert json.loads((root / "rocky9/media.json").read_text())["version"] == version
    assert halves, "no kill came while something was being written"
    media.add("rocky9", Path(sources[0]))
    assert below(root) == {"rocky9"}
