"""`baremetal print-config`: the settings of other programs, written for this installation.

Reads the configuration itself, so that it works before the service has ever run.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baremetal.cli.paint import say
from baremetal.errors import Invalid

if TYPE_CHECKING:
    from baremetal.netboot.dhcp.offer import Host

app = typer.Typer(rich_markup_mode=None)


class Target(StrEnum):
    """What settings can be written for."""

    DNSMASQ = "dnsmasq"
    ISC = "isc"
    KEA = "kea"
    ROUTEROS = "routeros"
    OPENWRT = "openwrt"
    H3C = "h3c"
    SYNOLOGY = "synology"
    TFTP = "tftp"
    NGINX = "nginx"
    SYSTEMD = "systemd"


class ModeOption(StrEnum):
    """How much of DHCP is ours."""

    EXTERNAL = "external"
    PROXY = "proxy"
    FULL = "full"


@app.command("print-config")
def print_config(
    target: Annotated[Target, typer.Argument(help="The program that is to be told.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Read this file instead of the usual two.", dir_okay=False)
    ] = None,
    mode: Annotated[
        ModeOption | None,
        typer.Option("--mode", help="As if [dhcp] mode were this; for dnsmasq and systemd."),
    ] = None,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="With the enrolled servers' fixed addresses; asks the service.")
    ] = False,
) -> None:
    """Print the settings of another program, right for this installation's addresses.

    For a DHCP server of your own (dnsmasq, isc, kea, routeros, openwrt, h3c, synology), for nginx in front of the boot
    app, a script that fills the folder of a TFTP server of your own, or the unit for systemd. docs/dhcp.md says which
    mode is for whom.
    """
    from baremetal.config import load, split_listen
    from baremetal.config.segments import network
    from baremetal.netboot.dhcp.offer import Mode
    from baremetal.service.advice.print_config import Site, text

    settings = load(config)
    wanted = mode or ModeOption(settings.dhcp.mode)
    if target is Target.DNSMASQ and wanted is not ModeOption.EXTERNAL and not settings.dhcp.subnet:
        raise Invalid(
            "dnsmasq's ranges cannot be written: no [[dhcp.subnet]] is set",
            code="BM506",
            fix="add one to config.toml",
        )
    listen = settings.tftp.listen
    print(
        text(
            target.value,
            Site(
                network=network(settings, mode=Mode(mode.value) if mode else None),
                is_placed=bool(settings.dhcp.subnet),
                hosts=_known() if hosts else (),
                data_dir=_data_dir(settings.data_dir, bool(settings.server.data_dir)),
                media_dir=_data_dir(settings.data_dir, bool(settings.server.data_dir)) / "media",
                boot_listen=split_listen(settings.server.boot_listen),
                tftp_port=split_listen(listen)[1] if listen else None,
                control_port=split_listen(settings.server.control_listen)[1],
                executable=_executable(),
                config_file=str(config.absolute()) if config else "",
            ),
        ),
        end="",
    )
    if not settings.dhcp.subnet and target not in (Target.NGINX, Target.SYSTEMD):
        say("no [[dhcp.subnet]] is set: written for the network of this host's own address; check it")


def _data_dir(found: Path, is_set: bool) -> Path:
    """Return where the unit's service keeps its data: not in the home of whoever asks."""
    return found if is_set else Path("/var/lib/baremetal")


def _executable() -> str:
    here = Path(sys.argv[0])
    is_ours = here.name in ("baremetal", "bml") and here.exists()
    return str(here.absolute()) if is_ours else "/opt/baremetal/bin/baremetal"


def _known() -> tuple[Host, ...]:
    from baremetal.client import Client
    from baremetal.netboot.dhcp.offer import Host

    with Client.find() as client:
        servers = client.get("/v1/servers")["servers"]
    return tuple(
        Host(server["name"], server["macs"][0], server["ip"].partition("/")[0])
        for server in servers
        if server.get("ip") and server.get("macs")
    )
