"""The running service notices what others do to a server's power, and leaves it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.drivers import sim as board
from tests.integration.conftest import Runner, connect, prepare


@pytest.mark.timeout(120)
def test_somebody_presses_the_button(tmp_path: Path) -> None:
    settings = prepare(tmp_path)
    text = settings.read_text()
    assert "observe_interval_s = 0\n" in text
    settings.write_text(text.replace("observe_interval_s = 0\n", "observe_interval_s = 0.6\n"))
    runner = Runner(settings)
    runner.begin()
    service = connect(tmp_path, runner)
    try:
        service.enrol()
        service.wait("r1", lambda server: server["power_state"] == "off")
        service.chassis["r1"].is_on = True
        service.wait("r1", lambda server: server["power_state"] == "on")
        service.chassis["r1"].is_on = False
        service.wait("r1", lambda server: server["power_state"] == "off")
        assert service.chassis["r1"].log == []
        notes = [event["note"] for event in service.get("/v1/servers/r1/events")["events"]]
        assert [note for note in notes if note.startswith("power")] == ["power off", "power on", "power off"]
        metrics = service.api.get("/metrics").text
        assert 'baremetal_bmc_conversations_total{kind="sim",outcome="ok"}' in metrics
        assert "baremetal_sweeps_total" in metrics
    finally:
        service.api.close()
        service.machine.close()
        runner.end()
        board.unplug("r1")
