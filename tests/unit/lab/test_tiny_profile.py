"""The profile that ships for the tiny system boots it as its builder means it to be booted."""

from __future__ import annotations

from pathlib import Path

from baremetal.config import load
from baremetal.lab.tiny.build import KERNEL_ARGS


def test_shipped_profile_has_the_builders_kernel_arguments() -> None:
    tiny = load(Path(__file__).parents[3] / "config.toml").profile["tiny"]
    assert f"console={tiny.vars['console']} {tiny.kernel_args}" == KERNEL_ARGS
