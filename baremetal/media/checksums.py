"""The checksums that a medium carries of its own files.

Owns their forms: .treeinfo, SHA256SUMS and its relatives, md5sum.txt, SUSE's CHECKSUMS and `content`. They find damage,
not malice: who changes a file can change its checksum too; `--sha256` of the whole image is for that.
"""

from __future__ import annotations

import configparser
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from baremetal.media.tree import CHUNK, refuse, shown

_LENGTHS = {"sha512": 128, "sha384": 96, "sha256": 64, "sha224": 56, "sha1": 40, "md5": 32}
_HEX = re.compile(r"[0-9a-f]+\Z")
_LINE = re.compile(r"(?P<hex>[0-9a-fA-F]{32,128})[ \t]+[ *]?(?P<path>\S.*?)\s*\Z")
_SUSE = re.compile(
    r"(?:HASH )?(?P<kind>SHA\d+)[ \t]+(?P<hex>[0-9a-f]{32,128})[ \t]+(?P<path>\S+)\s*\Z", re.IGNORECASE
)
# The stronger ones last: they overwrite.
_LISTS = ("md5sum.txt", "content", "checksums", "sha256sum.txt", "sha256sums")


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file must hash to, and which file says so."""

    kind: str
    hex: str
    said_by: str


def expected(texts: Mapping[str, str]) -> dict[str, Digest]:
    """Collect the checksums by path. Lines that cannot be read are passed over."""
    low = {path.lower(): (path, text) for path, text in texts.items()}
    found: dict[str, Digest] = {}
    for name in _LISTS:
        if name in low:
            found |= _lines(*low[name])
    for name in ("treeinfo", ".treeinfo"):
        if name in low:
            found |= _treeinfo(*low[name])
    return found


def _lines(said_by: str, text: str) -> dict[str, Digest]:
    found: dict[str, Digest] = {}
    for line in text.split("\n"):
        match = _SUSE.match(line) or _LINE.match(line)
        if match is None:
            continue
        path = match["path"].removeprefix("./").lstrip("/")
        digest = _digest(match.groupdict().get("kind") or "", match["hex"], said_by)
        if digest is not None:
            found[path] = digest
    return found


def _treeinfo(said_by: str, text: str) -> dict[str, Digest]:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # paths have capitals
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    if not parser.has_section("checksums"):
        return {}
    found: dict[str, Digest] = {}
    for path, value in parser.items("checksums"):
        kind, _, text = (value or "").partition(":")
        digest = _digest(kind.strip(), text.strip(), said_by)
        if digest is not None:
            found[path] = digest
    return found


def _digest(kind: str, text: str, said_by: str) -> Digest | None:
    text = text.lower()
    kind = kind.lower() or next((name for name, length in _LENGTHS.items() if length == len(text)), "")
    if _LENGTHS.get(kind) != len(text) or not _HEX.match(text):
        return None
    return Digest(kind, text, said_by)


def hash_file(path: Path, *kinds: str) -> dict[str, str]:
    """Hash a file in one pass; by kind."""
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            for each in hashes.values():
                each.update(data)
    return {kind: each.hexdigest() for kind, each in hashes.items()}


def check(root: Path, path: str, digest: Digest | None) -> str:
    """Return the SHA-256 of an unpacked file. Raises Invalid BM205 where its medium says something else."""
    kinds = {"sha256"} | ({digest.kind} if digest else set())
    try:
        made = hash_file(root / path, *kinds)
    except OSError as error:
        raise refuse(
            f"{shown(path)} cannot be read: {error.strerror}", seen="a link that leads nowhere?"
        ) from error
    if digest is not None and made[digest.kind] != digest.hex:
        raise refuse(
            f"{shown(path)} is damaged: it is not what {digest.said_by} says",
            seen=f"{digest.kind} {made[digest.kind]}, not {digest.hex}",
            fix="download or copy the medium again",
        )
    return made["sha256"]
