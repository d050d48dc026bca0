"""The control token of the first start, and what revoking it means."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from baremetal.service.tokens import FIRST, Tokens
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store


def test_a_revoked_first_token_stays_revoked_after_a_restart(tmp_path: Path) -> None:
    store = Store.open("sqlite://", Secrets.ephemeral())
    tokens = Tokens(store, tmp_path / "control.token", lambda: datetime.now(UTC))
    old = tokens.first().read_text().strip()
    assert tokens.first().read_text().strip() == old, "a start without need changes nothing"
    assert tokens.identify(old) is not None
    tokens.revoke(FIRST)
    assert tokens.identify(old) is None
    new = tokens.first().read_text().strip()
    assert tokens.identify(old) is None
    assert tokens.identify(new) is not None
    assert (tmp_path / "control.token").stat().st_mode & 0o777 == 0o600
    store.close()
