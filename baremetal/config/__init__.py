"""The settings of the service: which there are, what they default to, and where each came from.

Owns the names of `config.toml`, the order of its sources and the wording when something in them is wrong: every
complaint names the file and line (or the environment variable) and the nearest key that exists. Knows the core's
values and no floor between: `wiring` turns these settings into the engine's, the store's and netboot's own.

Later sources win, key by key: defaults; the profiles shipped with the program; `/etc/baremetal/config.toml`;
`./config.toml`; the environment (`BAREMETAL_SERVER__BOOT_LISTEN=…`). `--config FILE` takes the place of both files.
"""

from __future__ import annotations

from baremetal.config.load import load
from baremetal.config.settings import (
    BmcConfig,
    Config,
    DeployConfig,
    ProfileConfig,
    SecurityConfig,
    ServerConfig,
    is_loopback,
    split_listen,
)

__all__ = [
    "BmcConfig",
    "Config",
    "DeployConfig",
    "ProfileConfig",
    "SecurityConfig",
    "ServerConfig",
    "is_loopback",
    "load",
    "split_listen",
]
