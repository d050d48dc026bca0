"""Secrets that have no business in a template or in what is made from it.

Owns the patterns: private keys, BMC passwords, a password beside its own hash, hashes. Deliberately unknown: the
languages they stand in; every line is looked at alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from baremetal.netboot.lint.finding import Finding, Severity

HASH = re.compile(r"\$(1|2[aby]|5|6|y|7|gy)\$[./A-Za-z0-9$,=]{8,}")
_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAGE-SECRET-KEY-1")
_BMC = re.compile(
    r"\b(?:ipmi|redfish|redfish\+https|ipmi\+lanplus)://[^\s/@:]+:[^\s/@]+@"
    r"|\bipmi(?:tool|power)\b.*\s(?:-P|-p|--password)[ =]?(?!\d+\b)\S+"
    r"|\bcurl\b.*\s(?:-u|--user)[ =]?\S+:\S+.*\bredfish\b"
)
# "# root / s3cret", "password: s3cret", "pw = s3cret", on the line of a hash or just above it.
_SAID = re.compile(
    r"(?i)(?:\bpass(?:word|wd|phrase)?\b|\bpw\b)\s*(?:is|[:=])\s*['\"]?(?P<word>[^\s'\"<>{}]{4,})"
)


def leak_rules(text: str, file: str, *, rendered: bool = True) -> Iterator[Finding]:
    """Look for secrets in a text. What is found is never repeated in the finding."""
    lines = text.splitlines()

    def error(number: int, message: str) -> Finding:
        return Finding(Severity.ERROR, message, file, number, rendered=rendered)

    for number, line in enumerate(lines, 1):
        if _PRIVATE.search(line):
            yield error(number, "a private key: whoever fetches this file has it")
        if _BMC.search(line):
            yield error(number, "a BMC's password: it belongs into the server's record, where it is sealed")
        if not HASH.search(line):
            continue
        near = (lines[number - 2] if number > 1 else "", HASH.sub("", line))
        if any(_plain(words) for words in near):
            yield error(number, "a password hash with its plain text beside it")
        else:
            message = "a password hash, readable by whoever fetches this file: SSH keys need none"
            yield Finding(Severity.WARNING, message, file, number, rendered=rendered)


def _plain(line: str) -> bool:
    found = _SAID.search(line)
    return found is not None and not HASH.search(found["word"]) and not found["word"].startswith("$")
