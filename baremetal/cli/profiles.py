"""`baremetal profile`: what can be installed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from baremetal.cli.options import Output, OutputOption, complete_profile
from baremetal.cli.output import emit, fields, table
from baremetal.cli.paint import Paint

app = typer.Typer(rich_markup_mode=None)
profile = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="List, show and check what can be installed."
)
app.add_typer(profile, name="profile")


@profile.command("list")
def list_(output: OutputOption = Output.TABLE) -> None:
    """List the profiles of the service."""
    from baremetal.client import Client

    with Client.find() as client:
        found = client.get("/v1/profiles")["profiles"]
    if not emit(found, output):
        table(found, [(key.upper(), partial(_cell, key)) for key in _columns(found)])


def _columns(found: list[dict[str, Any]]) -> list[str]:
    wanted = ("name", "title", "family", "arch", "state", "method", "ready", "media")
    return [key for key in wanted if found and key in found[0]] or ["name"]


def _cell(key: str, profile: dict[str, Any]) -> str:
    return _word(profile[key])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


@profile.command()
def show(
    name: Annotated[str, typer.Argument(metavar="PROFILE", autocompletion=complete_profile)],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a profile: files, variables, time budgets."""
    from baremetal.client import Client

    with Client.find() as client:
        found = client.get(f"/v1/profiles/{name}")
    if not emit(found, output):
        fields([(key.replace("_", " "), _text(value)) for key, value in found.items()])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} = {_word(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_word(item) for item in value)
    return _word(value)


@profile.command()
def lint(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="PROFILE", autocompletion=complete_profile)
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="Check this file instead: a kickstart, or a loader's script.")
    ] = None,
    release: Annotated[
        int, typer.Option(help="Of the kickstart in --file: 7 to 10, or Fedora's number.")
    ] = 9,
    output: OutputOption = Output.TABLE,
) -> None:
    """Render profiles with a sample server and check the answer files; all of them, or those named.

    With --file, check files of your own as they are: kickstarts, autoinstall, AutoYaST, Ignition, iPXE, GRUB and
    pxelinux scripts. Exit code 7 where something is wrong.
    """
    if file:
        _lint_files(file, release)
        return
    from baremetal.cli.failure import tell
    from baremetal.client import Client, read_error

    with Client.find() as client:
        wanted = names or [entry["name"] for entry in client.get("/v1/profiles")["profiles"]]
        found = [client.get(f"/v1/profiles/{name}/lint") | {"name": name} for name in wanted]
    bad = [entry for entry in found if entry["problems"]]
    if not emit(found, output):
        paint = Paint.stdout()
        for entry in found:
            count = len(entry["problems"])
            verdict = (
                paint(f"{count} problem{'s' if count > 1 else ''}", "red")
                if count
                else paint("fine", "green")
            )
            print(f"{entry['name']}: {verdict}")
            for problem in entry["problems"]:
                tell(read_error(problem))
            for warning in entry.get("warnings", ()):
                tell(read_error(warning), "warning")
    if bad:
        raise typer.Exit(7)


def _lint_files(files: list[Path], release: int) -> None:
    """Check files on this machine; no service is needed."""
    from baremetal.errors import Invalid
    from baremetal.netboot.lint.finding import Severity
    from baremetal.netboot.lint.standalone import lint_file

    bad = False
    for path in files:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"{path} cannot be read", seen=str(error)) from error
        kind, found = lint_file(text, str(path), release)
        errors = [finding for finding in found if finding.severity is Severity.ERROR]
        bad = bad or bool(errors)
        print(f"{path}: {kind}: {len(errors) or 'no'} problem{'' if len(errors) == 1 else 's'}")
        for finding in found:
            print(f"  {finding.line or '-'}: {finding.severity}: {finding.message}")
    if bad:
        raise typer.Exit(7)
