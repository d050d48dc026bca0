"""CHAP secrets: as long as every initiator takes them, never shown, and told apart by their account's name."""

from __future__ import annotations

import re

from baremetal.storage.base import Target
from baremetal.storage.chap import mint


def test_a_secret_is_random_and_of_a_length_that_everybody_takes() -> None:
    many = [mint("R1.example", mutual=True) for _ in range(50)]
    words = {word for chap in many for word in (chap.password, chap.mutual_password)}
    assert len(words) == 100
    assert all(re.fullmatch("[A-Za-z0-9]{16}", word) for word in words)
    assert all(chap.user != chap.mutual_user for chap in many)
    assert len({chap.user for chap in many}) == 50, "an account's name tells its secret from another"
    assert all(re.fullmatch("r1-example-[0-9a-f]{8}", chap.user) for chap in many)


def test_without_mutual_there_is_one() -> None:
    chap = mint("r1", mutual=False)
    assert (chap.mutual_user, chap.mutual_password) == ("", "")


def test_it_is_not_shown() -> None:
    chap = mint("r1", mutual=True)
    shown = repr(Target("iqn.2026-01.org.example:r1", (), (), chap))
    assert chap.password not in shown
    assert chap.mutual_password not in shown
