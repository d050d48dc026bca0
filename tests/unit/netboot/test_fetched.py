"""Which paths below a URL a rendered text names."""

from __future__ import annotations

import pytest

from baremetal.netboot.fetched import fetched

BELOW = "http://192.0.2.1:8080/media/_r1.2"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (f"kernel {BELOW}/rocky9/images/vmlinuz x", {"rocky9/images/vmlinuz"}),
        (f"inst.repo={BELOW}/rocky9\nurl --url={BELOW}/rocky9/", {"rocky9"}),
        (f"iso='{BELOW}/u/a%20b.iso'", {"u/a b.iso"}),
        (f"see {BELOW}/u/a.iso.", {"u/a.iso"}),
        (f'"{BELOW}/u/dists/$release/main" {BELOW}/u/${{arch}}', {"u/dists", "u"}),
        (f"{BELOW}/ {BELOW}", set()),
        (f"{BELOW}0/x http://192.0.2.1:8080/media/other/x", set()),
    ],
)
def test_paths_below_a_url(text: str, paths: set[str]) -> None:
    assert fetched(text, BELOW) == paths
