"""`baremetal storage` and `baremetal volume`: where volumes are kept, golden images, and what servers boot from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from baremetal.cli.options import Output, OutputOption
from baremetal.cli.output import ago, emit, in_bytes, table
from baremetal.cli.paint import say

app = typer.Typer(rich_markup_mode=None)
storage = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Hosts that keep volumes for servers."
)
app.add_typer(storage, name="storage")
volume = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Golden images, and servers' volumes.")
app.add_typer(volume, name="volume")

_WORK_S = 3700.0
Name = Annotated[str, typer.Argument(metavar="NAME")]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="As the next version of an image that is there: clones are made of it."),
]
Storage = Annotated[
    str, typer.Option("--storage", metavar="NAME", help="Which one, where there are several.")
]


@storage.command()
def add(
    name: Name,
    kind: Annotated[str, typer.Option("--kind", metavar="tgt|lio|external", help="Who serves its targets.")],
    portal: Annotated[
        str, typer.Option("--portal", metavar="ADDRESS[:PORT]", help="Where servers log in; an IP address.")
    ],
    base_iqn: Annotated[
        str, typer.Option("--base-iqn", metavar="IQN", help="As in iqn.2026-01.org.example.")
    ],
    address: Annotated[
        str, typer.Option("--address", metavar="HOST", help="By SSH; without it, this machine itself.")
    ] = "",
    ssh_user: Annotated[str | None, typer.Option("--ssh-user", metavar="USER")] = None,
    ssh_port: Annotated[int | None, typer.Option("--ssh-port", metavar="PORT")] = None,
    host_key: Annotated[
        str,
        typer.Option(
            "--host-key",
            metavar="'TYPE KEY'",
            help="Its public host key; without it, the one it shows.",
        ),
    ] = "",
    folder: Annotated[str, typer.Option("--folder", metavar="DIR", help="Keep volumes as files in it.")] = "",
    volume_group: Annotated[
        str, typer.Option("--volume-group", metavar="VG", help="Keep volumes as logical volumes in it.")
    ] = "",
    thin_pool: Annotated[str, typer.Option("--thin-pool", metavar="LV")] = "",
    first_lun: Annotated[
        int | None, typer.Option("--first-lun", metavar="N", help="The number of its first LUN.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target-name", metavar="TEMPLATE", help="As in {base}:{server}.{system}.")
    ] = None,
    initiator: Annotated[
        str | None, typer.Option("--initiator-name", metavar="TEMPLATE", help="As in {base}:{server}.")
    ] = None,
    chap: Annotated[
        bool | None, typer.Option("--chap/--no-chap", help="Whether servers prove who they are.")
    ] = None,
    mutual_chap: Annotated[
        bool | None, typer.Option("--mutual-chap", help="Targets prove who they are too.")
    ] = None,
    socket: Annotated[str, typer.Option("--socket", metavar="PATH", help="tgtd's control socket.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Add a storage host. It is looked at first; nothing is changed there."""
    from baremetal.client import Client

    body = {
        "name": name,
        "kind": kind,
        "portal": portal,
        "base_iqn": base_iqn,
        "address": address,
        "ssh_user": ssh_user,
        "ssh_port": ssh_port,
        "host_key": host_key,
        "folder": folder,
        "volume_group": volume_group,
        "thin_pool": thin_pool,
        "first_lun": first_lun,
        "target": target,
        "initiator": initiator,
        "chap": chap,
        "mutual_chap": mutual_chap,
        "socket": socket,
    }
    with Client.find() as client:
        added = client.post(
            "/v1/storage", {key: value for key, value in body.items() if value not in (None, "")}
        )
    if not emit(added, output):
        print(f"{name}: added, {_described(added)}")
        if added["fingerprint"] and not host_key:
            say(f"Pinned is the host key that it showed, {added['fingerprint']}: compare it with its own")


@storage.command("list")
def list_(output: OutputOption = Output.TABLE) -> None:
    """List the storage hosts."""
    from baremetal.client import Client

    with Client.find() as client:
        found = client.get("/v1/storage")["storage"]
    if not emit(found, output):
        table(
            found,
            [
                ("NAME", lambda s: s["name"]),
                ("KIND", lambda s: s["kind"]),
                ("WHERE", lambda s: s["place"]),
                ("PORTAL", lambda s: s["portal"]),
                ("KEEPS", lambda s: s["keeps"]),
                ("FROM", lambda s: "configuration" if s["configured"] else "storage add"),
            ],
        )


@storage.command()
def show(name: Name, output: OutputOption = Output.TABLE) -> None:
    """Describe a storage host, and look how it is."""
    from baremetal.client import Client

    with Client.find() as client:
        found = client.get(f"/v1/storage/{quote(name, safe='')}")
    if emit(found, output):
        return
    for key in ("name", "kind", "place", "portal", "base_iqn", "keeps", "target", "initiator"):
        print(f"{key.replace('_', ' '):<12} {found.get(key) or '-'}")
    if found.get("fingerprint"):
        print(f"{'host key':<12} {found['fingerprint']}")
    print(f"{'CHAP':<12} {'mutual' if found.get('mutual_chap') else 'yes' if found.get('chap') else 'no'}")
    if problem := found.get("problem"):
        say(f"{problem['code']} {problem['message']}")
        raise typer.Exit(5)
    print(f"{'seen':<12} {_described(found)}")
    if lost := found.get("not_served"):
        print(f"{'not served':<12} {', '.join(lost)}: baremetal storage restore {name}")


@storage.command()
def steps(
    name: Name,
    server: Annotated[str, typer.Argument(metavar="SERVER")],
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="As in 20G.")] = "",
    system: Annotated[
        str, typer.Option("--system", metavar="NAME", help="Which of several systems of the server.")
    ] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what to do by hand on an array for a server: names, number, account. Shows the server's secret."""
    from baremetal.client import Client

    with Client.find() as client:
        body = {"server": server, "size": size, "system": system}
        found = client.post(f"/v1/storage/{quote(name, safe='')}/steps", body)["steps"]
    if not emit(found, output):
        for number, step in enumerate(found, 1):
            print(f"{number}. {step}")


@storage.command()
def restore(name: Name) -> None:
    """Serve every volume again, after a storage host was restarted and has forgotten."""
    from baremetal.client import Client

    with Client.find() as client:
        done = client.post(f"/v1/storage/{quote(name, safe='')}/restore", answer_s=_WORK_S)
    for server in done["served"]:
        print(f"{server}: served again")
    for server, why in done["failed"].items():
        say(f"{server}: {why}")
    if done["failed"]:
        raise typer.Exit(5)
    if not done["served"]:
        say("Everything was served already")


@storage.command()
def remove(name: Name) -> None:
    """Forget a storage host that keeps nothing of ours; nothing is changed there."""
    from baremetal.client import Client

    with Client.find() as client:
        client.delete(f"/v1/storage/{quote(name, safe='')}")
    print(f"{name}: removed")


@volume.command("list")
def volumes(output: OutputOption = Output.TABLE) -> None:
    """List golden images and volumes, with what their storage hosts say of them."""
    from baremetal.client import Client

    with Client.find() as client:
        found = client.get("/v1/volumes")["volumes"]
    if not emit(found, output):
        table(
            found,
            [
                ("NAME", lambda v: v["name"]),
                ("STORAGE", lambda v: v["storage"]),
                ("ROLE", lambda v: v["role"]),
                ("SERVER", lambda v: f"{v['server']}, run {v['run']}" if v["server"] else "-"),
                ("SIZE", lambda v: in_bytes(v["size"])),
                ("USED", lambda v: in_bytes(v["used"]) if v["used"] is not None else "?"),
                ("CLONE OF", lambda v: v["origin"] or "-"),
                ("MADE", lambda v: ago(v["created_at"])),
                ("", lambda v: v["problem"] or ("" if v["ready"] else "not whole")),
            ],
        )


@volume.command("import")
def import_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the golden image is to be called.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Raw or qcow2, on the service's machine.")],
    storage: Storage = "",
    replace: Replace = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a golden image of a disk image."""
    _golden({"name": name, "path": str(file.absolute()), "storage": storage, "replace": replace}, output)


@volume.command()
def promote(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Whose volume; it must be off.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the golden image is to be called.")],
    replace: Replace = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a golden image of what a server's volume holds now."""
    _golden({"name": name, "server": server, "replace": replace}, output)


@volume.command()
def reset(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Whose system; it must be active.")],
) -> None:
    """Bring a server back to its golden image: a fresh clone; the old volume goes once that one is proven."""
    from baremetal.client import Client, server_path

    with Client.find() as client:
        answer = client.post(server_path(server, "rebuild"), {"method": "clone"})
    print(f"{server}: run {answer['run']} makes a fresh clone; follow it with: baremetal watch {server}")


@volume.command()
def delete(name: Annotated[str, typer.Argument(metavar="NAME")], storage: Storage = "") -> None:
    """Delete a golden image that nobody is a clone of, or what a server that is gone has left."""
    from baremetal.client import Client

    query = f"?{urlencode({'storage': storage})}" if storage else ""
    with Client.find() as client:
        client.delete(f"/v1/volumes/{quote(name, safe='')}{query}")
    print(f"{name}: deleted")


def _golden(body: dict[str, Any], output: Output) -> None:
    from baremetal.client import Client

    with Client.find() as client:
        made = client.post("/v1/volumes", body, answer_s=_WORK_S)
    if not emit(made, output):
        print(
            f"{made['name'].removeprefix('golden-')}: golden image of {in_bytes(made['size'])} on {made['storage']}"
        )


def _described(found: dict[str, Any]) -> str:
    if "software" not in found:
        return "volumes are made by hand"
    room = f"{in_bytes(found['free'])} of {in_bytes(found['size'])} free"
    return f"{found['software']}, {room}, clones by {found['clones']}"
