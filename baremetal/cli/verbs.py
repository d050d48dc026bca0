"""`manage`, `inspect`, `provide`, `adopt`, `rescue`, `unrescue`, `release`, `abort`: all verbs that install nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from baremetal.cli.options import Names, Output, OutputOption
from baremetal.errors import Invalid

app = typer.Typer(rich_markup_mode=None)
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as it is accepted.")]
Force = Annotated[bool, typer.Option("--force", help="Also where it was found on and may carry a system.")]


@app.command()
def manage(names: Names, no_wait: NoWait = False, output: OutputOption = Output.TABLE) -> None:
    """Check servers' BMCs: address, account, power. Reads only. Ends in manageable."""
    _ask("manage", names, {}, no_wait, output)


@app.command()
def inspect(
    names: Names, force: Force = False, no_wait: NoWait = False, output: OutputOption = Output.TABLE
) -> None:
    """Have manageable servers report their parts from a RAM system. Touches no disk; ends with the power off."""
    _ask("inspect", names, {"force": force}, no_wait, output)


@app.command()
def provide(
    names: Names,
    wipe: Annotated[bool, typer.Option("--wipe", help="First overwrite all their fixed disks.")] = False,
    force: Force = False,
    no_wait: NoWait = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Offer manageable servers for deploys. Ends in available; without --wipe nothing is done on the machine."""
    _ask("provide", names, {"wipe": wipe, "force": force}, no_wait, output)


@app.command()
def adopt(names: Names, output: OutputOption = Output.TABLE) -> None:
    """Take over servers as they run; nothing is written, anywhere. Ends in active."""
    _ask("adopt", names, {}, False, output)


@app.command()
def rescue(
    names: Names,
    ssh_key: Annotated[
        Path | None,
        typer.Option(
            "--ssh-key", help="A public key that may log in, instead of the configured ones.", exists=True
        ),
    ] = None,
    no_wait: NoWait = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Netboot active servers into a RAM system with sshd, to repair what is on their disks. Ends in rescue."""
    keys = {"ssh_authorized_keys": ssh_key.read_text().strip()} if ssh_key is not None else {}
    _ask("rescue", names, {"vars": keys}, no_wait, output)


@app.command()
def unrescue(names: Names, no_wait: NoWait = False, output: OutputOption = Output.TABLE) -> None:
    """Boot rescued servers from their own disks again, and prove it as their deploy did. Ends in active."""
    _ask("unrescue", names, {}, no_wait, output)


@app.command()
def release(
    names: Names,
    wipe: Annotated[bool, typer.Option("--wipe", help="Also overwrite all their fixed disks.")] = False,
    no_wait: NoWait = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take servers back: power off, boot device cleared, free for the next deploy."""
    _ask("release", names, {"wipe": wipe}, no_wait, output)


@app.command()
def abort(names: Names, no_wait: NoWait = False, output: OutputOption = Output.TABLE) -> None:
    """Give up what is under way: its tokens die at once, then power goes off."""
    from baremetal.cli import deploy
    from baremetal.client import Client, server_path

    with Client.find() as client:
        before = {s["name"]: s for s in (client.get(server_path(name)) for name in names)}
        started = _post(client, "abort", list(before), {})
        if no_wait:
            deploy.finish(client, "abort", started, no_wait=True, output=output)
            return
        # what only waited for its turn is given up at once
        runs = {
            one["name"]: before[one["name"]]["run"]["number"]
            for one in started
            if not one.get("error") and before[one["name"]]["run"]
        }
        # An aborted run ends in its failed state: that is the success of an abort.
        if runs:
            deploy.watch(client, runs, output, title=f"abort {' '.join(runs)}")
        else:
            deploy.finish(client, "abort", started, no_wait=True, output=output)
            return
        if output is not Output.TABLE:
            deploy.finish(client, "abort", started, no_wait=True, output=output)


def _ask(verb: str, names: Sequence[str], body: dict[str, Any], no_wait: bool, output: Output) -> None:
    from baremetal.cli import deploy
    from baremetal.client import Client

    if not names:
        raise Invalid(f"{verb} which servers?")
    with Client.find() as client:
        started = _post(client, verb, names, body)
        deploy.finish(client, verb, started, no_wait=no_wait, output=output)


def _post(client: Any, verb: str, names: Sequence[str], body: dict[str, Any]) -> list[dict[str, Any]]:
    from baremetal.client import server_path

    if len(names) == 1:
        accepted = client.post(server_path(names[0], verb), body)
        return [{"name": accepted["server"]["name"], **accepted}]
    started: list[dict[str, Any]] = client.post(f"/v1/bulk/{verb}", body | {"names": list(names)})["servers"]
    return started
