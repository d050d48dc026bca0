from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator

import pytest
import structlog

from baremetal import telemetry
from baremetal.telemetry import redact, redact_text


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    stream = io.StringIO()
    yield stream
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ipmi://admin:hunter2@10.0.0.1:623", "ipmi://admin:***@10.0.0.1:623"),
        ("ipmi://admin:p@ss/w:rd@10.0.0.1?cipher=3", "ipmi://admin:***@10.0.0.1?cipher=3"),
        ("redfish+https://root:calvin@bmc/redfish", "redfish+https://root:***@bmc/redfish"),
        ("postgresql://bm:pw@db/bm", "postgresql://bm:***@db/bm"),
        ("GET /answer/abc-DEF_1/ks.cfg 200", "GET /answer/***/ks.cfg 200"),
        (
            "http://10.0.2.2:8080/callback/abc123/install-complete?a=b",
            "http://10.0.2.2:8080/callback/***/install-complete?a=b",
        ),
        ("PUT /callback/xyz/log/anaconda.log", "PUT /callback/***/log/anaconda.log"),
        ("Authorization: Bearer eyJhbGci.abc", "Authorization: Bearer ***"),
        ("-H 10.0.0.1 -U admin password=hunter2 -I lanplus", "-H 10.0.0.1 -U admin password=*** -I lanplus"),
        ('{"bmc_password": "hunter2", "n": 1}', '{"bmc_password": ***, "n": 1}'),
        ("tool --password hunter2 go", "tool --password *** go"),
        (
            "PA\u017f\u017fWORD=hunter2",
            "PA\u017f\u017fWORD=***",
        ),  # the long s, which is an s where case does not count
        ("TO\u212aEN: no, to\u212aen=abc", "TO\u212aEN: no, to\u212aen=***"),  # the Kelvin sign a k
        ("ap\u0131_key=abc", "ap\u0131_key=***"),
        ("AP\u0130-KEY=abc", "AP\u0130-KEY=***"),
        ("rootpw --iscrypted $6$salt$Abc/.9", "rootpw --iscrypted ***"),
    ],
)
def test_masks_what_has_the_shape_of_a_secret(text: str, masked: str) -> None:
    assert redact_text(text) == masked


@pytest.mark.parametrize(
    "part",
    [
        "a.",
        "a-",
        "ipmi://:",
        "a://b:",
        "://",
        " -password ",
        "-----BEGIN ",
        "password",
        "token ",
        "secret='",
        "$1$",
        "bearer ",
    ],
)
def test_no_text_of_a_machine_takes_long(part: str) -> None:
    began = time.process_time()
    redact_text(part * (65536 // len(part)))
    assert time.process_time() - began < 5, "the work must not grow with the square of the length"


@pytest.mark.parametrize(
    "text",
    [
        "http://10.0.2.2:8080/media/tiny/vmlinuz",
        "wrong password for 10.0.0.1; ask its owner",
        "ipmi://admin@10.0.0.1:623",
        "the token was minted",
        "disk /dev/vda, serial=QM0001, 12:00:01",
        "bm-1: active (seen: ssh bm-1:22 at 10.0.0.9)",
    ],
)
def test_leaves_ordinary_text_alone(text: str) -> None:
    assert redact_text(text) == text


def test_masks_a_private_key_even_when_it_was_cut_off() -> None:
    head = "-----BEGIN OPENSSH PRIVATE KEY-----"
    assert redact_text(f"key {head}\nb3BlbnNz\naC1rZXk\n") == f"key {head}***"
    whole = f"{head}\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----\nafter"
    assert redact_text(whole) == f"{head}***-----END OPENSSH PRIVATE KEY-----\nafter"


def test_masks_by_key_at_any_depth_but_keeps_numbers_and_flags() -> None:
    value = {
        "bmc": {"user": "admin", "password": "hunter2"},
        "headers": [{"Authorization": "Basic abc"}],
        "token_count": 3,
        "password_set": True,
        "private_key": b"raw",
        "secret": None,
    }
    assert redact(value) == {
        "bmc": {"user": "admin", "password": "***"},
        "headers": [{"Authorization": "***"}],
        "token_count": 3,
        "password_set": True,
        "private_key": "***",
        "secret": None,
    }


def test_goes_no_deeper_than_it_must() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "…" in str(redact(loop))


def test_json_lines_are_redacted_whoever_writes_them(out: io.StringIO) -> None:
    telemetry.configure(form="json", stream=out)
    telemetry.logger("baremetal.engine").info(
        "conversation opened", url="ipmi://a:hunter2@h", password="hunter2"
    )
    logging.getLogger("some.library").warning("login %s", "ipmi://a:hunter2@h")
    try:
        raise RuntimeError("ipmi://a:hunter2@h said no")
    except RuntimeError:
        telemetry.logger("baremetal.engine").exception("conversation failed", bmc="h")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "conversation opened",
        "login ipmi://a:***@h",
        "conversation failed",
    ]
    assert lines[0]["url"] == "ipmi://a:***@h"
    assert lines[0]["level"] == "info"
    assert lines[0]["logger"] == "baremetal.engine"
    assert lines[0]["timestamp"].endswith("Z")
    assert "RuntimeError: ipmi://a:***@h said no" in lines[2]["exception"]
    assert "hunter2" not in out.getvalue()


def test_console_lines_have_no_colour_in_a_pipe_and_configuring_again_does_not_double_them(
    out: io.StringIO,
) -> None:
    telemetry.configure(form="console", stream=io.StringIO())
    telemetry.configure(form="console", stream=out)
    telemetry.logger("baremetal.engine").info("turn ended", server="bm-1")
    telemetry.logger("baremetal.engine").debug("unseen")
    text = out.getvalue()
    assert text.count("turn ended") == 1
    assert "server=bm-1" in text
    assert "\x1b" not in text
    assert "unseen" not in text


def test_access_lines_of_the_web_server_stay_out(out: io.StringIO) -> None:
    telemetry.configure(form="console", stream=out)
    logging.getLogger("uvicorn.access").info("GET /answer/abc/ks.cfg")
    assert out.getvalue() == ""


def test_metrics_have_a_text_form() -> None:
    telemetry.CALLBACKS.labels("install-complete", "200").inc()
    text = telemetry.exposition().decode()
    assert 'baremetal_callbacks_total{signal="install-complete",status="200"}' in text
    assert "process_open_fds" in text
