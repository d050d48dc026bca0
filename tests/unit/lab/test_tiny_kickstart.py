"""How the tiny installer reads a kickstart, by the same awk as in the guest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PARSER = Path(__file__).parents[3] / "baremetal/lab/tiny/system/kickstart.awk"


class Reader:
    def __init__(self, folder: Path, busybox: str) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.out.mkdir()
        self._awk = [busybox, "awk"]

    def run(self, job: str, text: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "ks.cfg").write_text(text)
        command = [*self._awk, "-v", f"job={job}", "-v", f"out={self.out}", "-f", str(PARSER), "ks.cfg"]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=10, check=False
        )

    def scripts(self) -> list[tuple[str, str, str]]:
        """Kind, options and body of each script, in order."""
        found = []
        for line in (self.out / "scripts").read_text().splitlines():
            kind, path, options = line.split(" ", 2)
            found.append((kind, options, Path(path).read_text()))
        return found

    def commands(self) -> list[list[str]]:
        return [line.split("\x1f") for line in (self.out / "commands").read_text().splitlines()]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    return Reader(tmp_path, busybox)


WHOLE = """\
# a comment
text
%include /tmp/not-yet.ks
reboot
%pre --erroronfail --log=/tmp/pre.log
echo "%not a section"
# kept
%end
%packages
@core
%end
%post --nochroot
one
%end
%pre
two
%end
%onerror
three
%end
"""


def test_pre_stage_takes_only_what_runs_before_anything_is_looked_at(reader: Reader) -> None:
    assert reader.run("pre", WHOLE).returncode == 0
    assert reader.scripts() == [
        ("pre", "--erroronfail --log=/tmp/pre.log", 'echo "%not a section"\n# kept\n'),
        ("pre", "", "two\n"),
        ("onerror", "", "three\n"),
    ]
    assert not (reader.out / "commands").exists()


def test_the_rest_takes_commands_and_the_other_scripts(reader: Reader) -> None:
    assert reader.run("all", WHOLE.replace("%include /tmp/not-yet.ks\n", "")).returncode == 0
    assert [kind for kind, _, _ in reader.scripts()] == ["post", "onerror"]
    assert reader.commands() == [["2", "text"], ["3", "reboot"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            'sshkey --username=root "ssh-ed25519 AAAA me"',
            ["sshkey", "--username=root", "ssh-ed25519 AAAA me"],
        ),
        ("network --hostname='a b' # why", ["network", "--hostname=a b"]),
        ('bootloader --append="a=\\"b\\" $HOME `id`"', ["bootloader", '--append=a="b" $HOME `id`']),
        ("lang ''", ["lang", ""]),
        ("a#b c\\ d", ["a#b", "c d"]),
        ("\tclearpart  --all\t--drives=vda \r", ["clearpart", "--all", "--drives=vda"]),
    ],
)
def test_words_are_split_as_a_shell_would_and_nothing_is_expanded(
    reader: Reader, line: str, words: list[str]
) -> None:
    assert reader.run("all", f"{line}\n").returncode == 0
    assert reader.commands() == [["1", *words]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("%pre\necho\n", "ks.cfg:2: %pre has no %end"),
        ("%wrong\n%end\n", "ks.cfg:1: unknown section: %wrong"),
        ('text\nlang "C\n', "ks.cfg:2: no closing quotation"),
        ("%end\n", "ks.cfg:1: unknown section: %end"),
    ],
)
def test_faults_name_the_line(reader: Reader, text: str, complaint: str) -> None:
    done = reader.run("all", text)
    assert (done.returncode, done.stderr.strip()) == (1, complaint)


def test_includes_files_but_not_inside_scripts(reader: Reader) -> None:
    (reader.folder / "disk.ks").write_text("clearpart --all\n%include more.ks\n")
    (reader.folder / "more.ks").write_text("autopart\n")
    done = reader.run("include", "text\n%include disk.ks \n%post\n%include disk.ks\n%end\n")
    assert done.stdout == "text\nclearpart --all\nautopart\n%post\n%include disk.ks\n%end\n"


def test_an_include_that_is_not_there_is_a_fault(reader: Reader) -> None:
    done = reader.run("include", "%include nothing.ks\n")
    assert (done.returncode, done.stderr.strip()) == (1, "ks.cfg:1: cannot %include nothing.ks")


def test_an_include_of_itself_is_a_fault(reader: Reader) -> None:
    (reader.folder / "self.ks").write_text("%include self.ks\n")
    done = reader.run("include", "%include self.ks\n")
    assert done.returncode == 1
    assert "in circles" in done.stderr
