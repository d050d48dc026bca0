"""Keys of our own, as OpenSSH and paramiko read them."""

from __future__ import annotations

import io

import pytest
from paramiko import Ed25519Key, RSAKey

from baremetal.drivers.keys import generate_keypair, public_half
from baremetal.errors import Invalid


def test_makes_keys_that_openssh_reads_and_does_not_show_the_private_half() -> None:
    pair = generate_keypair("bm-1/7")
    assert pair.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    kind, data, comment = pair.public.split(" ")
    assert (kind, comment) == ("ssh-ed25519", "bm-1/7")
    assert Ed25519Key.from_private_key(io.StringIO(pair.private)).get_base64() == data
    assert pair.private not in repr(pair)
    assert "PRIVATE" not in repr(pair)


def test_the_public_half_is_told_from_the_private_one() -> None:
    pair = generate_keypair("bm-1/7")
    assert public_half(pair.private, "bm-1/7") == pair.public
    assert public_half(pair.private, "") == " ".join(pair.public.split(" ")[:2])


def test_what_is_no_key_of_ours_is_named_and_not_shown() -> None:
    rsa = io.StringIO()
    RSAKey.generate(2048).write_private_key(rsa)
    locked = io.StringIO()
    RSAKey.generate(2048).write_private_key(locked, password="hunter2")
    for text in ("hunter2", generate_keypair().private[:120], rsa.getvalue(), locked.getvalue()):
        with pytest.raises(Invalid, match="not a") as caught:
            public_half(text)
        assert text not in str(caught.value)
