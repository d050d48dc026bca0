"""`baremetal serve` as a process: its start, its end, its refusals, and being killed."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.conftest import prepare

# Starting a process takes two seconds, and a hundred on a host that does much else.
pytestmark = pytest.mark.timeout(500)

PROGRAM = "from baremetal.__main__ import main; raise SystemExit(main())"


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def command(settings: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "serve", "--config", str(settings)]


@contextmanager
def serving(settings: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    boot, control = free_ports()
    text = settings.read_text()
    for key, port in (("boot_listen", boot), ("control_listen", control)):
        text = "\n".join(
            f'{key} = "127.0.0.1:{port}"' if line.startswith(key) else line for line in text.splitlines()
        )
    settings.write_text(text + "\n")
    with (settings.parent / "out").open("ab") as out:
        process = subprocess.Popen(command(settings), stdout=out, stderr=out)
    try:
        url = f"http://127.0.0.1:{control}"
        until = time.monotonic() + 200
        while True:
            try:
                asked = http.client.HTTPConnection("127.0.0.1", control, timeout=200)
                asked.request("GET", "/healthz")
                assert asked.getresponse().status == 200
                asked.close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, (settings.parent / "out").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
        yield process, f"http://127.0.0.1:{boot}", url
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_it_ends_when_told_even_with_a_stream_open(tmp_path: Path) -> None:
    settings = prepare(tmp_path)
    with serving(settings) as (process, _, control):
        token_file = tmp_path / "data" / "control.token"
        assert token_file.stat().st_mode & 0o777 == 0o600
        headers = {"authorization": f"Bearer {token_file.read_text().strip()}"}
        with httpx2.Client(base_url=control, headers=headers, trust_env=False, timeout=100) as client:
            with client.stream("GET", "/v1/events/stream", timeout=100) as stream:
                lines = stream.iter_lines()
                assert next(lines) == "retry: 1000"
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                assert not any(line.startswith("data") for line in lines)
            assert process.wait(100) == 0
            assert time.monotonic() - began < 60
    said = (tmp_path / "out").read_text()
    assert "Traceback" not in said
    assert headers["authorization"].removeprefix("Bearer ") not in said


def test_killed_and_started_again_it_is_the_same_service(tmp_path: Path) -> None:
    settings = prepare(tmp_path)
    body = {
        "name": "r1",
        "bmc": "ipmi://admin@127.0.0.1:9",
        "bmc_password": "password",
        "macs": ["52:54:00:00:00:01"],
        "verify": False,
    }
    with serving(settings) as (process, boot, control):
        token = (tmp_path / "data" / "control.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx2.post(
            f"{control}/v1/servers", json=body, headers=headers, trust_env=False, timeout=100
        )
        assert answer.status_code == 201
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    with serving(settings) as (_, boot, control):
        answer = httpx2.get(f"{control}/v1/servers/r1", headers=headers, trust_env=False, timeout=100)
        assert answer.json()["provision_state"] == "enroll"
        script = httpx2.get(
            f"{boot}/ipxe", params={"mac": "52-54-00-00-00-01"}, trust_env=False, timeout=100
        ).text
        assert "nothing to install" in script


def refused(settings: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(settings), capture_output=True, text=True, timeout=200, check=False)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    settings = prepare(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings.write_text(settings.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}", 1))
        done = refused(settings)
    assert done.returncode != 0
    assert "BM303" in done.stderr
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_control_app_is_not_shown_to_the_world_by_accident(tmp_path: Path) -> None:
    settings = prepare(tmp_path)
    text = settings.read_text().replace('control_listen = "127.0.0.1:0"', 'control_listen = "0.0.0.0:0"')
    settings.write_text(text)
    done = refused(settings)
    assert done.returncode == 2
    assert "without TLS" in done.stderr


@pytest.mark.parametrize("text", ["[server]\nboot_lisen = 'x'\n", "[server\n"])
def test_wrong_settings_are_named(tmp_path: Path, text: str) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(text)
    done = refused(settings)
    assert done.returncode == 2
    assert "config.toml:1" in done.stderr or "config.toml:2" in done.stderr
