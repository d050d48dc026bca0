"""A broken promise: raised at once, from wherever it was seen."""

from __future__ import annotations


class Broken(BaseException):
    """A promise was broken; the first word of the message is its id. Nothing in the program may handle it."""


def check(claim: bool, promise: str, what: str, *about: object) -> None:
    """Raise Broken unless the claim holds. `about` goes into the `{}` of `what`, which is written only then."""
    if not claim:
        raise Broken(f"{promise}: {what.format(*about) if about else what}")
