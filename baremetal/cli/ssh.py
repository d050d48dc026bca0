"""`baremetal ssh`: the ssh client of this host, told where the server is and which host keys it must show."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from baremetal.cli.options import Name
from baremetal.errors import Invalid, LoginError

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep this a group: a single command would be folded into it."""


@app.command()
def ssh(
    name: Name,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="Run this instead.")] = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", "-i", metavar="FILE", help="Private key to log in with.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", "-l", help="Log in as this user.")] = None,
) -> None:
    """Log in to what was deployed, by ssh, with the host keys that its installer reported.

    Your own key must be among the operators' (`ssh_authorized_keys`) of the deploy. Exit code: that of ssh.
    """
    from baremetal.client import Client, server_path

    with Client.find() as client:
        place = client.get(server_path(name, "ssh"))
    raise typer.Exit(log_in(name, place, command or (), identity=identity, user=user).returncode)


def log_in(
    name: str,
    place: dict[str, Any],
    command: Sequence[str] = (),
    *,
    identity: Path | None = None,
    user: str | None = None,
    capture: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ssh with a known_hosts of its own, which holds the pinned keys only. Raises LoginError without them."""
    program = shutil.which("ssh")
    if program is None:
        raise Invalid("there is no ssh client on this host", fix="apt-get install openssh-client")
    keys = [key for key in place["host_keys"] if len(key.split()) >= 2]
    if not keys:
        raise LoginError(
            f"{name}: its installer reported no host keys, so there is nothing to trust",
            transient=False,
            fix=f"log in by hand to {place['host']} port {place['port']}, or deploy it anew",
        )
    with tempfile.TemporaryDirectory(prefix="baremetal-ssh-") as folder:
        known = Path(folder) / "known_hosts"
        known.write_text("".join(f"{name} {' '.join(key.split()[:2])}\n" for key in keys))
        words = [
            program,
            *("-o", f"UserKnownHostsFile={known}"),
            *("-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=yes"),
            *("-o", f"HostKeyAlias={name}"),
            *("-o", "ConnectTimeout=15"),
            *("-p", str(place["port"])),
            *("-l", user or place["user"]),
        ]
        if identity is not None:
            words += ["-i", str(identity), "-o", "IdentitiesOnly=yes"]
        if capture:
            words += ["-o", "BatchMode=yes"]
        # the address is what an operator or a machine said: after this sign it can be no option
        words += ["--", place["host"], *command]
        return subprocess.run(
            words, check=False, text=True, capture_output=capture, timeout=60 if capture else None
        )
