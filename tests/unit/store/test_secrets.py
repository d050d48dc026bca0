"""Sealing, its key file, and private files."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.errors import Unavailable
from baremetal.store.secrets import Secrets, read_or_make, write_private


def test_what_is_sealed_opens_again_and_only_with_the_key(tmp_path: Path) -> None:
    secrets = Secrets.load(tmp_path / "secrets" / "sealing.key")
    sealed = secrets.seal("geheim, ü")
    assert "geheim" not in sealed
    assert Secrets.load(tmp_path / "secrets" / "sealing.key").open(sealed) == "geheim, ü"
    with pytest.raises(Unavailable, match="key"):
        Secrets.ephemeral().open(sealed)


def test_the_key_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "sealing.key"
    secrets = Secrets.load(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.read_text().strip() not in repr(secrets)


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    Secrets.load(path)
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        Secrets.load(path)


@pytest.mark.parametrize("content", ["", "\n", "not a key\n"])
def test_a_spoiled_key_file_is_not_replaced(tmp_path: Path, content: str) -> None:
    """A new key in its place would lose every password without a word."""
    path = tmp_path / "sealing.key"
    write_private(path, content.encode())
    with pytest.raises(Unavailable, match="sealing key"):
        Secrets.load(path)
    assert path.read_text() == content


def test_rotation_goes_through_a_time_of_two_keys(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    secrets = Secrets.load(path)
    old = secrets.seal("a")
    secrets.add_key()
    new = secrets.seal("b")
    between = Secrets.load(path)
    assert (between.open(old), between.open(new)) == ("a", "b")
    resealed = between.reseal(old)
    between.drop_old_keys()
    after = Secrets.load(path)
    assert (after.open(resealed), after.open(new)) == ("a", "b")
    with pytest.raises(Unavailable):
        after.open(old)


def test_a_private_file_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    assert read_or_make(path, lambda: b"one") == b"one"
    assert read_or_make(path, lambda: b"two") == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]


def test_a_folder_that_takes_no_file_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        read_or_make(tmp_path / "file" / "master.key", lambda: b"one")
