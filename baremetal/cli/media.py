"""`baremetal media`: installation media from images and folders, in the data directory of this host.

Works by the same settings as the service on this host; the service need not run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baremetal.cli.options import Output, OutputOption
from baremetal.cli.output import ago, emit, fields, in_bytes, table
from baremetal.cli.paint import is_terminal, say

if TYPE_CHECKING:
    from baremetal.service.media.importing import Held, MediaImport

app = typer.Typer(rich_markup_mode=None)
media = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Import installation media from images and folders."
)
app.add_typer(media, name="media")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Read this file instead of the usual two.", dir_okay=False)
]


def complete_local_profile(incomplete: str) -> list[str]:
    """Offer the profiles of this host's settings."""
    from baremetal.config import load
    from baremetal.errors import BaremetalError

    try:
        return [name for name in load(None).profile if name.startswith(incomplete)]
    except BaremetalError:
        return []


def complete_distro(incomplete: str) -> list[str]:
    """Offer what --as takes."""
    from baremetal.media.distros import DISTRO

    return [key for key in DISTRO if key.startswith(incomplete)]


@media.command()
def add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="PROFILE", help="The profile that boots it.", autocompletion=complete_local_profile
        ),
    ],
    source: Annotated[
        Path, typer.Argument(metavar="ISO|DIR", help="An ISO image, or a folder with what is on one.")
    ],
    as_distro: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="DISTRO",
            help="What it is, where it does not say so.",
            autocompletion=complete_distro,
        ),
    ] = "",
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="HEX", help="Compare the whole image with this first.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace media that were put there by hand.")
    ] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Unpack an installation medium where a profile boots it from, after looking at what it is.

    Needs no root and mounts nothing. Media that are there already are replaced only once all went well.
    """
    work = _open(config)
    try:
        with _bar(source.name) as progress:
            added = work.add(
                name, source, as_distro=as_distro, sha256=sha256, replace=replace, progress=progress
            )
    except KeyboardInterrupt:
        say("Stopped; nothing was changed.")
        raise typer.Exit(130) from None
    for warning in added.warnings:
        say(f"warning  {warning}")
    record = _plain(added.record)
    data = {"name": added.name, "folder": str(added.folder), "replaced": added.replaced, **record}
    if not emit(data | {"warnings": list(added.warnings)}, output):
        fields(
            [
                ("name", added.name),
                ("medium", " ".join(record[key] for key in ("title", "version", "arch") if record[key])),
                ("told by", "\n".join(record["evidence"])),
                ("kernel", record["kernel"]),
                ("initrd", record["initrd"]),
                ("files", f"{record['files']}, {in_bytes(record['bytes'])}"),
                ("folder", str(added.folder)),
            ]
        )


@media.command()
def ramdisk(
    firmware: Annotated[
        list[str] | None,
        typer.Option(
            "--firmware",
            metavar="PACKAGE",
            help="A Debian package with firmware that drivers ask for; repeat it.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a RAM system that was put there by hand.")
    ] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the RAM system that inspections, rescues and wipes boot, of Debian packages, and put it in place.

    Needs no root, and apt's lists on this host. Do it again for newer packages.
    """
    import tempfile

    from baremetal.cli.cache import folder_for
    from baremetal.errors import Unavailable
    from baremetal.ramsystem.architecture import Architecture
    from baremetal.ramsystem.build import build

    cache = folder_for("ramsystem")
    work = _open(config)
    work.check("ramdisk", replace=replace)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{cache} cannot be made: {error.strerror}", fix="set XDG_CACHE_HOME") from error
    with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as folder:
        say("Fetching packages, and putting the RAM system together; it takes about half a minute.")
        made = build(Path(folder), cache, Architecture.X86_64, firmware or ())
        added = work.add("ramdisk", made.folder, replace=replace)
    data = {
        "folder": str(added.folder),
        "kernel": made.kernel,
        "drivers": made.drivers,
        "bytes": added.record.bytes,
        "firmware_lacking": list(made.lacks),
    }
    if not emit(data, output):
        fields(
            [
                ("folder", str(added.folder)),
                ("kernel", made.kernel),
                ("drivers", str(made.drivers)),
                ("size", in_bytes(added.record.bytes)),
                ("firmware", _lacks(made.lacks)),
            ]
        )


def _lacks(names: tuple[str, ...]) -> str:
    if not names:
        return "all that these drivers name"
    kinds = sorted({name.partition("/")[0] for name in names if "/" in name})
    return f"{len(names)} files that drivers name are in none of these packages ({', '.join(kinds[:6])} …)"


@media.command("list")
def list_(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the media that are there, and those that profiles wait for."""
    found = [_row(held) for held in _open(config).held()]
    if not emit(found, output):
        table(
            found,
            [
                ("NAME", lambda row: row["name"]),
                ("MEDIUM", lambda row: row["medium"]),
                ("PROFILES", lambda row: ", ".join(row["profiles"])),
                ("READY", lambda row: "yes" if row["ready"] else "no"),
                ("SIZE", lambda row: in_bytes(row["bytes"]) if row["bytes"] else ""),
                ("ADDED", lambda row: ago(row["added_at"])),
            ],
        )


@media.command()
def remove(
    name: Annotated[
        str,
        typer.Argument(metavar="PROFILE", help="See `media list`.", autocompletion=complete_local_profile),
    ],
    force: Annotated[bool, typer.Option("--force", help="Also where they were put there by hand.")] = False,
    config: ConfigOption = None,
) -> None:
    """Remove media; profiles that boot from them cannot be deployed afterwards."""
    held = _open(config).remove(name, force=force)
    print(f"{held.name}: removed")
    if held.profiles:
        say(f"Cannot be deployed now: {', '.join(held.profiles)}")


def _open(config: Path | None) -> MediaImport:
    from baremetal.config import load
    from baremetal.service.media.fit import Need
    from baremetal.service.media.importing import MediaImport

    settings = load(config)
    needs = [
        Need(
            profile=name,
            media=profile.media or name,
            family=profile.family,
            arch=profile.arch,
            kernel=profile.kernel,
            initrd=profile.initrd,
            release=str(profile.vars.get("release", "")),
            title=profile.title,
            beside="" if "iso_url" in profile.vars else str(profile.vars.get("iso", "")),
        )
        for name, profile in settings.profile.items()
    ]
    return MediaImport(settings.media_dir, needs)


def _row(held: Held) -> dict[str, Any]:
    record = _plain(held.record) if held.record else {}
    words = [record.get(key) for key in ("title", "version", "arch")]
    medium = " ".join(word for word in words if word) or ("put there by hand" if held.present else "")
    return {
        "name": held.name,
        "medium": medium,
        "present": held.present,
        "profiles": list(held.profiles),
        "ready": bool(held.profiles) and len(held.ready) == len(held.profiles),
        "bytes": record.get("bytes"),
        "added_at": record.get("added_at"),
        "record": record or None,
    }


def _plain(record: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; elsewhere nothing moves."""
    if not is_terminal(sys.stderr):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(title), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
