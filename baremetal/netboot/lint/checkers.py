"""The installers' own checkers, run as programs: pykickstart, debconf, the shell, and others where they are installed.

Owns finding and running them and reading their complaints. pykickstart is GPL, so it is only ever a subprocess. A
checker that is not installed is a finding of its own, never a silent pass. Deliberately unknown: our own rules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from baremetal.netboot.lint.finding import Finding, Severity

_DEADLINE_S = 60.0
_KS_LINE = re.compile(r"(?:on line (\d+) of|line (\d+))")
_BODY = re.compile(r"^(%(?:pre|pre-install|post|onerror|traceback)\b[^\n]*\n)(.*?)(?=^%end)", re.S | re.M)
_DEBCONF = re.compile(
    r"(error|warning): (.*?)(?:,? ?(?:parse|parsing|skipping)? ?line (\d+))?(?::.*)?$", re.I
)
_SAID_LINE = re.compile(r"(?:\bline (\d+)|the file:(\d+))")
_SH = re.compile(r"(?:^|: )(?:line )?(\d+): (.*)")


def check_kickstart(text: str, file: str, release: int) -> Iterator[Finding]:
    """Run ksvalidator for the syntax of a release of RHEL, or of Fedora."""
    program = find_program("ksvalidator")
    if program is None:
        yield _unchecked(file, "pykickstart", "pip install 'baremetal-orchestrator[validate]'")
        return
    status, said = _validated(program, _syntax(release), _without_scripts(text))
    complaints = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not line.startswith("Checking kickstart")
    ]
    if not complaints and status != 0:
        complaints = [f"ksvalidator ended with status {status}"]
    if status != 0:
        found = _KS_LINE.search(said)
        number = int(found[1] or found[2]) if found else None
        yield Finding(Severity.ERROR, _short(" ".join(complaints)), file, number, rendered=True)
        return
    for line in dict.fromkeys(complaints):
        yield Finding(Severity.WARNING, _short(line), file, rendered=True)


@lru_cache(maxsize=64)
def _validated(program: str, syntax: str, text: str) -> tuple[int, str]:
    return _run([program, "-v", syntax], text)


def _syntax(release: int) -> str:
    """Name a release as pykickstart does. RHEL is at 10 and Fedora at 40 and more; they will not meet soon."""
    return f"RHEL{release}" if release < 20 else f"F{release}"


def _without_scripts(text: str) -> str:
    """Blank the scripts, which ksvalidator does not read, so that files that differ only there are checked once."""
    return _BODY.sub(lambda found: found[1] + "\n" * found[2].count("\n"), text)


def check_preseed(text: str, file: str) -> Iterator[Finding]:
    """Run debconf-set-selections --checkonly."""
    program = find_program("debconf-set-selections")
    if program is None:
        yield _unchecked(file, "debconf", "apt-get install debconf")
        return
    status, said = _run([program, "--checkonly"], text)
    for line in said.splitlines():
        found = _DEBCONF.match(line.strip())
        if found:
            number = int(found[3]) if found[3] else None
            yield Finding(Severity.ERROR, _short(line.strip()), file, number, rendered=True)
    if status != 0 and not said.strip():
        yield Finding(
            Severity.ERROR, f"debconf-set-selections ended with status {status}", file, rendered=True
        )


def check_autoinstall(text: str, file: str) -> Iterator[Finding]:
    """Run the installer's own validator (a script in its source tree), where somebody has put it on the PATH."""
    program = find_program("validate-autoinstall-user-data")
    if program is None:
        yield _unchecked(file, "subiquity's validator", "put its validate-autoinstall-user-data on the PATH")
        return
    yield from _complaints(_run([program], text), file, "validate-autoinstall-user-data")


def check_ignition(text: str, file: str) -> Iterator[Finding]:
    """Run ignition-validate."""
    program = find_program("ignition-validate")
    if program is None:
        yield _unchecked(
            file, "ignition-validate", "it is a release asset of Ignition, and in its container image"
        )
        return
    yield from _complaints(_run([program], text), file, "ignition-validate")


def check_xml(text: str, file: str) -> Iterator[Finding]:
    """Let xmllint read a file, where it is installed; our rules have read it already, by another parser."""
    program = find_program("xmllint")
    if program is not None:
        yield from _complaints(_run([program, "--noout", "--nonet"], text), file, "xmllint")


def check_grub_script(text: str, file: str) -> Iterator[Finding]:
    """Let GRUB's own parser read a script, where it is installed."""
    program = find_program("grub-script-check")
    if program is not None:
        yield from _complaints(_run([program], text), file, "grub-script-check")


def _complaints(done: tuple[int, str], file: str, program: str) -> Iterator[Finding]:
    status, said = done
    if status != 0:
        found = _SAID_LINE.search(said)
        number = int(next(filter(None, found.groups()))) if found else None
        yield Finding(
            Severity.ERROR,
            _short(said) or f"{program} ended with status {status}",
            file,
            number,
            rendered=True,
        )


def check_shell(text: str, file: str, first_line: int = 1) -> Iterator[Finding]:
    """Let the shell parse a script without running it; `first_line` is where it begins in its file."""
    program = find_program("dash") or find_program("sh")
    if program is None:
        yield _unchecked(file, "a POSIX shell", "apt-get install dash")
        return
    status, said = _run([program, "-n"], text)
    if status != 0:
        found = _SH.search(said)
        number = int(found[1]) + first_line - 1 if found else None
        yield Finding(Severity.ERROR, _short(found[2] if found else said), file, number, rendered=True)


def find_program(name: str) -> str | None:
    """Find a checker. Look beside our own interpreter first: a virtual environment need not be on PATH."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return str(beside)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")


def _run(command: list[str], text: str) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="baremetal-lint-") as folder:
        path = Path(folder) / "input"
        path.write_text(text, "utf-8")
        try:
            done = subprocess.run(
                [*command, str(path)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_DEADLINE_S,
                check=False,
                cwd=folder,
                # ksvalidator leaves a copy of what it reads among the temporary files.
                env=os.environ | {"TMPDIR": folder},
            )
        except subprocess.TimeoutExpired:
            return 1, f"{Path(command[0]).name} did not end within {_DEADLINE_S:.0f} s"
        said = (done.stdout + "\n" + done.stderr).replace(str(path), "the file")
        return done.returncode, said


def _unchecked(file: str, what: str, fix: str) -> Finding:
    return Finding(Severity.UNCHECKED, f"cannot check: {what} is not installed ({fix})", file, rendered=True)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"
