"""Puts the content that operators edit, kept at the top of the repository, into the wheel as package data.

A plain `force-include` would do the same for an editable install, and leave copies there that grow stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CONTENT = (
    "config.toml",
    "kickstart",
    "preseed",
    "autoinstall",
    "autoyast",
    "esxi",
    "windows",
    "ignition",
    "image",
    "ramdisk",
    "docs/evidence/profiles.json",
)


class ContentHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"].update(
                {name: f"baremetal/_data/{name}" for name in CONTENT if (Path(self.root) / name).exists()}
            )
