"""`baremetal media` by its words: data on stdout, talk on stderr, the contract's exit codes, no service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from baremetal.cli.app import main
from tests.unit.media import skeleton
from tests.unit.media.skeleton import lay_out, make_iso

ROCKY = skeleton.red_hat("Rocky Linux", "9.4")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAREMETAL_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.toml"
    file.write_text('[server]\ndata_dir = "data"\n')
    return file


@pytest.fixture
def rocky(tmp_path: Path) -> Path:
    return make_iso(ROCKY, tmp_path / "rocky.iso")


def test_from_an_image_to_a_list_and_away(
    settings: Path, rocky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["media", "add", "rocky9", str(rocky)]) == 0
    out = capsys.readouterr()
    assert "medium   Rocky Linux 9.4 x86_64" in out.out
    assert f"folder   {tmp_path / 'data/media/rocky9'}" in out.out
    assert out.err == ""
    assert (tmp_path / "data/media/rocky9/images/pxeboot/vmlinuz").read_bytes() == skeleton.KERNEL

    assert main(["media", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "Rocky Linux 9.4 x86_64  rocky9" in lines["rocky9"]
    assert " yes " in lines["rocky9"]
    assert lines["debian12"].split() == ["debian12", "-", "debian12", "no", "-", "-"]
    assert main(["media", "list", "-o", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["rocky9"]["record"]["source"] == "rocky.iso"

    assert main(["media", "remove", "rocky9"]) == 0
    out = capsys.readouterr()
    assert out.out == "rocky9: removed\n"
    assert "Cannot be deployed now: rocky9" in out.err
    assert not (tmp_path / "data/media/rocky9").exists()


def test_programs_get_json_on_stdout_only(
    settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = make_iso(skeleton.red_hat("EuroLinux", "9.4"), tmp_path / "e.iso")
    sha256 = skeleton.sha256(image.read_bytes())
    words = [
        "media",
        "add",
        "rocky9",
        str(image),
        "--sha256",
        sha256,
        "-o",
        "json",
        "--config",
        str(settings),
    ]
    assert main(words) == 0
    out = capsys.readouterr()
    added = json.loads(out.out)
    assert (added["name"], added["distro"], added["source_sha256"]) == ("rocky9", "eurolinux", sha256)
    assert len(added["warnings"]) == 1
    assert out.err.startswith("warning  EuroLinux is not known here")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["add", "rokcy9", "rocky.iso"], 3, "did you mean 'rocky9'"),
        (["add", "rocky9", "nothing.iso"], 2, "there is no"),
        (["add", "rocky9", "config.toml"], 2, "is no ISO image"),
        (["add", "debian12", "rocky.iso"], 2, "installs by preseed"),
        (["add", "tiny", "rocky.iso"], 7, 'set kernel = "images/pxeboot/vmlinuz"'),
        (["add", "rocky9", "rocky.iso", "--as", "slackware"], 2, "no distribution 'slackware'"),
        (["add", "rocky9", "rocky.iso", "--sha256", "0" * 64], 2, "not the image that was meant"),
        (["remove", "rocky9"], 3, "no media 'rocky9'"),
    ],
)
def test_mistakes_end_in_a_sentence_and_a_code(
    words: list[str], code: int, said: str, settings: Path, rocky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["media", *words]) == code
    out = capsys.readouterr()
    assert said in out.err
    assert out.out == ""


def test_what_was_put_there_by_hand_is_a_conflict(
    settings: Path, rocky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out({"vmlinuz": b"x"}, tmp_path / "data/media/rocky9")
    assert main(["media", "add", "rocky9", str(rocky)]) == 4
    assert "--replace" in capsys.readouterr().err
    assert main(["media", "list"]) == 0
    assert "put there by hand" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_stops_and_leaves_nothing(settings: Path, tmp_path: Path) -> None:
    """A real process, interrupted while it copies a folder whose files are holes: quick to make, slow to read."""
    tree = lay_out(ROCKY, tmp_path / "tree")
    with (tree / "a-hole").open("wb") as file:
        file.truncate(2 << 30)
    child = subprocess.Popen(
        [sys.executable, "-m", "baremetal", "media", "add", "rocky9", str(tree)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        # a test run in the background may have been told to ignore the key, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    root = tmp_path / "data/media"
    try:
        while not any(file.stat().st_size for file in root.glob(".new-*/a-hole")):
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.communicate()
    assert (child.returncode, out, err) == (130, "", "Stopped; nothing was changed.\n")
    assert {path.name for path in root.iterdir()} == {".lock"}
