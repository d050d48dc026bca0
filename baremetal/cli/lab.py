"""`baremetal lab`: virtual servers with BMCs that speak IPMI, and the demo of the whole job on one of them."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)
lab = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Virtual servers to try everything on.")
app.add_typer(lab, name="lab")


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
