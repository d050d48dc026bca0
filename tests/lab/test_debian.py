"""The real Debian installer on a virtual server: our boot script starts it, and it takes our preseed."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.lab.debian import fetch_installer, find_mirror
from baremetal.lab.mirror import CachingMirror
from baremetal.lab.rack import available
from baremetal.lab.udebs import SUITE, build_suite
from tests.evidence import record
from tests.lab.debian_rig import MAC, cache_folder, debian_run
from tests.unit.netboot.shipped import shipped

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def _needs_qemu() -> None:
    there, reason = available()
    if not there:
        pytest.skip(reason)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("release", ["debian13", pytest.param("debian12", marks=pytest.mark.long)])
def test_installer_fetches_our_preseed_and_passes_early_command(release: str, tmp_path: Path) -> None:
    installer = fetch_installer(release, cache_folder())
    with debian_run(tmp_path, installer) as run:
        run.power_on()
        started = run.wait_for("/install-started", 560)
        agents = [
            (request.path.rpartition("/")[2], request.agent.partition("/")[0]) for request in run.requests
        ]
        assert agents[:3] == [("boot.ipxe", "iPXE"), ("linux", "iPXE"), ("initrd.gz", "iPXE")]
        assert ("preseed.cfg", "debian-installer") in agents
        assert ("early.sh", "Wget") in agents
        assert agents[-1] == ("install-started", "Wget")
        assert MAC in started.fields["macs"]
        assert started.fields["uuid"] == str(run.machine.spec.uuid)
        assert started.fields["serial"] == "LABDEB1"
        assert started.fields["boot_id"]


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_complete_install_reaches_first_boot(tmp_path: Path) -> None:
    installer = fetch_installer("debian13", cache_folder())
    overlay = tmp_path / "overlay"
    with CachingMirror(cache_folder() / "mirror", find_mirror(), overlay) as mirror:
        assert build_suite(mirror.url, installer.suite, installer.initrd, overlay, tmp_path / "udebs") == ()
        with debian_run(
            tmp_path, installer, mirror=mirror.guest_url, udeb_suite=SUITE, minimal=True, tasks=""
        ) as run:
            run.power_on()
            complete = run.wait_for("/install-complete", 4800)
            assert "ssh-ed25519" in complete.fields["ssh_host_keys"]
            booted = run.wait_for("/first-boot", 1200)
            assert booted.fields["boot_id"] != complete.fields["boot_id"]
            starts = [request.at_s for request in run.requests if request.path.endswith("/boot.ipxe")]
            assert all(at_s < complete.at_s for at_s in starts), (
                "the installed system's machine asked the network"
            )
    record(shipped()["debian13"], "booted", "docs/evidence/debian13, a complete install under QEMU")
