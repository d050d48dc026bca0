"""Seals what must not stand readable in the database, and keeps the key files.

Owns the form of the sealing key file (one Fernet key per line, the newest first, mode 0600) and its rotation. Knows
nothing of what is sealed. Losing the file means entering the BMC passwords again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from baremetal.errors import Unavailable


class Secrets:
    """Seals with the first key, opens with any."""

    def __init__(self, keys: tuple[bytes, ...], path: Path | None = None) -> None:
        self._path = path
        self._use(keys)

    @classmethod
    def load(cls, path: Path) -> Secrets:
        """Read the key file, made with a fresh key at the first start. Raises Unavailable."""
        return cls(_keys(read_or_make(path, lambda: Fernet.generate_key() + b"\n"), path), path)

    @classmethod
    def ephemeral(cls) -> Secrets:
        """Return a key that dies with the process: for tests and the simulation."""
        return cls((Fernet.generate_key(),))

    def seal(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Raises Unavailable where no key of ours sealed this."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise Unavailable(
                "a stored secret was sealed with a key that is not in the key file",
                fix="put the old secret.key back, or set the BMC passwords anew",
            ) from error

    def reseal(self, sealed: str) -> str:
        """Return the same secret, sealed with the newest key."""
        return self.seal(self.open(sealed))

    def add_key(self) -> None:
        """Put a fresh key first. The older ones still open; `drop_old_keys` after everything was sealed anew."""
        self._save((Fernet.generate_key(), *self._keys))

    def drop_old_keys(self) -> None:
        """Forget every key but the newest."""
        self._save(self._keys[:1])

    def _save(self, keys: tuple[bytes, ...]) -> None:
        if self._path is not None:
            write_private(self._path, b"".join(key + b"\n" for key in keys))
        self._use(keys)

    def _use(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def __repr__(self) -> str:
        return f"Secrets({len(self._keys)} keys)"


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of a private file, written (0600, in a 0700 folder) at the first call.

    Raises Unavailable where it cannot be read or made, or where others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise Unavailable(
                    f"{path} may be read by others (mode {mode:04o})", fix=f"run chmod 600 {path}"
                )
            return file.read()
    except FileNotFoundError:
        content = make()
        write_private(path, content)
        return content
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; after a crash there is the old content or the new, never half."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error


def _keys(content: bytes, path: Path) -> tuple[bytes, ...]:
    keys = tuple(line.strip() for line in content.splitlines() if line.strip())
    try:
        for key in keys:
            Fernet(key)
    except ValueError as error:
        raise Unavailable(
            f"{path} holds something that is no sealing key", fix="put the right file back"
        ) from error
    if not keys:
        raise Unavailable(f"{path} holds no sealing key", fix="put the right file back")
    return keys
