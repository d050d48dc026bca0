"""`baremetal token` and `baremetal secrets`: who may use the API, and the key that seals BMC passwords."""

from __future__ import annotations

from typing import Annotated

import typer

from baremetal.cli.options import Output, OutputOption
from baremetal.cli.output import ago, emit, table
from baremetal.cli.paint import say

app = typer.Typer(rich_markup_mode=None)
token = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Make and revoke tokens for the API.")
app.add_typer(token, name="token")
secrets = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The key that seals BMC passwords.")
app.add_typer(secrets, name="secrets")


@token.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: stands in the history.")],
    role: Annotated[
        str, typer.Option("--role", metavar="viewer|operator|admin", help="What it may do.")
    ] = "operator",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token and print it: the only time it is shown."""
    from baremetal.client import Client

    with Client.find() as client:
        made = client.post("/v1/tokens", {"name": name, "role": role})
    if not emit(made, output):
        print(made["token"])
        say(f"Role {made['role']}. Keep it; it is not shown again. Use: export BAREMETAL_TOKEN=…")


@token.command("list")
def list_(output: OutputOption = Output.TABLE) -> None:
    """List tokens; never the tokens themselves."""
    from baremetal.client import Client

    with Client.find() as client:
        found = client.get("/v1/tokens")["tokens"]
    if not emit(found, output):
        table(
            found,
            [
                ("NAME", lambda t: t["name"]),
                ("ROLE", lambda t: t["role"]),
                ("CREATED", lambda t: ago(t["created_at"])),
            ],
        )


@token.command()
def revoke(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Make a token worthless at once."""
    from urllib.parse import quote

    from baremetal.client import Client

    with Client.find() as client:
        client.delete(f"/v1/tokens/{quote(name, safe='')}")
    print(f"{name}: revoked")


@secrets.callback()
def _group() -> None:
    """The key that seals BMC passwords."""


@secrets.command("rotate-key")
def rotate_key() -> None:
    """Make a new key and seal every BMC password with it; the old key opens nothing afterwards."""
    from baremetal.client import Client

    with Client.find() as client:
        count = client.post("/v1/secrets/rotate-key")["resealed"]
    print(f"{count} BMC account{'s' if count != 1 else ''} sealed with a new key")
