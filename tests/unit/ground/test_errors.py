"""The words of errors: an input error says where it stands, and what it is about."""

from __future__ import annotations

import pytest

from baremetal.cli.failure import tell
from baremetal.errors import Invalid


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Invalid("not a value", variable="vlan"), "vlan: not a value"),
        (
            Invalid("undefined", code="BM203", file="a.ks.j2", line=7, variable="rack_name"),
            "a.ks.j2:7: rack_name: undefined",
        ),
        (
            Invalid("undefined variable rack_name", file="a.ks.j2", line=7, variable="rack_name"),
            "a.ks.j2:7: undefined variable rack_name",
        ),
        (Invalid("not a MAC address", variable="mac"), "not a MAC address"),
        (Invalid("servers.0.macs: too long", variable="servers.0.macs"), "servers.0.macs: too long"),
        (Invalid("disks are odd", variable="disk"), "disk: disks are odd"),
        (Invalid("vars.disk is odd", variable="disk"), "disk: vars.disk is odd"),
        (
            Invalid("is missing", file="environment variable BAREMETAL_X", variable="BAREMETAL_X"),
            "environment variable BAREMETAL_X: is missing",
        ),
        (Invalid("is odd", server="r1", variable="vlan"), "vlan: r1: is odd"),
        (Invalid("the body is not JSON"), "the body is not JSON"),
    ],
)
def test_the_variable_is_named_once(
    error: Invalid, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(error) == error.as_dict()["message"] == sentence
    monkeypatch.setenv("NO_COLOR", "1")
    tell(error)
    assert capsys.readouterr().err.strip() == f"error {error.code}  {sentence}"
