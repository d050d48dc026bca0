"""What several commands take: names, the output form, key=value pairs; and completion of names."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from baremetal.errors import Invalid


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def complete_server(incomplete: str) -> list[str]:
    """Offer the names of servers; nothing where the service does not answer quickly."""
    from baremetal.client import Client
    from baremetal.errors import BaremetalError

    try:
        with Client.find() as client:
            names = [server["name"] for server in client.get("/v1/servers")["servers"]]
    except BaremetalError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_profile(incomplete: str) -> list[str]:
    """Offer the names of profiles."""
    from baremetal.client import Client
    from baremetal.errors import BaremetalError

    try:
        with Client.find() as client:
            names = [profile["name"] for profile in client.get("/v1/profiles")["profiles"]]
    except BaremetalError:
        return []
    return [name for name in names if name.startswith(incomplete)]


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="Form of what is printed.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A server's name or id.", autocompletion=complete_server)
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME", help="Servers by name or id.", autocompletion=complete_server),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help="What to install (see `profile list`).", autocompletion=complete_profile
    ),
]
VarOption = Annotated[
    list[str] | None, typer.Option("--var", metavar="KEY=VALUE", help="Set a variable; may be repeated.")
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Tags; may be repeated.")
]

WhereOption = Annotated[
    str,
    typer.Option("--where", metavar="WHERE", help="By inspected hardware: 'ram>=64G and disk>=1T'."),
]


def pairs(words: Sequence[str] | None, option: str) -> dict[str, str]:
    """Read KEY=VALUE words. Raises Invalid naming the option."""
    found: dict[str, str] = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise Invalid(f"{option} {word!r} is not KEY=VALUE")
        found[key] = value
    return found
