"""`baremetal lab`: virtual servers with BMCs that speak IPMI, and the demo of the whole job on one of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from baremetal.cli.options import Output, OutputOption
from baremetal.cli.output import emit, table
from baremetal.cli.paint import Paint, say
from baremetal.errors import BaremetalError, Conflict, Unavailable, Unknown

app = typer.Typer(rich_markup_mode=None)
lab = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Virtual servers to try everything on.")
app.add_typer(lab, name="lab")

# QEMU's own network: the guest's name for this host's loopback.
_GUEST_HOST = "10.0.2.2"
Folder = Annotated[
    Path | None,
    typer.Option("--folder", metavar="DIR", help="Where the rack lives; below the home by default."),
]


def rack_folder(given: Path | None) -> Path:
    """Return where the rack of this user is."""
    if given is not None:
        return given
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "baremetal" / "rack"


@lab.command()
def up(
    servers: Annotated[int, typer.Option("--servers", "-n", min=1, max=64, help="How many.")] = 1,
    boot_mode: Annotated[
        str, typer.Option("--boot-mode", metavar="bios|uefi|mixed", help="Their firmware.")
    ] = "bios",
    boot_port: Annotated[int, typer.Option("--boot-port", help="The boot app's port on this host.")] = 8080,
    disk_mib: Annotated[int, typer.Option("--disk-mib", min=128, help="Size of their disks.")] = 4096,
    diskless: Annotated[bool, typer.Option("--diskless", help="Without disks, to boot from iSCSI.")] = False,
    no_enroll: Annotated[bool, typer.Option("--no-enroll", help="Do not tell the service of them.")] = False,
    folder: Folder = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start virtual servers, powered off, with BMCs on loopback, and enrol them with the running service.

    They reach the boot app of this host as http://10.0.2.2:PORT, so the service needs that as its public_url (or none).
    """
    from baremetal.lab.rack import Rack

    rack = Rack(rack_folder(folder))
    found = rack.up(
        servers=servers,
        boot_mode=boot_mode,
        boot_url=f"http://{_GUEST_HOST}:{boot_port}/boot.ipxe",
        disk_mib=0 if diskless else disk_mib,
    )
    taken: dict[str, str] = {}
    if not no_enroll:
        try:
            taken = _enrol(rack, found)
        except Unavailable as error:
            say(f"Not enrolled: {error.what}. The servers are up; run this again once the service is.")
    _report(rack, output, taken)


def _enrol(rack: Any, found: list[Any]) -> dict[str, str]:
    from baremetal.client import Client, server_path

    taken: dict[str, str] = {}
    with Client.find() as client:
        if urlsplit(client.url).hostname not in ("127.0.0.1", "localhost", "::1"):
            say(
                f"The service at {client.url} is elsewhere; it cannot reach BMCs on this host's loopback. Not enrolled."
            )
            return taken
        for server in found:
            try:
                known = client.get(server_path(server.name))
            except Unknown:
                pass
            else:
                if server.mac not in known["macs"]:
                    raise Conflict(
                        f"another server is called {server.name} already",
                        fix=f"baremetal forget {server.name}",
                    )
                taken[server.name] = known["provision_state"]
                continue
            body = {
                "name": server.name,
                "bmc": server.bmc_url,
                "bmc_password": rack.password,
                "macs": [server.mac],
                "uuid": str(server.uuid),
                "serial": server.serial,
                "boot_mode": str(server.boot_mode),
                "vars": {"ssh_address": server.ssh_address},
                "tags": {"lab": "rack"},
            }
            taken[server.name] = client.post("/v1/servers", body)["provision_state"]
    return taken


@lab.command()
def down(
    keep: Annotated[bool, typer.Option("--keep", help="Keep their disks for the next `lab up`.")] = False,
    folder: Folder = None,
) -> None:
    """End the virtual servers, remove their disks, and have the service forget them."""
    from baremetal.client import Client, server_path
    from baremetal.lab.rack import Rack

    rack = Rack(rack_folder(folder))
    found = rack.servers
    if not keep:
        try:
            with Client.find() as client:
                for server in found:
                    try:
                        known = client.get(server_path(server.name))
                    except Unknown:
                        continue
                    if server.mac in known["macs"]:
                        client.delete(server_path(known["id"]), force=True)
        except BaremetalError as error:
            say(f"The service was not told: {error.what}")
    rack.down(keep=keep)
    print(f"{len(found)} virtual server{'s' if len(found) != 1 else ''} ended")


@lab.command()
def status(folder: Folder = None, output: OutputOption = Output.TABLE) -> None:
    """Say how the virtual servers are."""
    from baremetal.lab.rack import Rack

    _report(Rack(rack_folder(folder)), output, {})


def _report(rack: Any, output: Output, taken: dict[str, str]) -> None:
    rows = [
        {
            "name": one.server.name,
            "power": one.power,
            "boot_mode": str(one.server.boot_mode),
            "bmc": one.server.bmc_url,
            "mac": one.server.mac,
            "ssh": one.server.ssh_address,
            "console": str(one.server.serial_log),
            "boots": one.boots,
            "error": one.error,
            "state": taken.get(one.server.name),
        }
        for one in rack.status()
    ]
    if emit(rows, output):
        return
    if not rows:
        say("There is no rack; `baremetal lab up` makes one")
        return
    paint = Paint.stdout()
    table(
        rows,
        [
            ("NAME", lambda r: r["name"]),
            ("POWER", lambda r: paint(r["power"], "green") if r["power"] == "on" else r["power"]),
            ("FIRMWARE", lambda r: r["boot_mode"]),
            ("BMC", lambda r: r["bmc"]),
            ("MAC", lambda r: r["mac"]),
            ("SSH", lambda r: r["ssh"]),
            *([("STATE", lambda r: r["state"] or "")] if taken else []),
            ("CONSOLE", lambda r: r["error"] or r["console"]),
        ],
    )
    say(f"BMC password in {rack.directory / 'bmc-password'}")


@lab.command()
def demo(
    boot_mode: Annotated[
        str, typer.Option("--boot-mode", metavar="bios|uefi", help="The server's firmware.")
    ] = "bios",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep it all running until Ctrl-C, to play with.")
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="A machine simulated at the packet level instead of QEMU.")
    ] = False,
) -> None:
    """Deploy an operating system to a virtual server, from nothing, and clean up; needs no root and asks nothing."""
    from baremetal.cli.demo import run

    run(boot_mode=boot_mode, keep=keep, simulated=simulated)
