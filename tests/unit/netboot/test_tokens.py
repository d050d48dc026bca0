from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.netboot.tokens import Purpose, Scope, TokenMint, mask_tokens

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=36)
runs = st.integers(0, 2**63)
purposes = st.sampled_from(Purpose)


@given(ids, runs, purposes)
def test_a_token_opens_to_its_scope(server_id: str, run: int, purpose: Purpose) -> None:
    mint = TokenMint(KEY)
    token = mint.mint(server_id, run, purpose)
    assert mint.open(token, purpose) == Scope(server_id, run, purpose)
    assert token == mint.mint(server_id, run, purpose)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(ids, runs, purposes)
def test_no_other_purpose_or_key_opens_it(server_id: str, run: int, purpose: Purpose) -> None:
    token = TokenMint(KEY).mint(server_id, run, purpose)
    other = Purpose.FETCH if purpose is Purpose.CALLBACK else Purpose.CALLBACK
    assert TokenMint(KEY).open(token, other) is None
    assert TokenMint(OTHER).open(token, purpose) is None


@given(ids, runs, st.data())
def test_a_changed_token_is_nothing(server_id: str, run: int, data: st.DataObject) -> None:
    mint = TokenMint(KEY)
    token = mint.mint(server_id, run, Purpose.CALLBACK)
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019-_"))
    forged = token[:at] + letter + token[at + 1 :]
    if forged != token:
        assert mint.open(forged, Purpose.CALLBACK) is None
    assert mint.open(token[:at], Purpose.CALLBACK) is None
    assert mint.open(token + letter, Purpose.CALLBACK) is None


@given(st.text())
def test_noise_is_nothing(noise: str) -> None:
    assert TokenMint(KEY).open(noise, Purpose.FETCH) is None


def test_a_rotated_key_still_opens_and_a_new_one_mints() -> None:
    old = TokenMint(OTHER).mint("7", 3, Purpose.FETCH)
    both = TokenMint([KEY, OTHER])
    assert both.open(old, Purpose.FETCH) == Scope("7", 3, Purpose.FETCH)
    assert both.mint("7", 3, Purpose.FETCH) == TokenMint(KEY).mint("7", 3, Purpose.FETCH)


def test_short_keys_and_empty_scopes_are_refused() -> None:
    with pytest.raises(Invalid):
        TokenMint(b"short")
    with pytest.raises(Invalid):
        TokenMint(KEY).mint("", 1, Purpose.FETCH)
    with pytest.raises(Invalid):
        TokenMint(KEY).mint("x" * 300, 1, Purpose.FETCH)


def test_masking_leaves_no_token_in_a_text() -> None:
    mint = TokenMint(KEY)
    fetch, callback = mint.mint("7", 1, Purpose.FETCH), mint.mint("7", 1, Purpose.CALLBACK)
    text = f"inst.ks=http://h/answer/{fetch}/ks.cfg\nBM_URL=http://h/callback/{callback}\n"
    masked = mask_tokens(text)
    assert fetch not in masked
    assert callback not in masked
    assert masked == "inst.ks=http://h/answer/masked/ks.cfg\nBM_URL=http://h/callback/masked\n"
