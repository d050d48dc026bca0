"""How an error looks on a terminal, and which exit code it gives."""

from __future__ import annotations

from baremetal import errors
from baremetal.cli.paint import Paint, say
from baremetal.errors import BaremetalError

# What a deploy would have run into is found beforehand and has a code of its own.
_PREFLIGHT = {"BM202", "BM203", "BM204", "BM307", "BM810"}

_CODES: tuple[tuple[type[BaremetalError], int], ...] = (
    (errors.NotAuthorised, 9),
    (errors.Unavailable, 8),
    (errors.TimedOut, 6),
    (errors.BmcError, 5),
    (errors.StorageError, 5),
    (errors.Refused, 4),  # and Conflict
    (errors.Superseded, 4),
    (errors.Unknown, 3),
    (errors.MediaMissing, 7),
    (errors.Invalid, 2),
)


def exit_code(error: BaremetalError) -> int:
    """Return the exit code of the contract for an error."""
    if error.code in _PREFLIGHT:
        return 7
    if error.code == "BM601":
        return 8
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def tell(error: BaremetalError, word: str = "error") -> None:
    """Print an error (or a `warning`) on stderr: what happened, what was seen, what to do."""
    paint = Paint.stderr()
    body = error.as_dict()
    place = ""
    if body.get("file"):
        place = f"{body['file']}:{body['line']}: " if body.get("line") else f"{body['file']}: "
    if isinstance(error, errors.Invalid):
        place += error.about
    who = f"{error.server}: " if error.server and not error.what.startswith(error.server) else ""
    head = paint(word, "red" if word == "error" else "yellow", "bold")
    say(f"{head} {paint(error.code, 'bold')}  {place}{who}{error.what}")
    rows = getattr(error, "rows", ())
    if error.seen and not rows:
        say(f"  {paint('seen', 'dim')}  {error.seen}")
    for row in rows:
        name = f" ({row['name']})" if row.get("name") else ""
        say(f"  {paint('row', 'dim')} {row.get('row')}{name}  {row.get('message') or row.get('what')}")
    if body.get("nearest"):
        say(f"  {paint('do', 'dim')}    did you mean {body['nearest']!r}?")
    if body.get("allowed") and "(allowed:" not in error.what:
        say(f"  {paint('now', 'dim')}   allowed: {', '.join(body['allowed'])}")
    if error.fix:
        say(f"  {paint('do', 'dim')}    {error.fix}")
