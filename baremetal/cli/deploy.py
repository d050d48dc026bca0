"""`baremetal deploy`: one server or many, watched to the end unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from baremetal.cli.options import (
    Names,
    Output,
    OutputOption,
    ProfileOption,
    TagOption,
    VarOption,
    WhereOption,
    pairs,
)
from baremetal.cli.paint import say
from baremetal.errors import BaremetalError, Invalid

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep this a group: a single command would be folded into it."""


@app.command()
def deploy(
    names: Names = [],  # noqa: B006
    profile: ProfileOption = None,
    tag: TagOption = None,
    where: WhereOption = "",
    var: VarOption = None,
    boot_target: Annotated[
        str | None, typer.Option("--boot-target", metavar="disk|iscsi", help="Where the system is to live.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            metavar="NAME",
            help="Which of several systems on volumes; the one it boots, by default.",
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Install active servers anew; their disk is overwritten.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where a server was found running something when enrolled.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return as soon as the deploy is accepted.")
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(
            "--max-failures",
            metavar="N",
            min=1,
            help="Let no more than N servers fail: no more are begun than could still fail.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Install an operating system on servers, and watch it happen.

    Everything is checked first: one bad name, variable or missing file starts nothing. What [deploy] max_concurrent and
    power_on_stagger_s leave no room for waits for its turn. Ctrl-C detaches; the deploy goes on. Exit code 1 when a
    deploy failed.
    """
    from baremetal.client import Client

    if bool(names) == bool(tag or where):
        raise Invalid("name servers, or choose them by --tag and --where, one of the two")
    if no_wait and max_failures is not None:
        raise Invalid("--max-failures needs to watch, so it does not go with --no-wait")
    if profile is None and not rebuild:
        raise Invalid("which profile?", fix="give --profile; `baremetal profile list` shows what there is")
    verb = "rebuild" if rebuild else "deploy"
    order = {
        "profile": profile,
        "vars": pairs(var, "--var"),
        "boot_target": boot_target,
        "system": system,
        "force": force,
    }
    with Client.find() as client:
        if max_failures is not None:
            _in_waves(client, verb, order, _chosen(client, names, tag, where), max_failures, output)
            return
        if len(names) == 1:
            from baremetal.client import server_path

            accepted = client.post(server_path(names[0], verb), order)
            started = [{"name": accepted["server"]["name"], **accepted}]
        else:
            body = order | {"names": list(names), "tags": pairs(tag, "--tag"), "where": where}
            started = client.post(f"/v1/bulk/{verb}", body)["servers"]
        finish(client, verb, started, no_wait=no_wait, output=output)


def finish(
    client: Any, verb: str, started: Sequence[dict[str, Any]], *, no_wait: bool, output: Output
) -> None:
    """Tell what a verb started, and watch it unless told otherwise; leaves with the exit code."""
    from baremetal.client import read_error

    late = {one["name"]: read_error(one["error"]) for one in started if one.get("error")}
    runs = {one["name"]: one["run"] for one in started if one.get("run")}
    waiting = {one["name"]: str(one["server"]["waiting"]["profile"]) for one in started if _waits(one)}
    for name, error in late.items():
        from baremetal.cli.failure import tell

        error.server = error.server or name
        tell(error)
    ok = not late
    if runs and not no_wait:
        ok = watch(client, runs, output, title=_title(verb, started, runs), waiting=waiting) and ok
    if output is not Output.TABLE or no_wait or not runs:
        _report(client, started, output, watched=not no_wait)
    if not ok:
        from baremetal.cli.failure import exit_code

        codes = [exit_code(error) for error in late.values()]
        raise typer.Exit(codes[0] if codes and not runs else 1)


def _waits(one: Mapping[str, Any]) -> bool:
    return bool(one.get("waiting") and (one.get("server") or {}).get("waiting"))


def watch(
    client: Any,
    runs: dict[str, int],
    output: Output,
    *,
    title: str = "",
    detaches: bool = True,
    waiting: Mapping[str, str] = {},
) -> bool:
    """Follow runs to their end; says whether all went well. Ctrl-C detaches with 130, or is passed on.

    `waiting`: the profiles of those that have not begun yet.
    """
    from baremetal.cli.follow import Follower

    with _screen(list(runs), output) as screen:
        if title:
            screen.head(title)
        follower = Follower(client, screen, list(runs))
        try:
            # those under way first: the stream of events is read from where the first of them began
            for name, run in sorted(runs.items(), key=lambda one: one[0] in waiting):
                if name in waiting:
                    follower.expect(name, run, waiting[name])
                else:
                    follower.begin(name, run)
            follower.wait()
        except KeyboardInterrupt:
            if not detaches:
                raise
            _detach(screen, [told.server for told in follower.open] or list(runs))
    return not any(told.failed for told in follower.told.values())


def _screen(names: list[str], output: Output) -> Any:
    import sys

    from baremetal.cli.live import Screen

    # With -o json stdout is for the program that reads it: the timeline is talk then.
    return Screen(names, sys.stdout if output is Output.TABLE else sys.stderr)


def _detach(screen: Any, names: Sequence[str]) -> None:
    screen.close()
    some = " ".join(names) if len(names) <= 5 else ""
    say("")
    say(
        f"Detached; {'it goes' if len(names) == 1 else 'they go'} on. Watch again: baremetal watch {some}".rstrip()
    )
    if len(names) == 1:
        say(f"Give it up: baremetal abort {names[0]}")
    raise typer.Exit(130)


def _title(verb: str, started: Sequence[dict[str, Any]], runs: dict[str, int]) -> str:
    profiles = {
        one["server"]["profile"] for one in started if one.get("server") and one["server"].get("profile")
    }
    what = f" · {profiles.pop()}" if len(profiles) == 1 else ""
    if len(runs) == 1:
        name, run = next(iter(runs.items()))
        return f"{verb} {name}{what} · run {run}"
    return f"{verb} {len(runs)} servers{what}"


def _report(client: Any, started: Sequence[dict[str, Any]], output: Output, *, watched: bool) -> None:
    from baremetal.cli.milestones import waiting_for
    from baremetal.cli.output import emit
    from baremetal.client import server_path

    if output is Output.TABLE:
        for one in started:
            if one.get("error"):
                continue
            if _waits(one):
                print(f"{one['name']}: {waiting_for(one['server'])}")
                continue
            state = one["server"]["provision_state"]
            run = f"run {one['run']} began; it is " if one.get("run") else "it is "
            print(f"{one['name']}: {run}{state}")
        return
    servers = []
    for one in started:
        if one.get("error"):
            servers.append({"name": one["name"], "error": one["error"]})
        else:
            servers.append(client.get(server_path(one["name"])) if watched else one["server"])
    emit(servers, output)


def _chosen(client: Any, names: Sequence[str], tag: Sequence[str] | None, where: str) -> list[str]:
    from baremetal.client import server_path

    if names:
        return list(dict.fromkeys(client.get(server_path(name))["name"] for name in names))
    servers = client.get("/v1/servers", tag=list(tag or ()), where=where)["servers"]
    found = [server["name"] for server in servers]
    if not found:
        raise Invalid(f"no server has {' '.join([*(tag or ()), where]).strip()}")
    return found


def _in_waves(
    client: Any, verb: str, order: dict[str, Any], names: list[str], most: int, output: Output
) -> None:
    """Begin servers only while `most` failures are not reached even if all that are under way fail."""
    from baremetal.cli.failure import tell
    from baremetal.cli.follow import Follower
    from baremetal.client import read_error, server_path

    for name in names:
        # One bad name starts nothing: the same checks as the deploy itself makes.
        problems = client.post(server_path(name, "plan"), order)["problems"]
        fatal = [problem for problem in problems if not (rebuilds(problem) and verb == "rebuild")]
        if fatal:
            error = read_error(fatal[0])
            error.server = error.server or name
            raise error
    waiting = list(names)
    bad = 0
    with _screen(names, output) as screen:
        screen.head(f"{verb} {len(names)} servers · at most {most} may fail")
        follower = Follower(client, screen, names)

        def failures() -> int:
            return bad + sum(told.failed for told in follower.told.values())

        def is_room() -> bool:
            return bool(waiting) and failures() + len(follower.open) < most

        try:
            while waiting or follower.open:
                while is_room():
                    name = waiting.pop(0)
                    try:
                        told = client.post(server_path(name, verb), order)
                        if _waits(told):
                            follower.expect(name, told["run"], told["server"]["waiting"]["profile"])
                        else:
                            follower.begin(name, told["run"])
                    except BaremetalError as error:
                        bad += 1
                        error.server = error.server or name
                        tell(error)
                if not follower.open:
                    break
                follower.wait(until=is_room)
        except KeyboardInterrupt:
            if waiting:
                say(f"\nNot begun: {' '.join(waiting)}")
            _detach(screen, [told.server for told in follower.open])
    if waiting:
        say(f"Stopped: {failures()} failed. Not begun: {' '.join(waiting)}")
    if output is not Output.TABLE:
        from baremetal.cli.output import emit

        emit([client.get(server_path(name)) for name in names], output)
    if failures():
        raise typer.Exit(1)


def rebuilds(problem: dict[str, Any]) -> bool:
    """Whether a plan's problem is only that the server is active, which is what a rebuild is for."""
    return problem.get("code") == "BM502" and "rebuild" in (problem.get("allowed") or ())
