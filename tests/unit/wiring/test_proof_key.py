"""This installation's proof key: one private file is all that has to be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.config import Config
from baremetal.drivers.keys import generate_keypair
from baremetal.errors import Unavailable
from baremetal.wiring import build


def proof_key(folder: Path) -> str:
    """Build a service on this folder; returns the public key that its answer files would carry."""
    config = Config.model_validate({"server": {"data_dir": str(folder), "public_url": "http://127.0.0.1:1"}})
    app = build(config)
    try:
        return app.services.deploys._kitchen.proof_key
    finally:
        app.store.close()


def test_the_public_half_comes_from_the_private_one(tmp_path: Path) -> None:
    made = proof_key(tmp_path)
    assert made.startswith("ssh-ed25519 ")
    assert (tmp_path / "proof_key").stat().st_mode & 0o777 == 0o600
    assert proof_key(tmp_path) == made


def test_a_file_with_the_public_half_is_neither_needed_nor_in_the_way(tmp_path: Path) -> None:
    """Earlier versions wrote one; a restored one may even belong to another key."""
    made = proof_key(tmp_path)
    (tmp_path / "proof_key.pub").write_text(generate_keypair("another").public + "\n")
    assert proof_key(tmp_path) == made


@pytest.mark.parametrize("text", ["", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n"])
def test_a_broken_key_is_said_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "proof_key").write_text(text)
    (tmp_path / "proof_key").chmod(0o600)
    with pytest.raises(Unavailable, match="proof_key") as caught:
        proof_key(tmp_path)
    assert "hunter2" not in str(caught.value)
