"""`watch`, `events`, `logs`: a run as it happens, as it was, and what its installer uploaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from baremetal.cli.options import Name, Names, Output, OutputOption
from baremetal.cli.paint import Paint, say
from baremetal.errors import Unknown

app = typer.Typer(rich_markup_mode=None)
RunOption = Annotated[
    int | None, typer.Option("--run", metavar="N", help="This run instead of the newest.", min=1)
]


@app.command()
def watch(names: Names = []) -> None:  # noqa: B006
    """Follow servers live: those named, or all that are under way; with nothing under way, whatever happens next.

    A server with nothing under way shows its last run. Ctrl-C ends the watching and nothing else.
    """
    from baremetal.cli import deploy
    from baremetal.cli.follow import tell_run
    from baremetal.cli.live import Screen
    from baremetal.client import Client, server_path

    with Client.find() as client:
        if names:
            servers = [client.get(server_path(name)) for name in names]
        else:
            servers = [s for s in client.get("/v1/servers")["servers"] if s["run"]]
            if not servers:
                _feed(client)
                return
        moving = {server["name"]: server["run"]["number"] for server in servers if server["run"]}
        ok = True
        for server in servers:
            if server["name"] in moving:
                continue
            last = client.get(server_path(server["name"], "timeline"))["run"]
            with Screen([server["name"]]) as screen:
                screen.head(f"{server['name']} · run {last}, which is over")
                ok = not tell_run(client, screen, server["name"], last).failed and ok
        if moving:
            ok = deploy.watch(client, moving, Output.TABLE, title=_title(servers, moving)) and ok
        if not ok:
            raise typer.Exit(1)


def _title(servers: list[dict[str, Any]], moving: Mapping[str, int]) -> str:
    if len(moving) > 1:
        return f"{len(moving)} servers under way"
    server = next(s for s in servers if s["name"] in moving)
    run = server["run"]
    profile = f" · {run['profile']}" if run.get("profile") else ""
    return f"{run['verb']} {server['name']}{profile} · run {run['number']}"


def _feed(client: Any) -> None:
    say("Nothing is under way; waiting for news (Ctrl-C ends)")
    try:
        for event in client.follow():
            print(line(event), flush=True)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def line(event: Mapping[str, Any]) -> str:
    """Write one entry of the history as a line."""
    from baremetal.cli.milestones import parse_time

    paint = Paint.stdout()
    moved = ""
    if event["to_state"] and event["from_state"] and event["to_state"] != event["from_state"]:
        moved = f"  {paint.state(event['to_state'])}"
    run = f"run {event['run']}" if event["run"] else ""
    note = event["note"]
    if event["outcome"] in ("no-op", "refused"):
        note = paint(note, "dim" if event["outcome"] == "no-op" else "yellow")
    at = f"{parse_time(event['at']).astimezone():%Y-%m-%d %H:%M:%S}"
    return f"{paint(at, 'dim')}  {event['server']:<12} {run:<8} {note}{moved}"


@app.command()
def events(
    name: Name,
    run: RunOption = None,
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Every entry of the history, over all runs.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Tell the newest run of a server from its record, with how long everything took."""
    from baremetal.cli.follow import tell_run
    from baremetal.cli.live import Screen
    from baremetal.cli.output import emit
    from baremetal.client import Client, server_path

    with Client.find() as client:
        if every or output is not Output.TABLE:
            found = [event for event in _history(client, name) if run is None or event["run"] == run]
            if not emit(found, output):
                for event in found:
                    print(line(event))
            return
        server = client.get(server_path(name))
        try:
            past = client.get(server_path(server["name"], "timeline"), run=run)
        except Unknown:
            if run is not None:
                raise
            for event in _history(client, name):
                print(line(event))
            return
        with Screen([server["name"]], sys.stdout) as screen:
            profile = f" · {past['profile']}" if past["profile"] else ""
            screen.head(f"{past['verb']} {server['name']}{profile} · run {past['run']}")
            tell_run(client, screen, server["name"], past["run"])


def _history(client: Any, name: str) -> list[dict[str, Any]]:
    from baremetal.client import server_path

    found: list[dict[str, Any]] = []
    while page := client.get(server_path(name, "events"), after=found[-1]["id"] if found else 0)["events"]:
        found += page
    return found


@app.command()
def logs(name: Name, run: RunOption = None, output: OutputOption = Output.TABLE) -> None:
    """Print what an installer uploaded: the newest run that left something, or the one that is named."""
    from baremetal.cli.output import emit
    from baremetal.client import Client, server_path

    with Client.find() as client:
        found = client.get(server_path(name, "logs"), run=run)["logs"]
    if run is None and found:
        newest = max(entry["run"] for entry in found)
        found = [entry for entry in found if entry["run"] == newest]
    if emit(found, output):
        return
    if not found:
        say(f"{name}: no installer has uploaded anything")
    for entry in found:
        say(
            Paint.stderr()(
                f"==> run {entry['run']}, {entry['name']}, {entry['size']} bytes, {entry['at']}", "bold"
            )
        )
        print(entry["text"].rstrip("\n"))
