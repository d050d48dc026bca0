"""Where commands keep what can be made again: packages, and what was built of them."""

from __future__ import annotations

import os
from pathlib import Path


def folder_for(what: str) -> Path:
    """Return the folder for one kind of thing, by the XDG Base Directory Specification; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "baremetal" / what
