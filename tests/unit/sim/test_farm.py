"""The farm process: it serves, tells what it saw, and ends with its parent's pipe."""

from __future__ import annotations

import shutil
import subprocess
import time

import pytest

from baremetal.sim.farm import FarmProcess


def test_a_farm_serves_and_tells_what_it_saw() -> None:
    if shutil.which("ipmitool") is None:
        pytest.skip("ipmitool is not installed")
    with FarmProcess(3, {"reply_delay_s": 0.01, "suites": [17]}) as farm:
        assert len(set(farm.ports)) == 3
        before = time.monotonic()
        place = [
            "-I",
            "lanplus",
            "-H",
            "127.0.0.1",
            "-p",
            str(farm.ports[1]),
            "-U",
            "admin",
            "-P",
            "password",
        ]
        subprocess.run(["ipmitool", *place, "power", "on"], check=True, capture_output=True, timeout=30)
        seen = farm.stats()
        assert [each["is_on"] for each in seen] == [False, True, False]
        assert seen[1]["requests"]["chassis-control"] == 1
        assert seen[1]["power"][0]["action"] == 1
        assert before < seen[1]["power"][0]["at"] < time.monotonic()
        assert seen[0]["requests"] == {}


def test_a_knob_that_is_not_there_ends_the_farm() -> None:
    farm = FarmProcess(1, {"nonsense": 1})
    with pytest.raises(RuntimeError, match="ended with 1"):
        farm.__enter__()
    farm.__exit__(None, None, None)
