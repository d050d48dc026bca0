"""What machines say, read with suspicion; and telling one machine from another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.lifecycle.model import Signal
from baremetal.service.boot.news import News, mismatch, read_json, read_news, swapped_uuid
from baremetal.store.records import Facts

pytestmark = pytest.mark.slow

FACTS = Facts(
    "sim://a",
    "sim://a",
    ("52:54:00:00:00:01", "52:54:00:00:00:02"),
    uuid="564d4ac8-1f3b-4d2f-9c59-3a5f8f7b2f10",
    serial="SN-1",
)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1hZGVVcEtleUZvclRlc3RzT25seTAwMDAwMDAwMDA root@r1"


def test_lists_come_as_json_as_text_and_as_lines() -> None:
    want = ("52:54:00:00:00:01", "52:54:00:00:00:02")
    for macs in (
        list(want),
        '["52:54:00:00:00:01","52-54-00-00-00-02"]',
        "52:54:00:00:00:01,52:54:00:00:00:02",
    ):
        assert read_news({"macs": macs}).macs == want
    assert read_news({"ssh_host_keys": f"{KEY}\n{KEY}\n"}).ssh_host_keys == (KEY, KEY)
    old = f"ssh-dss {'A' * 400}=="
    assert read_news({"ssh_host_keys": [old, KEY]}).ssh_host_keys == (old, KEY), "as cloud-init makes them"


def test_interfaces_without_a_mac_of_their_own_are_passed_over() -> None:
    assert read_news({"macs": ["00:00:00:00:00:00", "52:54:00:00:00:01"]}).macs == ("52:54:00:00:00:01",)
    assert read_news({"addresses": ["127.0.0.1", "fe80::1", "10.0.0.5/24", "?"]}).addresses == ("10.0.0.5",)


def test_what_people_read_is_one_plain_line_without_secrets() -> None:
    news = read_news({"message": "a\n\x1b[31mb\u2028c password=hunter2", "percent": "41.6"})
    assert "\n" not in news.text
    assert "\x1b" not in news.text
    assert "hunter2" not in news.text
    assert news.text.startswith("41 %")
    assert len(read_news({"message": "x" * 9000}).message) == 500


@pytest.mark.parametrize(
    "fields",
    [
        {"boot_id": "a b"},
        {"boot_id": "x" * 65},
        {"disk": "vda;reboot"},
        {"disks": [{"name": ""}]},
        {"disks": [{"name": "vda", "size": -1}]},
        {"disks": ["vda"]},
        {"disks": '{"name": "vda"}'},
        {"macs": {"a": 1}},
        {"macs": ["x"] * 300},
        {"percent": "most"},
        {"message": ["a"]},
        {"ssh_host_keys": ['command="x" ssh-rsa AAAA']},
        {"macs": "[" * 40},
    ],
)
def test_malformed_fields_are_errors(fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        read_news(fields)


@given(
    st.dictionaries(
        st.sampled_from(
            ["boot_id", "macs", "uuid", "serial", "disks", "disk", "percent", "message", "log", "addresses"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
            max_leaves=8,
        ),
    )
)
@settings(max_examples=300, deadline=None)
def test_no_field_breaks_the_reader(fields: dict[str, Any]) -> None:
    try:
        news = read_news(fields)
    except Invalid:
        return
    assert "\n" not in news.message
    news.facts(Signal.INSTALL_STARTED)


def test_depth_is_bounded() -> None:
    assert read_json("[" * 10 + "]" * 10)
    for depth in (20, 100_000):
        with pytest.raises(Invalid):
            read_json("[" * depth + "]" * depth)


def test_facts_never_overwrite_with_nothing_and_first_boot_changes_no_host_key() -> None:
    assert News().facts(Signal.INSTALL_STARTED) == {}
    news = News(boot_id="b", disk="vda", ssh_host_keys=(KEY,), addresses=("10.0.0.5",))
    assert news.facts(Signal.FIRST_BOOT) == {"addresses": ("10.0.0.5",)}
    assert news.facts(Signal.INSTALL_COMPLETE) == {"ssh_host_keys": (KEY,), "addresses": ("10.0.0.5",)}
    assert news.facts(Signal.PROGRESS) == {}


@pytest.mark.parametrize(
    ("news", "same"),
    [
        (News(), True),
        (News(macs=("52:54:00:00:00:02", "52:54:00:00:00:99")), True),
        (News(macs=("52:54:00:00:00:99",)), False),
        (News(uuid=FACTS.uuid), True),
        (News(uuid=swapped_uuid(FACTS.uuid)), True),
        (News(uuid="00000000-1f3b-4d2f-9c59-3a5f8f7b2f10"), False),
        (News(serial="SN-1"), True),
        (News(serial="SN-2"), False),
    ],
)
def test_another_machine_is_told_apart(news: News, same: bool) -> None:
    assert (mismatch(FACTS, news) is None) is same
