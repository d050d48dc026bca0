"""The entry of both console scripts, `baremetal` and `bml`.

Imports nothing at the top, on purpose: a forkserver child imports this module again before it does anything
else, and with the web stack in it fifty children took 42 s to start instead of 0.6.
"""

from __future__ import annotations


def main() -> int | None:
    """Run the command line and return its exit code."""
    from baremetal.cli.app import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
