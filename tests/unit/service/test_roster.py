"""Rosters: what is read, and how every wrong row is named."""

from __future__ import annotations

import pytest

from baremetal.errors import Invalid
from baremetal.service.servers.roster import InvalidRows, parse

CSV = """\
name, bmc, bmc_password, mac, ip, gateway, var:rack_unit, tag:row, adopt
r1, ipmi://admin@10.0.0.1, secret, 52:54:00:00:00:01 52:54:00:00:00:02, 10.1.0.1/24, 10.1.0.254, 7, a, no

r2, ipmi://admin@10.0.0.2, secret, 52:54:00:00:00:03, , , , , yes
"""


def test_csv_columns_go_where_they_belong() -> None:
    first, second = parse(CSV, "csv")
    assert first.macs == ("52:54:00:00:00:01", "52:54:00:00:00:02")
    assert (first.ip, first.vars, first.tags) == (
        "10.1.0.1/24",
        {"gateway": "10.1.0.254", "rack_unit": "7"},
        {"row": "a"},
    )
    assert (first.adopt, second.adopt, second.vars) == (False, True, {})
    assert "secret" not in repr(first)


def test_yaml_list_and_mapping() -> None:
    rows = "- {name: r1, bmc: 'sim://a', mac: 52:54:00:00:00:01, vars: {vlan: 12}}\n"
    (one,) = parse(rows, "yaml")
    assert (one.macs, one.vars) == (("52:54:00:00:00:01",), {"vlan": "12"})
    assert parse("servers:\n" + rows, "yaml") == [one]


def test_every_wrong_row_is_named_with_the_nearest_column() -> None:
    with pytest.raises(InvalidRows) as caught:
        parse("name,bmc,gatway\nr1,sim://a,10.0.0.1\nr2,,\n,sim://b,\n", "csv")
    rows = caught.value.as_dict()["rows"]
    assert [(row["row"], row["name"]) for row in rows] == [(1, "r1"), (2, "r2"), (3, "")]
    assert "'gateway'" in rows[0]["message"]
    assert "bmc is missing" in rows[1]["message"]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("", "csv"),
        ("name,bmc\n", "csv"),
        ("name,bmc\nr1,sim://a,one,two\n", "csv"),
        ('name,bmc\n"r1,sim://a\n', "csv"),
        ("{", "yaml"),
        ("42", "yaml"),
        ("[1, 2]", "yaml"),
        ("- {name: r1, bmc: x, macs: {a: b}}", "yaml"),
        ("- {name: r1, bmc: x, verify: perhaps}", "yaml"),
        ("- {name: [r1], bmc: x}", "yaml"),
        ("- !!python/object/apply:os.system ['true']", "yaml"),
    ],
)
def test_what_is_no_roster_is_refused(text: str, form: str) -> None:
    with pytest.raises(Invalid):
        parse(text, form)
