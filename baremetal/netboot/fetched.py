"""Which files a rendered text sends a machine to: what stands in it below one URL.

Deliberately unknown: what is there.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_PATH = r"((?:[A-Za-z0-9_.~+/-]|%[0-9A-Fa-f]{2})*)"


def fetched(text: str, below: str) -> set[str]:
    """Return the paths that `text` names below a URL, without slashes around them; folders too.

    What goes on with a variable of the installer's own (`…/dists/$release`) counts up to the folder before it.
    """
    found = set()
    for match in re.finditer(re.escape(below.rstrip("/") + "/") + _PATH, text):
        path = match[1]
        if text[match.end() : match.end() + 1] in ("$", "{", "*"):
            path = path.rpartition("/")[0]
        found.add(unquote(path).strip("/").rstrip("."))
    return found - {""}
