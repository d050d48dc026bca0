"""The entry of both console scripts, `baremetal` and `bml`. Imports nothing before it is called."""

from __future__ import annotations


def main() -> int | None:
    """Run the command line and return its exit code."""
    from baremetal.cli.app import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
