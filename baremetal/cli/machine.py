"""`power` and `bootdev`: an operator's own hands on BMCs. Several servers are asked at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from baremetal.cli.options import Names, Output, OutputOption
from baremetal.cli.output import emit, table
from baremetal.cli.paint import Paint
from baremetal.errors import BaremetalError

app = typer.Typer(rich_markup_mode=None)
_AT_ONCE = 16


class PowerWord(StrEnum):
    ON = "on"
    OFF = "off"
    SOFT_OFF = "soft-off"
    RESET = "reset"
    STATUS = "status"


class Device(StrEnum):
    PXE = "pxe"
    DISK = "disk"
    CDROM = "cdrom"
    BIOS = "bios"
    NONE = "none"


@app.command()
def power(
    word: Annotated[
        PowerWord,
        typer.Argument(
            metavar="on|off|soft-off|reset|status", help="What to make of it; status asks the BMC."
        ),
    ],
    names: Names,
    ssh: Annotated[
        bool,
        typer.Option(
            "--ssh", help="soft-off and reset: ask the deployed system itself, which ends in order."
        ),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Switch servers by their BMCs and read back, or ask how they are."""
    from baremetal.client import Client, server_path

    with Client.find() as client:

        def one(name: str) -> Any:
            if word is PowerWord.STATUS:
                return client.get(server_path(name, "power"))
            return client.put(server_path(name, "power"), {"target": str(word), "by_ssh": ssh})

        answers = _each(client, names, one)
    if not emit(answers, output):
        for answer in answers:
            on = answer["power_state"] == "on"
            print(f"{answer['name']}: {Paint.stdout()(answer['power_state'], *(['green'] if on else []))}")


@app.command()
def bootdev(
    device: Annotated[
        Device,
        typer.Argument(
            metavar="pxe|disk|cdrom|bios|none", help="Where to boot next; none clears the override."
        ),
    ],
    names: Names,
    persistent: Annotated[bool, typer.Option("--persistent", help="Every time, not only once.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also persistent pxe, which netboots for ever.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set where servers boot next, and read it back."""
    from baremetal.client import Client, server_path

    body = {"device": str(device), "persistent": persistent, "force": force}
    with Client.find() as client:
        answers = _each(client, names, lambda name: client.put(server_path(name, "boot-device"), body))
    if not emit(answers, output):
        table(
            answers,
            [
                ("NAME", lambda a: a["name"]),
                ("DEVICE", lambda a: a["device"] or ""),
                ("VALID", lambda a: {True: "yes", False: "no", None: "cannot be read"}[a["valid"]]),
                ("PERSISTENT", lambda a: "yes" if a["persistent"] else "no"),
                ("EFI", lambda a: "yes" if a["efi"] else "no"),
            ],
        )


def _each(client: Any, names: Sequence[str], call: Callable[[str], Any]) -> list[Any]:
    """Ask for every server; one bad name starts nothing. Errors are told, and the first one's exit code is ours."""
    from concurrent.futures import ThreadPoolExecutor

    from baremetal.cli.failure import exit_code, tell
    from baremetal.client import server_path

    if len(names) == 1:
        return [call(names[0])]
    found = list(dict.fromkeys(client.get(server_path(name))["name"] for name in names))
    answers: list[Any] = []
    bad: list[BaremetalError] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [(name, pool.submit(call, name)) for name in found]
        for name, answer in waiting:
            try:
                answers.append(answer.result())
            except BaremetalError as error:
                error.server = error.server or name
                tell(error)
                bad.append(error)
    if bad:
        for answer in answers:
            print(f"{answer['name']}: done")
        raise typer.Exit(exit_code(bad[0]))
    return answers
