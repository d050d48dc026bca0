"""A deploy that could only miss its boot deadline is refused first; doctor and plan say the same (pain 3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetal.config import load
from baremetal.errors import Invalid
from baremetal.service.deploys.deploys import Order
from baremetal.wiring import App, build
from tests.integration.conftest import prepare
from tests.integration.test_silent import BOOT_CFG
from tests.unit.media import skeleton
from tests.unit.service.test_pairing import ARM64, efi
from tests.unit.store.fleet import NOW, new

DHCP = """
[dhcp]
mode = "proxy"
interface = "seg0"
next_server = "10.9.0.1"

[[dhcp.subnet]]
name = "rack1"
range = "10.9.0.100-10.9.0.199"
mask = "255.255.255.0"
loader_uefi = "shimx64.efi"
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """A whole service that is built and not started: nobody's DHCP is disturbed."""
    settings = prepare(tmp_path, more=DHCP)
    skeleton.lay_out(
        {"boot.cfg": BOOT_CFG.encode(), "mboot.c32": b"m", "efi/boot/bootx64.efi": b"MZ"},
        tmp_path / "data/media/esxi8",
    )
    app = build(load(settings))
    app.store.add_servers([new(1, boot_mode="uefi", ip="10.9.0.50/24")], NOW)
    (tmp_path / "data/loaders").mkdir(exist_ok=True)
    yield app
    for pool in app.pools:
        pool.shutdown()
    app.store.close()


def test_what_cannot_begin_is_refused_before_the_power_goes_on(app: App) -> None:
    folder = app.config.data_dir / "loaders"
    (folder / "shimx64.efi").write_bytes(efi(signed=True))
    (folder / "grubx64.efi").write_bytes(efi())
    order = Order("deploy", profile="test")
    with pytest.raises(
        Invalid, match=r"r1 cannot netboot on rack1: shimx64\.efi is signed and starts"
    ) as caught:
        app.services.deploys.ask("r1", order, "alice")
    assert caught.value.code == "BM307"
    assert "loader_uefi" in (caught.value.fix or "")
    plan = app.services.deploys.plan("r1", order)
    assert [problem["code"] for problem in plan["problems"]] == ["BM307"]
    checks = app.services.doctor.examine("r1")["checks"]
    assert [check["code"] for check in checks if check["name"] == "loader of r1"] == ["BM307"]
    assert app.store.server("r1").life.run is None
    (folder / "grubx64.efi").write_bytes(efi(ARM64, signed=True))
    with pytest.raises(Invalid, match=r"grubx64\.efi, which is for arm64 UEFI"):
        app.services.deploys.ask("r1", order, "alice")
    (folder / "grubx64.efi").write_bytes(efi(signed=True))
    assert app.services.deploys.plan("r1", order)["problems"] == []
    esxi = Order("deploy", profile="esxi8", vars={"esxi_disk": "mpx.vmhba0:C0:T0:L0"})
    with pytest.raises(Invalid, match=r"only iPXE starts esxi, and its firmware is given shimx64\.efi"):
        app.services.deploys.ask("r1", esxi, "alice")
    assert app.services.deploys.ask("r1", order, "alice")["run"] == 1
