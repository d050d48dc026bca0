"""The command line's entry: which commands there are, and what becomes of an error.

Owns the list of commands with the module each lives in (a module is imported only when its command is asked for, so
that `baremetal --help` is quick and nothing but `serve` loads the service), and the exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from baremetal.errors import BaremetalError


class Entry(NamedTuple):
    """A command before it is loaded: `module` below `baremetal.cli`, and its line in the list."""

    name: str
    module: str
    help: str


SECTIONS: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Servers",
        (
            Entry("enroll", "enroll", "Take a server under care, or a file full of them"),
            Entry("list", "servers", "List servers, or the machines nobody has enrolled"),
            Entry("show", "servers", "Show all that is known of a server"),
            Entry("set", "servers", "Change what is known of a server"),
            Entry("forget", "servers", "Stop caring for a server; the machine stays as it is"),
            Entry("maintenance", "servers", "Keep hands off a server, or end that"),
        ),
    ),
    (
        "Life of a server",
        (
            Entry("deploy", "deploy", "Install an operating system and watch it happen"),
            Entry("release", "verbs", "Take servers back: off, and free for the next deploy"),
            Entry("abort", "verbs", "Give up what is under way on a server"),
            Entry("rescue", "verbs", "Boot servers into a RAM system with sshd, to repair them"),
            Entry("unrescue", "verbs", "Boot rescued servers from their own disks again"),
            Entry("manage", "verbs", "Check a server's BMC"),
            Entry("inspect", "verbs", "Have servers report their processors, memory, disks and NICs"),
            Entry("provide", "verbs", "Offer checked servers for deploys"),
            Entry("adopt", "verbs", "Take over servers as they run, writing nothing"),
        ),
    ),
    (
        "Looking",
        (
            Entry("watch", "watch", "Follow servers live"),
            Entry("events", "watch", "Tell a run of a server from its record"),
            Entry("logs", "watch", "Print what an installer uploaded"),
            Entry("plan", "look", "Say what a deploy would do, step by step; does nothing"),
            Entry("explain", "look", "Say what a machine would boot now, and why"),
            Entry("render", "look", "Print the exact files a server would be served"),
            Entry("doctor", "look", "Look for problems, each with its fix"),
        ),
    ),
    (
        "Hands on",
        (
            Entry("power", "machine", "Switch servers on or off, or ask how they are"),
            Entry("bootdev", "machine", "Set where servers boot next"),
            Entry("ssh", "ssh", "Log in to a deployed server, its host key pinned"),
        ),
    ),
    (
        "The service",
        (
            Entry("serve", "serve", "Run the service"),
            Entry("profile", "profiles", "List, show and check what can be installed"),
            Entry("media", "media", "Import installation media from images and folders"),
            Entry("storage", "storage", "Storage hosts, which keep volumes for diskless servers"),
            Entry("volume", "storage", "Golden images, and the volumes of servers"),
            Entry("token", "tokens", "Make and revoke tokens for the API"),
            Entry("print-config", "print_config", "Write settings for DHCP servers, nginx and systemd"),
            Entry("secrets", "tokens", "Renew the key that seals BMC passwords"),
            Entry("lab", "lab", "Virtual servers to try everything on"),
        ),
    ),
)
ENTRIES = {entry.name: entry for _, entries in SECTIONS for entry in entries}


class LazyGroup(TyperGroup):
    """The commands above, each loaded when it is asked for."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        # Known by name for suggestions; replaced by the real one in get_command.
        self.commands = {
            entry.name: TyperGroup(name=entry.name, short_help=entry.help) for entry in ENTRIES.values()
        }
        self._loaded: dict[str, Any] = {}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = ENTRIES.get(cmd_name)
        if entry is None:
            return None
        if cmd_name not in self._loaded:
            module = import_module(f"baremetal.cli.{entry.module}")
            self._loaded[cmd_name] = typer.main.get_group(module.app).commands[cmd_name]
        return self._loaded[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, entries in SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(entry.name.ljust(12), entry.help) for entry in entries])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        loaded, self._loaded = self._loaded, dict(self.commands)
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._loaded = loaded


app = typer.Typer(
    cls=LazyGroup,
    name="baremetal",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"baremetal {version('baremetal-orchestrator')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Take bare-metal servers from powered off to a proven, running operating system.

    The commands talk to the service that `baremetal serve` runs: the one on this host, or the one that BAREMETAL_URL
    and BAREMETAL_TOKEN name.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    ours = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in ours or bool(os.environ.get("BAREMETAL_DEBUG"))
    words = [word for word in ours if word != "--debug"] + words[len(ours) :]
    try:
        app(words, prog_name="baremetal")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaremetalError as error:
        if debug:
            raise
        from baremetal.cli.failure import exit_code, tell

        tell(error)
        return exit_code(error)
    except BrokenPipeError:
        # Whoever read our output has heard enough; nothing may be written at interpreter exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        if debug:
            raise
        print(f"baremetal: {type(error).__name__}: {error}", file=sys.stderr)
        print("This was not foreseen: please report it, with what --debug shows.", file=sys.stderr)
        return 70
    return 0
