"""Our TFTP server against the clients that people use: tftp-hpa, atftp, curl and busybox, unmodified."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetal.netboot.tftp import Content, FileContent, Limits, Outcome, Request
from tests.unit.netboot.tftp_rig import Rig

KERNEL = random.Random(2).randbytes(2_000_003)
SCRIPT = b"#!ipxe\necho from a database\nexit\n"

CLIENTS = {
    "tftp-hpa": ("tftp", "-m", "octet", "{host}", "{port}", "-c", "get", "{name}", "{to}"),
    "tftp-hpa, netascii": ("tftp", "-m", "ascii", "{host}", "{port}", "-c", "get", "{name}", "{to}"),
    "atftp": ("atftp", "--get", "-r", "{name}", "-l", "{to}", "{host}", "{port}"),
    "atftp, all options": (
        *("atftp", "--option", "blksize 1428", "--option", "windowsize 8", "--option", "tsize 0"),
        *("--option", "timeout 2", "--get", "-r", "{name}", "-l", "{to}", "{host}", "{port}"),
    ),
    "curl": ("curl", "-sS", "--noproxy", "*", "-o", "{to}", "tftp://{url}/{name}"),
    "curl, blksize 1468": (
        *("curl", "-sS", "--noproxy", "*", "--tftp-blksize", "1468", "-o", "{to}", "tftp://{url}/{name}"),
    ),
    "curl, no options": (
        *("curl", "-sS", "--noproxy", "*", "--tftp-no-options", "-o", "{to}", "tftp://{url}/{name}"),
    ),
    "busybox": ("busybox", "tftp", "-g", "-r", "{name}", "-l", "{to}", "{host}", "{port}"),
    "busybox, blksize 1468": (
        *("busybox", "tftp", "-b", "1468", "-g", "-r", "{name}", "-l", "{to}", "{host}", "{port}"),
    ),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> tuple[str, ...]:
    words = CLIENTS[request.param]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    if (
        words[0] == "busybox"
        and subprocess.run(["busybox", "tftp", "--help"], capture_output=True).returncode
    ):
        pytest.skip("this busybox has no tftp")
    return words


@pytest.fixture(params=["127.0.0.1", "::1"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "vmlinuz").write_bytes(KERNEL)

    def resolve(asked: Request) -> Content | None:
        known: dict[str, Content] = {
            "media/vmlinuz": FileContent(tmp_path / "vmlinuz"),
            "boot.ipxe": SCRIPT,
        }
        return known.get(asked.name)

    with Rig(resolve, host=request.param, limits=Limits()) as rig:
        yield rig


def get(client: tuple[str, ...], rig: Rig, name: str, to: Path) -> subprocess.CompletedProcess[str]:
    host, port = rig.address
    url = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    command = [word.format(host=host, port=port, url=url, name=name, to=to) for word in client]
    return subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)


def test_clients_fetch_a_kernel_and_a_computed_script(
    client: tuple[str, ...], rig: Rig, tmp_path: Path
) -> None:
    is_text = "ascii" in client  # it takes CR out of what it gets, so bytes would not survive
    for name, content in (("boot.ipxe", SCRIPT), *((("media/vmlinuz", KERNEL),) if not is_text else ())):
        done = get(client, rig, name, tmp_path / "got")
        assert done.returncode == 0, done
        assert (tmp_path / "got").read_bytes() == content
    for seen in rig.reports(1 if is_text else 2):
        assert seen.outcome is Outcome.SERVED
        assert seen.client == rig.address[0]
        assert seen.retransmits == 0


def test_clients_are_told_that_a_file_is_not_there(client: tuple[str, ...], rig: Rig, tmp_path: Path) -> None:
    done = get(client, rig, "missing", tmp_path / "got")
    assert done.returncode != 0 or "not found" in (done.stdout + done.stderr).lower()
    assert rig.reports()[0].outcome is Outcome.NOT_FOUND


def test_clients_may_not_write(rig: Rig, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "mine").write_bytes(b"x" * 100)
    host, port = rig.address
    url = f"tftp://[{host}]:{port}/boot.ipxe" if ":" in host else f"tftp://{host}:{port}/boot.ipxe"
    command = ["curl", "-sS", "--noproxy", "*", "-T", str(tmp_path / "mine"), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 69, "curl: TFTP permission problem"
    assert rig.reports()[0].outcome is Outcome.REFUSED
