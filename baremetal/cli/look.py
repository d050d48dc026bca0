"""`plan`, `explain`, `render`, `doctor`: looking without touching."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from baremetal.cli.milestones import human_size, human_time
from baremetal.cli.options import Name, Output, OutputOption, ProfileOption, VarOption, complete_server, pairs
from baremetal.cli.output import emit, in_bytes
from baremetal.cli.paint import Paint, say
from baremetal.errors import Unknown

app = typer.Typer(rich_markup_mode=None)


@app.command()
def plan(
    name: Name,
    profile: ProfileOption = None,
    var: VarOption = None,
    boot_target: Annotated[str | None, typer.Option("--boot-target", metavar="disk|iscsi")] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="NAME")] = None,
    force: Annotated[bool, typer.Option("--force", help="As for deploy.")] = False,
    files: Annotated[bool, typer.Option("--files/--no-files", help="Print the rendered files too.")] = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what a deploy would do: its steps, the disk it would write, the files it would serve. Does nothing.

    Exit code 7 where the deploy would be refused.
    """
    from baremetal.client import Client, server_path

    body = {
        "profile": profile,
        "vars": pairs(var, "--var"),
        "boot_target": boot_target,
        "system": system,
        "force": force,
    }
    with Client.find() as client:
        told = client.post(server_path(name, "plan"), body)
    if not emit(told, output):
        _print_plan(told, files)
    if not told["ok"]:
        raise typer.Exit(7)


def _print_plan(told: dict[str, Any], files: bool) -> None:
    from baremetal.cli.failure import tell
    from baremetal.client import read_error

    paint = Paint.stdout()
    print(paint(f"{told['verb']} {told['server']} · {told['profile']}", "bold"))
    print()
    for number, step in enumerate(told["steps"], 1):
        kind = paint("waits", "dim") if step["kind"] == "await" else "     "
        what = step["what"].removeprefix("wait for ")
        budget = paint(f"up to {human_time(step['budget_s'])}", "dim")
        print(f"  {number:>2}  {kind}  {what:<48} {budget}")
    print()
    if told["volume"] is not None:
        _print_volume(told["volume"], paint)
    elif told["disk"] is not None:
        _print_disk(told["disk"], paint)
    if told["variables"]:
        print()
        for key, value in sorted(told["variables"].items()):
            text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
            if text and value is not None:
                print(f"  {paint(key, 'dim')} = {text if len(text) <= 90 else text[:89] + '…'}")
    if files:
        _print_files(told["files"])
    print()
    for problem in told["problems"]:
        tell(read_error(problem))
    if told["ok"]:
        say(Paint.stderr()("Nothing stands in its way.", "green"))


def _print_volume(volume: dict[str, Any], paint: Paint) -> None:
    origin = f"a clone of {volume['image']}" if volume["golden"] else "empty"
    print(f"  volume      {paint(in_bytes(volume['size']), 'bold')} on {volume['storage']}, {origin}")
    for disk in volume.get("data", ()):
        origin = "a clone of its golden image" if disk["golden"] else "empty"
        print(f"  data disk   {paint(in_bytes(disk['size']), 'bold')} {disk['name']}, {origin}")
    print(f"  served as   {volume['target']}, LUN {volume['lun']}, to {volume['initiator']} alone")


def _print_disk(disk: dict[str, Any], paint: Paint) -> None:
    chosen = disk["chosen"] or "not known yet"
    print(f"  disk        {paint(chosen, 'bold')}  ({disk['selector']}; {disk['note']})")
    for known in disk["known"]:
        facts = [known["name"], known["serial"], human_size(known["size"]) if known["size"] else ""]
        print(f"              {' · '.join(fact for fact in facts if fact)}")


def _print_files(files: list[dict[str, str]]) -> None:
    paint = Paint.stdout()
    for file in files:
        print()
        print(paint(f"──── {file.get('name') or file.get('url')} ", "bold"))
        print(file["text"].rstrip("\n"))


@app.command()
def explain(
    name: Annotated[
        str, typer.Argument(metavar="NAME|MAC", help="A server, or any MAC.", autocompletion=complete_server)
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what a machine would boot now on every path, in the order its loader looks, and why."""
    from baremetal.client import Client, server_path

    with Client.find() as client:
        told = client.get(server_path(name, "explain"))
    if not emit(told, output):
        print(told["text"])


@app.command()
def render(
    name: Name,
    profile: ProfileOption = None,
    loader: Annotated[
        str | None,
        typer.Option(
            "--loader", metavar="LOADER", help="In the form for ipxe (default), grub, pxelinux or lpxelinux."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the exact bytes a server would be served, tokens masked: of its open run, or of a deploy of PROFILE."""
    from baremetal.client import Client, server_path

    with Client.find() as client:
        told = client.get(server_path(name, "render"), profile=profile, loader=loader)
    if not emit(told, output):
        _print_files(told["files"])


@app.command()
def doctor(
    name: Annotated[str | None, typer.Argument(metavar="NAME", autocompletion=complete_server)] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look for problems, each with its fix: of the installation, or with NAME of a server and its BMC. Reads only.

    Exit code 7 where there is one.
    """
    from baremetal.client import Client, server_path

    with Client.find() as client:
        if name is not None:
            try:
                client.get(server_path(name))
            except Unknown as error:
                if ":" not in name:
                    raise error from None
        told = client.get("/v1/doctor", name=name)
    if not emit(told, output):
        _print_findings(told)
    if not told["ok"]:
        raise typer.Exit(7)


def _print_findings(told: dict[str, Any]) -> None:
    paint = Paint.stdout()
    signs = {True: paint("✓", "green"), False: paint("✗", "red"), None: paint("·", "yellow")}
    wide = max((len(check["name"]) for check in told["checks"]), default=0)
    for check in told["checks"]:
        code = paint(f" {check['code']}", "bold") if check["code"] else ""
        what = check["what"].removeprefix(f"{check['code']} ")
        # An error's sentence ends with its fix, which has a line of its own here.
        if check["fix"] and what.lower().endswith(check["fix"].lower()):
            what = what[: -len(check["fix"])].rstrip(" .")
        print(f"{signs[check['ok']]} {check['name']:<{wide}} {code} {what}")
        if check["fix"]:
            print(f"  {'':<{wide}}  {paint('do:', 'dim')} {check['fix']}")
    bad = sum(check["ok"] is False for check in told["checks"])
    print()
    print(
        paint(
            f"{bad} problem{'s' if bad != 1 else ''} found" if bad else "No problem found",
            "red" if bad else "green",
        )
    )
