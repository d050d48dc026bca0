"""Templates: where they are found, and the frozen set of texts that one run keeps.

Owns the search (an operator's own folder shadows what is shipped: package data in an installed wheel, else the
checkout) and freezing: a profile's templates with every partial they include, so that what is rendered an hour
later is what `plan` showed. Deliberately unknown: variables and rendering.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, TemplateSyntaxError, nodes

import baremetal
from baremetal.errors import Invalid
from baremetal.netboot.profile import INSTALL_SCRIPT, Profile

INSTALL_GRUB: Final = "loaders/install.grub.j2"
INSTALL_PXELINUX: Final = "loaders/install.pxelinux.j2"
COMMAND_LINE: Final = "loaders/cmdline.j2"  # the kernel's words, the same for every loader
LOADERS: Final = (INSTALL_SCRIPT, INSTALL_GRUB, INSTALL_PXELINUX, COMMAND_LINE)
KERNEL_ARGS: Final = "kernel_args"  # the name under which a profile's kernel_args are frozen and reported
MAX_TEMPLATE: Final = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\Z")


def shipped_folders() -> tuple[Path, ...]:
    """Where the shipped templates may be: package data first, then the checkout this package stands in."""
    package = Path(baremetal.__file__).parent
    return (package / "_data", package / "netboot", package.parent)


@dataclass(frozen=True, slots=True)
class Templates:
    """Finds templates by name, such as `kickstart/redhat.ks.j2`; the first folder that has it wins."""

    folders: tuple[Path, ...]

    @classmethod
    def with_own(cls, *own: Path) -> Templates:
        """Return the operator's own folders before the shipped ones."""
        return cls((*own, *shipped_folders()))

    def find(self, name: str) -> Path:
        """Return a template's file. Raises Invalid BM204 when there is none, naming where was looked."""
        if not _NAME.match(name) or ".." in name.split("/"):
            raise Invalid(f"not a template name: {name[:80]!r}", code="BM204")
        for folder in self.folders:
            path = folder / name
            if path.is_file():
                return path
        raise Invalid(
            f"no template {name}",
            code="BM204",
            seen="looked in " + ", ".join(str(folder) for folder in self.folders),
            fix="write it there, or correct the profile's template",
        )

    def text(self, name: str) -> str:
        """Read a template."""
        path = self.find(name)
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise Invalid("not UTF-8 text", code="BM204", file=name) from error
        if len(text) > MAX_TEMPLATE:
            raise Invalid(f"longer than {MAX_TEMPLATE} characters", code="BM204", file=name)
        return text


@dataclass(frozen=True, slots=True)
class Frozen:
    """The templates of one run as they were when it started: texts by name, and which one answers for which file."""

    files: Mapping[str, str]
    texts: Mapping[str, str]
    digest: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.digest:
            hashed = hashlib.sha256()
            for name, text in sorted(self.texts.items()):
                hashed.update(f"{len(name)} {len(text)} {name}{text}".encode())
            object.__setattr__(self, "digest", hashed.hexdigest())

    def as_dict(self) -> dict[str, Any]:
        """For the run's record, as JSON."""
        return {"files": dict(self.files), "texts": dict(self.texts)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Frozen:
        """Read back from the run's record."""
        return cls(files=dict(record["files"]), texts=dict(record["texts"]))


def freeze(profile: Profile, templates: Templates) -> Frozen:
    """Collect a profile's templates and everything they include. Raises Invalid with file and line."""
    texts: dict[str, str] = {KERNEL_ARGS: profile.kernel_args} if profile.has_script else {}
    starts: tuple[str, ...] = (COMMAND_LINE, profile.install_script) if profile.needs_ipxe else LOADERS
    if not profile.has_script:
        starts = ()
    for name in (*texts, *starts, *profile.answer_files.values()):
        collect(name, templates, texts)
    return Frozen(profile.answer_files, texts)


def with_loaders(frozen: Frozen) -> Frozen:
    """Add the shipped loaders' templates to what a run froze before they existed."""
    return Frozen(frozen.files, {**_shipped_loaders(), **frozen.texts})


@lru_cache(maxsize=1)
def _shipped_loaders() -> Mapping[str, str]:
    shipped = Templates.with_own()
    texts: dict[str, str] = {}
    for name in LOADERS:
        collect(name, shipped, texts)
    return texts


def collect(name: str, templates: Templates, texts: dict[str, str], above: tuple[str, ...] = ()) -> None:
    """Add a template and everything it includes to `texts`. Raises Invalid with file and line."""
    if name in above:
        raise Invalid(f"includes itself: {' > '.join((*above, name))}", code="BM204", file=above[-1])
    if name not in texts:
        texts[name] = templates.text(name)
    for part in _included(name, texts[name]):
        collect(part, templates, texts, (*above, name))


_PARSER = Environment(autoescape=False)  # only ever parses: nothing is compiled or run by it


def _included(name: str, text: str) -> list[str]:
    try:
        tree = _PARSER.parse(text, name)
    except TemplateSyntaxError as error:
        raise Invalid(str(error.message), code="BM204", file=name, line=error.lineno) from error
    found = []
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        part = getattr(node, "template", None)
        if not isinstance(part, nodes.Const) or not isinstance(part.value, str):
            what = "the name of an included template must be written out"
            raise Invalid(what, code="BM204", file=name, line=node.lineno)
        found.append(part.value)
    return found
