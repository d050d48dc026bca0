"""`baremetal enroll`: one server from options, or many from a file; waits until their BMCs have answered."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from baremetal.cli.options import Output, OutputOption, TagOption, VarOption, pairs
from baremetal.cli.paint import Paint, is_terminal, say
from baremetal.cli.strangers import find_strangers, read_strangers
from baremetal.errors import Invalid

app = typer.Typer(rich_markup_mode=None)
PASSWORD = "BAREMETAL_BMC_PASSWORD"
_SETTLED_S = 90.0
_MOVING = {"verifying", "manageable"}


@app.callback()
def _group() -> None:
    """Keep this a group: a single command would be folded into it."""


@app.command()
def enroll(
    name: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="What to call it (one server).")
    ] = None,
    bmc: Annotated[
        list[str] | None,
        typer.Option(
            "--bmc",
            metavar="URL",
            help="Its BMC, as in ipmi://admin@10.0.0.1. With several --from-unknown once for each, in their order.",
        ),
    ] = None,
    mac: Annotated[
        list[str] | None, typer.Option("--mac", metavar="MAC", help="Its NICs; the first is the boot NIC.")
    ] = None,
    boot_mode: Annotated[
        str, typer.Option("--boot-mode", metavar="bios|uefi", help="Its firmware's mode.")
    ] = "",
    arch: Annotated[str, typer.Option("--arch", metavar="x86_64|arm64", help="Its architecture.")] = "",
    ip: Annotated[
        str, typer.Option("--ip", metavar="ADDR/PREFIX", help="Its fixed address; else DHCP.")
    ] = "",
    boot_target: Annotated[
        str, typer.Option("--boot-target", metavar="disk|iscsi", help="Where its system lives.")
    ] = "",
    uuid: Annotated[
        str, typer.Option("--uuid", help="Its SMBIOS UUID: checked before a disk is touched.")
    ] = "",
    serial: Annotated[str, typer.Option("--serial", help="Its serial number: checked likewise.")] = "",
    var: VarOption = None,
    tag: TagOption = None,
    quirk: Annotated[
        list[str] | None, typer.Option("--quirk", metavar="NAME[=VALUE]", help="A deviation of its vendor.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--bmc-password-file", metavar="FILE", help="Holds the BMC's password.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--bmc-password-stdin", help="Read the BMC's password from standard input.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not ask the BMC; stay in enroll.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="It runs already: end in active, nothing is ever written.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="CSV|YAML", help="Many servers: all or none.")
    ] = None,
    from_unknown: Annotated[
        list[str] | None,
        typer.Option(
            "--from-unknown",
            metavar="[NAME=]MAC …",
            help="Take what strangers told when they asked to boot; several: all or none. "
            "One without a name is called after its MAC: server-525400123456.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take servers under care: check their BMCs, and make them available. Writes nothing to the machines.

    The BMC's password comes from a prompt, --bmc-password-file, --bmc-password-stdin or BAREMETAL_BMC_PASSWORD. A file
    has a column (CSV) or key (YAML) for each option, `bmc_password` among them; other columns are variables.
    """
    from baremetal.client import Client

    names, bmcs, macs = name or [], bmc or [], mac or []
    if file is not None and (names or bmcs or macs or from_unknown):
        raise Invalid("--file names the servers itself: leave NAME, --bmc, --mac and --from-unknown out")
    strangers = read_strangers(from_unknown, names) if from_unknown else []
    if strangers:
        if len(bmcs) != len(strangers):
            raise Invalid(
                f"{len(strangers)} from --from-unknown, and {len(bmcs)} --bmc",
                fix="give --bmc once for each machine, in the same order",
            )
        if len(strangers) > 1 and (macs or ip or uuid or serial):
            raise Invalid(
                "--mac, --ip, --uuid and --serial belong to one machine, and several are named",
                fix="enroll them one by one, or use --file",
            )
    elif file is None and not (names and bmcs and macs):
        raise Invalid("NAME, --bmc and --mac are needed, or --file")
    elif len(names) > 1 or len(bmcs) > 1:
        raise Invalid("one server is enrolled by its options", fix="use --file for several")
    for url in bmcs:
        if "@" in url and ":" in url.partition("://")[2].rpartition("@")[0]:
            raise Invalid(
                "a password in an option can be read by everybody on this host",
                fix=f"leave it out of the URL and answer the prompt, or use --bmc-password-file or {PASSWORD}",
            )
    common: dict[str, Any] = {
        "boot_mode": boot_mode,
        "boot_target": boot_target,
        "ip": ip,
        "vars": pairs(var, "--var"),
        "tags": pairs(tag, "--tag"),
        "quirks": quirk or [],
        "verify": not no_verify,
        "adopt": adopt,
    }
    given = {"arch": arch, "uuid": uuid, "serial": serial}
    with Client.find() as client:
        if file is not None:
            secret = read_password(password_file, stdin=password_stdin, prompt=None)
            text, form = read_roster(file, secret)
            servers = client.post("/v1/servers", text=text, form=form)["servers"]
        elif strangers:
            told = find_strangers(strangers, client.get("/v1/unknown")["unknown"])
            rows = [
                {
                    **common,
                    **{key: given[key] or seen[key] or "" for key in given},
                    "name": stranger.name,
                    "bmc": url,
                    "macs": list(dict.fromkeys([stranger.mac, *macs])),
                }
                for stranger, url, seen in zip(strangers, bmcs, told, strict=True)
            ]
            of = bmcs[0] if len(bmcs) == 1 else f"all {len(bmcs)} BMCs"
            secret = read_password(password_file, stdin=password_stdin, prompt=f"Password of {of}: ")
            if len(rows) > 1:
                for row in rows:
                    say(f"{row['name']}: {row['macs'][0]}, BMC {row['bmc']}")
            servers = _enrol(client, [row | {"bmc_password": secret} for row in rows])
        else:
            secret = read_password(password_file, stdin=password_stdin, prompt=f"Password of {bmcs[0]}: ")
            row = {**common, **given, "name": names[0], "bmc": bmcs[0], "macs": macs}
            servers = _enrol(client, [row | {"bmc_password": secret}])
        settled = _settle(client, [server["name"] for server in servers])
    _report(settled, output)


def read_password(file: Path | None, *, stdin: bool, prompt: str | None) -> str | None:
    """Read a BMC password from where it was said to be; prompt on a terminal. Raises Invalid, never shows it."""
    if file is not None:
        try:
            return file.read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"the password file {file} cannot be read", seen=str(error)) from error
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if prompt is None:
        return None
    if not sys.stdin.isatty():
        raise Invalid(
            "the BMC's password is missing",
            fix=f"use --bmc-password-file, --bmc-password-stdin or {PASSWORD}, or run this on a terminal",
        )
    import getpass

    return getpass.getpass(prompt)


def read_roster(file: Path, common: str | None) -> tuple[str, str]:
    """Read a file of servers; rows without a password of their own get the common one. Returns text and its form."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("cannot be read", file=str(file), seen=str(error)) from error
    if file.suffix.lower() in (".yaml", ".yml"):
        return (_yaml_with(text, common) if common else text), "application/yaml"
    if file.suffix.lower() != ".csv":
        raise Invalid("neither .csv nor .yaml", file=str(file))
    return (_csv_with(text, common) if common else text), "text/csv"


def _csv_with(text: str, common: str) -> str:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = list(reader.fieldnames or ())
    if "bmc_password" not in columns:
        columns.append("bmc_password")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    for row in reader:
        if None in row:
            return text  # the service says which line has too many columns
        if any((value or "").strip() for value in row.values()):
            writer.writerow(row | {"bmc_password": row.get("bmc_password") or common})
    return out.getvalue()


def _yaml_with(text: str, common: str) -> str:
    import yaml

    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # the service says on which line it is broken
    rows = given.get("servers") if isinstance(given, dict) else given
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            row.setdefault("bmc_password", common)
    return yaml.safe_dump(given, sort_keys=False)


def _enrol(client: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask for one server, or for several: all or none. The error for a single one is its own, not a row's."""
    if len(rows) == 1:
        return [client.post("/v1/servers", rows[0])]
    taken: list[dict[str, Any]] = client.post("/v1/servers", {"servers": rows})["servers"]
    return taken


def _settle(client: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Wait until the BMCs have answered, or have not."""
    talk = is_terminal(sys.stderr)
    began, wanted = time.monotonic(), set(names)
    while True:
        found = {s["name"]: s for s in client.get("/v1/servers")["servers"] if s["name"] in wanted}
        moving = [name for name, server in found.items() if server["provision_state"] in _MOVING]
        if not moving or time.monotonic() - began > _SETTLED_S:
            break
        if talk:
            what = moving[0] if len(moving) == 1 else f"{len(moving)} servers"
            print(f"\rasking the BMC of {what} …\x1b[K", end="", file=sys.stderr, flush=True)
        time.sleep(0.2)
    if talk:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return [found[name] for name in names if name in found]


def _report(servers: list[dict[str, Any]], output: Output) -> None:
    from baremetal.cli.failure import tell
    from baremetal.cli.output import emit
    from baremetal.errors import BaremetalError, BmcError, BmcErrorKind

    paint = Paint.stdout()
    bad: list[BaremetalError] = []
    if not emit(servers, output):
        for server in servers:
            power = f", power {server['power_state']}" if server["power_state"] != "unknown" else ""
            print(f"{server['name']}: {paint.state(server['provision_state'])}{power}")
            if server["found_on"] and server["provision_state"] == "available":
                say("  it is powered on and was never deployed from here: `deploy` will want --force")
    for server in servers:
        text = server["last_error"]
        if text:
            from baremetal.cli.advice import next_step
            from baremetal.cli.milestones import split_code

            code, what = split_code(text)
            error = BmcError(what, BmcErrorKind.PROTOCOL, code=code or None, server=server["name"])
            error.fix = next_step(code, server["name"]) or None
            tell(error)
            bad.append(error)
    if bad:
        raise typer.Exit(5)
    if any(server["provision_state"] in _MOVING for server in servers):
        say("Some BMCs have not answered yet; it goes on: baremetal list")
        raise typer.Exit(6)
