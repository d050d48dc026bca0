"""Installers that cannot ask for go, over real sockets: their boot script is served once, and that is the go (I3)."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.conftest import MAC, Service, running

BOOT_CFG = "bootstate=0\nkernel=/b.b00\nkernelopt=runweasel\nmodules=/jumpstrt.gz --- /s.v00\n"
NEEDED = {"vars": {"esxi_disk": "mpx.vmhba0:C0:T0:L0"}}


def lay_out(folder: Path) -> None:
    for file, text in (("boot.cfg", BOOT_CFG), ("mboot.c32", "x"), ("efi/boot/bootx64.efi", "x")):
        path = folder / "data/media/esxi8" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def window(service: Service) -> None:
    service.post("/v1/servers/r1/deploy", {"profile": "esxi8", **NEEDED})
    service.wait("r1", lambda server: (server["run"] or {}).get("step") == "script")


def test_esxi_on_its_whole_way(tmp_path: Path) -> None:
    """S0-11: its boot.cfg, from deploy to active."""
    with running(tmp_path) as service:
        lay_out(tmp_path)
        service.enrol()
        plan = service.post("/v1/servers/r1/plan", {"profile": "esxi8", **NEEDED}, 200)
        assert any("this installer cannot ask for it" in step["what"] for step in plan["steps"])
        window(service)
        refused = service.machine.get(f"/grub/mac/{MAC}.cfg").text
        assert "could not be rendered" in refused, "only iPXE can start it"
        assert service.get("/v1/servers/r1")["run"]["step"] == "script", "what is refused is no go"
        script = service.script()
        found = re.search(r" -c (\S+)/boot\.cfg ", script)
        assert found, script
        server = service.get("/v1/servers/r1")
        assert (server["run"]["step"], server["run"]["go"]["disk"]) == ("complete", "")
        boot_cfg = service.machine.get(f"{found[1]}/boot.cfg").text
        assert "\nmodules=jumpstrt.gz --- s.v00\n" in boot_cfg
        kickstart = service.machine.get(re.findall(r" ks=(\S+)", boot_cfg)[0]).text
        callback = re.findall(r"^url=(\S+)$", kickstart, re.M)[0].strip("'")
        assert service.machine.get(f"{callback}/install-complete", params={"boot_id": "esxi-1"}).text == "ok"
        server = service.wait("r1", lambda server: server["provision_state"] == "active")
        assert server["profile"] == "esxi8"
        assert service.machine.get(f"{found[1]}/boot.cfg").status_code == 404
        service.clear()


def test_a_second_script_fails_the_run_and_serves_no_installer(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        lay_out(tmp_path)
        service.enrol()
        refused = service.api.post("/v1/servers/r1/deploy", json={"profile": "esxi8"})
        assert refused.status_code == 422
        assert "told its disk by name" in refused.text
        assert "r1" in refused.text
        window(service)
        assert "boot.cfg" in service.script()
        again = service.machine.get("/ipxe", params={"mac": MAC}).text
        assert "boot.cfg" not in again
        assert "BM405" in again
        server = service.wait("r1", lambda server: server["provision_state"] == "deploy failed")
        assert "rebooted during install" in server["last_error"]
        service.clear()
