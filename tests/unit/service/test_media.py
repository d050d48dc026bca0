"""Nothing outside the media folder is served, however it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.lifecycle.model import Fetch
from baremetal.service.media.media import Media
from baremetal.service.recipe import media_reference, read_media_reference


@pytest.fixture
def media(tmp_path: Path) -> Media:
    root = tmp_path / "media"
    (root / "debian13" / "dists").mkdir(parents=True)
    (root / "debian13" / "linux").write_bytes(b"k")
    (root / "debian13" / ".hidden").write_bytes(b"h")
    (root / "debian13" / "dists" / "a+b_1~2.udeb").write_bytes(b"u")
    (tmp_path / "control.token").write_text("secret")
    (tmp_path / "media-not").mkdir()
    (tmp_path / "media-not" / "file").write_text("x")
    (root / "debian13" / "out").symlink_to(tmp_path / "control.token")
    (root / "debian13" / "loop").symlink_to("loop")
    (root / "alias").symlink_to(root / "debian13")
    return Media(root, {"debian13/linux": Fetch.KERNEL})


def test_files_are_found_plain_and_by_a_runs_reference(media: Media) -> None:
    plain = media.find("debian13/linux")
    assert plain is not None
    assert (plain.what, plain.run) == (Fetch.KERNEL, 0)
    mine = media.find("_web-1.7/debian13/linux")
    assert mine is not None
    assert (mine.path, mine.server, mine.run) == (plain.path, "web-1", 7)
    other = media.find("debian13/dists/a+b_1~2.udeb")
    assert other is not None
    assert other.what is Fetch.MEDIA
    assert media.find("alias/linux") is not None, "links that stay inside are fine"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "debian13",
        "debian13/",
        "debian13/dists",
        "debian13/out",
        "debian13/loop",
        "debian13/.hidden",
        "debian13/../../control.token",
        "../control.token",
        "../media-not/file",
        "/etc/passwd",
        "debian13//linux",
        "debian13/linux\x00",
        "debian13/linux/",
        "_web-1.7",
        "_web-1.7/linux",
        "_web-1.x/debian13/linux",
        "a/" * 600 + "b",
    ],
)
def test_everything_else_is_not_there(media: Media, path: str) -> None:
    assert media.find(path) is None


@pytest.mark.parametrize(("name", "run"), [("r1", 1), ("web-1", 123456)])
def test_references_are_read_back(name: str, run: int) -> None:
    assert read_media_reference(media_reference(name, run)) == (name, run)


@pytest.mark.parametrize("text", ["", "_", "r1.1", "_r1", "_r1.", "_r1.-1", "_r1.²", "_r1." + "9" * 10])
def test_other_names_are_no_references(text: str) -> None:
    assert read_media_reference(text) is None
