"""`baremetal serve`: the only command that loads the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from baremetal import garbage
from baremetal.cli.paint import say

app = typer.Typer(rich_markup_mode=None)


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="Read this file instead of the usual two.", dir_okay=False)
    ] = None,
) -> None:
    """Run the service: the boot app for machines and the control app for operators, until SIGTERM or Ctrl-C."""
    with garbage.loading():
        from baremetal.config import load
        from baremetal.serving import serve as run

    settings = load(config)

    def ready(boot: str, control: str) -> None:
        say(f"boot app     {boot}   machines netboot from {boot}/boot.ipxe")
        say(f"control app  {control}   token in {settings.token_file}")

    run(settings, ready=ready)


@app.callback()
def _group() -> None:
    """Keep this a group: a single command would be folded into it."""
