"""What a check of a profile found: the value that `profile lint`, the start of the service and tests share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from baremetal.errors import Invalid


class Severity(StrEnum):
    """ERROR: must not be deployed. WARNING: works, but is a bad idea. UNCHECKED: a checker is not installed."""

    ERROR = "error"
    WARNING = "warning"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `line` counts in `file`, which is a template, or a rendered file (then `rendered` is true)."""

    severity: Severity
    message: str
    file: str
    line: int | None = None
    variable: str | None = None
    code: str = "BM204"
    rendered: bool = False

    def __str__(self) -> str:
        place = f"{self.file} as rendered" if self.rendered else self.file
        where = f"{place}:{self.line}" if self.line else place
        return f"{where}: {self.severity}: {self.code} {self.message}"

    @classmethod
    def problem(cls, file: str, line: int | None, message: str) -> Finding:
        """An error in a file as it is served."""
        return cls(Severity.ERROR, message, file, line, rendered=True)

    @classmethod
    def doubt(cls, file: str, line: int | None, message: str) -> Finding:
        """A bad idea in a file as it is served."""
        return cls(Severity.WARNING, message, file, line, rendered=True)

    @classmethod
    def of(cls, error: Invalid, file: str) -> Finding:
        """Turn an error of rendering into a finding."""
        text = (
            error.what
            + (f" (seen: {error.seen})" if error.seen else "")
            + (f": {error.fix}" if error.fix else "")
        )
        return cls(Severity.ERROR, text, error.file or file, error.line, error.variable, error.code)
