"""`list`, `show`, `set`, `forget`, `maintenance`: the servers' records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from baremetal.cli.options import (
    Name,
    Names,
    Output,
    OutputOption,
    TagOption,
    VarOption,
    WhereOption,
    pairs,
)
from baremetal.cli.output import ago, emit, fields, table
from baremetal.cli.paint import Paint, say
from baremetal.errors import Invalid

app = typer.Typer(rich_markup_mode=None)


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option("--state", "-s", help="Only servers in this state.")] = None,
    tag: TagOption = None,
    where: WhereOption = "",
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Machines that asked to boot and that nobody has enrolled.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List servers."""
    from baremetal.client import Client

    with Client.find() as client:
        if unknown:
            _strangers(client.get("/v1/unknown")["unknown"], output)
            return
        pairs(tag, "--tag")
        servers = client.get("/v1/servers", state=state, tag=list(tag or ()) or None, where=where or None)[
            "servers"
        ]
    if emit(servers, output):
        return
    if not servers:
        say("No servers" + (" like that" if state or tag or where else "; `baremetal enroll` takes them in"))
        return
    paint = Paint.stdout()
    table(
        servers,
        [
            ("NAME", lambda s: s["name"]),
            (
                "STATE",
                lambda s: paint.state(s["provision_state"]) + (" (maintenance)" if s["maintenance"] else ""),
            ),
            ("POWER", lambda s: _power(s["power_state"], paint)),
            ("PROFILE", lambda s: s["profile"] or ""),
            ("BMC", lambda s: s["bmc"]["address"]),
            ("MAC", lambda s: s["macs"][0] if s["macs"] else ""),
            ("NOW", lambda s: _now(s, paint)),
        ],
    )


def _power(power: str, paint: Paint) -> str:
    return paint(power, "green") if power == "on" else power


def _now(server: Mapping[str, Any], paint: Paint) -> str:
    from baremetal.cli.milestones import waiting_for

    if server["run"]:
        return f"run {server['run']['number']}: {waiting_for(server)}"
    if server.get("waiting"):
        return waiting_for(server)
    if server["last_error"]:
        return paint(server["last_error"], "red")
    return " ".join(f"{key}={value}" for key, value in server["tags"].items())


def _strangers(found: list[dict[str, Any]], output: Output) -> None:
    if emit(found, output):
        return
    if not found:
        say("No unknown machine has asked to boot")
        return
    table(
        found,
        [
            ("MAC", lambda u: u["mac"]),
            ("ARCH", lambda u: u["arch"]),
            ("SERIAL", lambda u: u["serial"]),
            ("UUID", lambda u: u["uuid"]),
            ("TIMES", lambda u: str(u["times"])),
            ("LAST", lambda u: ago(u["last_seen_at"])),
            ("ASKED FOR", lambda u: u["what"]),
            ("PART OF", lambda u: u.get("server") or ""),
        ],
    )


@app.command()
def show(name: Name, output: OutputOption = Output.TABLE) -> None:
    """Show all that is known of a server."""
    from baremetal.client import Client, server_path

    with Client.find() as client:
        server = client.get(server_path(name))
    if not emit(server, output):
        describe(server)


def _parts(found: Mapping[str, Any] | None) -> str:
    """Write what an inspection found, one line per part."""
    from baremetal.cli.milestones import human_size

    if not found:
        return ""
    cpus = f"{found['cpus']} CPUs" if found["cpus"] else ""
    memory = f"{found['memory_mib'] / 1024:.1f} GiB" if found["memory_mib"] else ""
    maker = " ".join(part for part in (found["vendor"], found["product"]) if part)
    lines = [_dotted(maker, cpus, found["cpu"], memory)]
    lines += [_dotted(disk["name"], disk["serial"], human_size(disk["size"])) for disk in found["disks"]]
    for nic in found["nics"]:
        speed = f"{nic['speed_mbps']} Mbit/s" if nic["speed_mbps"] else ""
        lines.append(_dotted(nic["name"], nic["mac"], speed, "no link" if nic["link"] is False else ""))
    if found["bmc_address"]:
        lines.append(f"its BMC says its address is {found['bmc_address']}")
    return "\n".join([*lines, f"inspected {ago(found['at'])}"])


def _rescue(system: Mapping[str, Any] | None) -> str:
    return f"log in as root at {', '.join(system['addresses']) or 'an unknown address'}" if system else ""


def _dotted(*words: str) -> str:
    return " · ".join(word for word in words if word)


def describe(server: Mapping[str, Any]) -> None:
    """Print a server for people."""
    from baremetal.cli.milestones import human_time, parse_time, waiting_for

    paint = Paint.stdout()
    state = paint.state(server["provision_state"]) + ("  in maintenance" if server["maintenance"] else "")
    power = _power(server["power_state"], paint)
    if server["power_seen_at"]:
        power += paint(f"  seen {ago(server['power_seen_at'])}", "dim")
    run = server["run"]
    told = ""
    if run:
        told = f"{run['number']} ({run['verb']}), {waiting_for(server)}"
        if run["deadline"]:
            import time

            left = parse_time(run["deadline"]).timestamp() - time.time()
            told += paint(f"  {human_time(left)} left" if left > 0 else "  overdue", "dim")
        if run["last_sign"]:
            told += f"\nlast sign of life: {run['last_sign']}"
        if run["trouble"]:
            told += f"\n{paint(run['trouble'], 'yellow')}"
    elif server.get("waiting"):
        told = f"none yet: {waiting_for(server)}"
    deployed = ""
    if server["deployed_run"]:
        deployed = f"{server['profile'] or ''} (run {server['deployed_run']})".strip()
    fields(
        [
            ("name", paint(server["name"], "bold")),
            ("id", server["id"]),
            ("state", state),
            ("last error", paint(server["last_error"], "red") if server["last_error"] else ""),
            ("run", told),
            ("deployed", deployed),
            ("systems", _systems(server["systems"])),
            ("power", power),
            ("found on", "yes: deploy will want --force" if server["found_on"] else ""),
            ("allowed", ", ".join(server["allowed"])),
            ("BMC", server["bmc"]["url"]),
            ("MACs", ", ".join(server["macs"])),
            ("boot", f"{server['boot_mode']}, from {server['boot_target']}"),
            ("arch", server["arch"]),
            ("IP", server["ip"]),
            ("UUID", server["uuid"]),
            ("serial", server["serial"]),
            ("parts", _parts(server.get("inventory"))),
            ("rescue", _rescue(server.get("rescue"))),
            ("variables", "\n".join(f"{key} = {value}" for key, value in server["vars"].items())),
            ("tags", " ".join(f"{key}={value}" for key, value in server["tags"].items())),
            ("quirks", ", ".join(server["quirks"])),
            ("enrolled", ago(server["created_at"])),
        ]
    )


def _systems(systems: Sequence[Mapping[str, Any]]) -> str:
    """List them where there is a choice."""
    if len(systems) < 2:
        return ""
    return " · ".join(
        f"{one['name']} (run {one['run']}{', boots' if one['boots'] else ''})" for one in systems
    )


@app.command("set")
def set_(
    name: Name,
    mac: Annotated[
        list[str] | None, typer.Option("--mac", help="Its NICs, all of them; the first boots.")
    ] = None,
    uuid: Annotated[str | None, typer.Option("--uuid", help="SMBIOS UUID.")] = None,
    serial: Annotated[str | None, typer.Option("--serial", help="Serial number.")] = None,
    arch: Annotated[str | None, typer.Option("--arch", metavar="x86_64|arm64", help="Architecture.")] = None,
    bmc: Annotated[str | None, typer.Option("--bmc", metavar="URL", help="Its BMC and user.")] = None,
    password_file: Annotated[
        Path | None, typer.Option("--bmc-password-file", metavar="FILE", help="Holds the BMC's password.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--bmc-password-stdin", help="Read the BMC's password from standard input.")
    ] = False,
    boot_mode: Annotated[
        str | None, typer.Option("--boot-mode", metavar="bios|uefi", help="Firmware mode.")
    ] = None,
    boot_target: Annotated[str | None, typer.Option("--boot-target", metavar="disk|iscsi")] = None,
    boot: Annotated[
        str | None,
        typer.Option("--boot", metavar="SYSTEM", help="Which of its systems a diskless server boots next."),
    ] = None,
    ip: Annotated[
        str | None, typer.Option("--ip", metavar="ADDR/PREFIX", help="Fixed address; '' for DHCP.")
    ] = None,
    var: VarOption = None,
    tag: TagOption = None,
    quirk: Annotated[
        list[str] | None,
        typer.Option("--quirk", metavar="NAME[=VALUE]", help="All of its quirks; '' for none."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change what is known of a server. `--var KEY=` and `--tag KEY=` remove. Nothing is written to the machine."""
    from baremetal.cli.enroll import read_password
    from baremetal.client import Client, server_path

    if bmc and ":" in bmc.partition("://")[2].rpartition("@")[0]:
        raise Invalid(
            "a password in an option can be read by everybody on this host",
            fix="leave it out of the URL and use --bmc-password-file or --bmc-password-stdin",
        )
    password = read_password(password_file, stdin=password_stdin, prompt=None)
    given: dict[str, Any] = {
        "macs": mac or None,
        "uuid": uuid,
        "serial": serial,
        "arch": arch,
        "bmc": bmc,
        "bmc_password": password if bmc or password_file or password_stdin else None,
        "boot_mode": boot_mode,
        "boot_target": boot_target,
        "boot": boot,
        "ip": ip,
        "vars": {key: value or None for key, value in pairs(var, "--var").items()} or None,
        "tags": {key: value or None for key, value in pairs(tag, "--tag").items()} or None,
        "quirks": [word for word in quirk if word] if quirk is not None else None,
    }
    change = {key: value for key, value in given.items() if value is not None}
    if not change:
        raise Invalid("nothing to set", fix="see `baremetal set --help`")
    with Client.find() as client:
        server = client.patch(server_path(name), change)
    if not emit(server, output):
        describe(server)


@app.command()
def forget(
    names: Names,
    force: Annotated[
        bool, typer.Option("--force", help="Even while it is active or something is under way.")
    ] = False,
) -> None:
    """Stop caring for servers: their tokens never work again, their history stays, the machines stay as they are."""
    from baremetal.client import Client, server_path

    with Client.find() as client:
        # One bad name forgets nobody.
        found = [client.get(server_path(name)) for name in names]
        for server in found:
            client.delete(server_path(server["id"]), force=force)
            print(f"{server['name']}: forgotten")


@app.command()
def maintenance(
    switch: Annotated[
        Switch, typer.Argument(metavar="on|off", help="on: nothing is written to it, its clocks stand still.")
    ],
    names: Names,
    output: OutputOption = Output.TABLE,
) -> None:
    """Keep hands off servers, or end that. What is under way waits, and goes on afterwards."""
    from baremetal.client import Client, server_path

    with Client.find() as client:
        found = [client.get(server_path(name)) for name in names]
        servers = [
            client.post(server_path(server["name"], "maintenance"), {"on": switch is Switch.ON})
            for server in found
        ]
    if not emit(servers, output):
        for server in servers:
            print(f"{server['name']}: maintenance {switch}")
