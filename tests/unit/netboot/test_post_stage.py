"""The later sections of the answer files, run by real shells: settle in, tell complete, tell failure, first boot."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetal.netboot.context import PROOF_COMMAND
from baremetal.netboot.render import render_answer
from tests.unit.netboot.sample import PROOF_KEY, SERVER, context, frozen
from tests.unit.netboot.stage import OFF, SHELLS, Machine, Office, disks_of, office, section

pytestmark = pytest.mark.slow

KEY = "ssh-ed25519 " + "A" * 68 + " ops@example"
GIB = 2**30 // 512


@pytest.fixture(params=SHELLS, ids="-".join)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    shell, fetcher = request.param
    for tool in (shell, fetcher):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = (
        Machine(tmp_path, shell, fetcher).nic("eth0", SERVER.boot_mac).disk("vda", 20 * GIB, serial="DISK-1")
    )
    (tmp_path / "root/etc/systemd/system").mkdir(parents=True)
    yield made
    # busybox runs its own shell whatever stands in the PATH: a watcher that it started ends at this sign
    (tmp_path / "tmp/bm-done").touch()


@pytest.fixture
def there() -> Iterator[Office]:
    with office() as here:
        yield here


def kickstart(there: Office) -> str:
    return render_answer(frozen("tiny"), "ks.cfg", context("tiny", there.url, ssh_authorized_keys=[KEY]))


def test_post_settles_in_and_tells_complete(machine: Machine, there: Office) -> None:
    text = kickstart(there)
    assert machine.run(section(text, "pre")).returncode == 0
    done = machine.run(section(text, "post"))
    assert done.returncode == 0, done.stderr
    root = machine.folder / "root"
    assert (root / "etc/baremetal/run").read_text() == f"{SERVER.id}/3\n"
    assert (root / "root/.ssh/authorized_keys").read_text().splitlines() == [
        f'command="{PROOF_COMMAND}",no-agent-forwarding,no-port-forwarding,no-pty,no-X11-forwarding {PROOF_KEY}',
        KEY,
    ]
    for secret in ("etc/baremetal/callback", "root/.ssh/authorized_keys"):
        assert (root / secret).stat().st_mode & 0o077 == 0
    assert (root / "etc/baremetal/run").stat().st_mode & 0o777 == 0o644
    wanted = root / "etc/systemd/system/multi-user.target.wants/baremetal-first-boot.service"
    assert "ExecStart=/bin/sh /etc/baremetal/first-boot" in wanted.read_text()
    assert there.signals() == ["install-started", "install-complete"]
    told = there.last("install-complete")
    assert json.loads(told["ssh_host_keys"]) == ["ssh-ed25519 AAAAhost"]
    assert isinstance(json.loads(told["addresses"]), list)
    assert told["boot_id"] == there.last("install-started")["boot_id"]


def test_complete_is_told_again_until_it_is_taken(machine: Machine, there: Office) -> None:
    there.replies["install-complete"] = [(503, "wait"), (500, "oops"), (200, "ok")]
    text = kickstart(there)
    machine.run(section(text, "pre"))
    assert machine.run(section(text, "post")).returncode == 0
    assert there.signals("install-started") == ["install-complete"] * 3


@pytest.mark.parametrize("status", [404, 409])
def test_a_run_that_is_over_powers_off(machine: Machine, there: Office, status: int) -> None:
    there.replies["install-complete"] = [(status, "refused")]
    text = kickstart(there)
    machine.run(section(text, "pre"))
    assert machine.run(section(text, "post")).returncode == OFF
    assert there.signals("install-started") == ["install-complete"]


@pytest.mark.parametrize("profile", ["tiny", "centos7"])
@pytest.mark.parametrize("name", ["onerror", "traceback"])
def test_every_section_that_an_installer_has_for_failure_reports_it(
    machine: Machine, there: Office, profile: str, name: str
) -> None:
    text = render_answer(frozen(profile), "ks.cfg", context(profile, there.url))
    machine.run(section(text, "pre"))
    assert machine.run(section(text, name)).returncode == 0
    assert there.signals("install-started") == ["install-failed"]
    assert there.last("install-failed")["stage"] == "partitioning"


def test_a_post_stage_that_fails_is_reported_with_its_stage(machine: Machine, there: Office) -> None:
    there.replies["install-complete"] = [(503, "wait")]
    text = kickstart(there)
    machine.run(section(text, "pre"))
    done = machine.run(section(text, "post"))
    assert done.returncode == 1
    (machine.folder / "tmp/anaconda.log").write_text("ignored: the real one is in /tmp\n")
    assert machine.run(section(text, "onerror")).returncode == 0
    told = there.last("install-failed")
    assert told["stage"] == "post"
    assert told["message"] == "nobody took the news that the install is complete (503)"


def test_logs_go_up_before_the_word_that_it_failed(machine: Machine, there: Office) -> None:
    """Pain 11."""
    log = machine.folder / "tmp/anaconda.log"
    log.write_text("line\n" * 100_000 + "last words \x1b[31m\x00é of the installer\n", encoding="utf-8")
    text = kickstart(there)
    machine.run(section(text, "pre"))
    script = section(text, "onerror").replace("/tmp/anaconda.log", str(log))
    assert machine.run(script).returncode == 0
    sent = {name: len(body) for name, body in there.uploads.items()}
    assert sent == ({"anaconda.log": 200_000} if machine.fetcher == "curl" else {})  # wget cannot PUT
    assert there.signals("install-started") == ["install-failed"]
    told = there.last("install-failed")
    assert told["stage"] == "partitioning"
    assert told["log"].endswith("last words [31m of the installer")
    assert len(told["log"]) <= 1500


def test_an_operators_log_server_hears_before_and_after(machine: Machine, there: Office) -> None:
    """S2-8: asked for by `notify_url`, after go and after the end was taken; what it is told has no token in it."""
    hook = f"{there.url}/hook"
    text = render_answer(frozen("centos7"), "ks.cfg", context("centos7", there.url, notify_url=f"{hook}/"))
    there.replies["install-started"] = [(503, "wait"), (200, "go")]
    assert machine.run(section(text, "pre")).returncode == 0
    assert machine.run(section(text, "post")).returncode == 0
    started, complete = (
        {"server": "node-1", "run": "3", "event": f"install-{end}"} for end in ("started", "complete")
    )
    assert [call.fields for call in there.calls if call.signal == "hook"] == [started, complete]
    heard = [call.signal for call in there.calls if call.signal != "progress"]
    assert heard == ["install-started", "install-started", "hook", "install-complete", "hook"]
    assert machine.run(section(text, "onerror")).returncode == 0
    assert there.last("hook")["event"] == "install-failed"


def test_a_log_server_that_is_away_or_broken_is_in_nobodys_way(machine: Machine, there: Office) -> None:
    """S2-8."""
    there.replies["hook"] = [(500, "oops")]
    for hook in (f"{there.url}/hook", "http://127.0.0.1:9/hook"):
        text = render_answer(frozen("tiny"), "ks.cfg", context("tiny", there.url, notify_url=hook))
        begun = time.monotonic()
        assert machine.run(section(text, "pre")).returncode == 0
        assert machine.run(section(text, "post")).returncode == 0
        assert time.monotonic() - begun < 20
    assert there.signals("hook") == ["install-started", "install-complete"] * 2


def test_the_debian_installer_tells_the_log_server_once_it_has_a_disk(
    machine: Machine, there: Office
) -> None:
    """S2-8: it asks for go twice, and only the second is about to write."""
    hook = f"{there.url}/hook"
    early = render_answer(frozen("debian12"), "early.sh", context("debian12", there.url, notify_url=hook))
    (machine.folder / "bin/debconf-set").write_text("#!/bin/sh\n")
    (machine.folder / "bin/debconf-set").chmod(0o755)
    (machine.folder / "bin/sh").symlink_to(shutil.which("true") or "/bin/true")
    assert machine.run(early).returncode == 0
    assert "hook" not in there.signals()
    assert machine.run('. "$BM_TMP/bm-disk.sh"\n').returncode == 0
    assert machine.run('. "$BM_TMP/bm-late.sh"\n').returncode == 0
    assert there.signals() == ["install-started", "install-started", "hook", "install-complete", "hook"]


def first_boot(machine: Machine, there: Office) -> subprocess.CompletedProcess[str]:
    text = kickstart(there)
    machine.run(section(text, "pre"))
    machine.run(section(text, "post"))
    root = machine.folder / "root"
    script = (root / "etc/baremetal/first-boot").read_text()
    script = script.replace("/etc/baremetal", str(root / "etc/baremetal")).replace(
        "/run/", f"{machine.folder}/tmp/"
    )
    return machine.run(script.replace("pause=2", "pause=0"))


def test_first_boot_is_told_once_and_the_token_forgotten(machine: Machine, there: Office) -> None:
    there.replies["first-boot"] = [(503, "wait"), (200, "ok")]
    assert first_boot(machine, there).returncode == 0
    assert there.signals()[-2:] == ["first-boot"] * 2
    assert there.last("first-boot")["run"] == f"{SERVER.id}/3"
    assert not (machine.folder / "root/etc/baremetal/callback").exists()


def test_no_process_list_shows_the_token(machine: Machine, there: Office) -> None:
    """From the first word to the last, in the installer and in what it installed."""
    log = machine.folder / "tmp/anaconda.log"
    log.write_text("line\n")
    there.replies["first-boot"] = [(503, "wait"), (200, "ok")]
    assert first_boot(machine, there).returncode == 0
    script = section(kickstart(there), "onerror").replace("/tmp/anaconda.log", str(log))
    assert machine.run(script).returncode == 0
    assert set(there.signals()) == {"install-started", "install-complete", "first-boot", "install-failed"}
    assert bool(there.uploads) == (machine.fetcher == "curl")
    busybox_has_no_other_way = machine.shell == "busybox"
    assert bool(there.shown) == busybox_has_no_other_way, there.shown
    for said in machine.folder.glob("tmp/*wget"):
        assert said.stat().st_mode & 0o077 == 0
    assert not (machine.folder / "tmp/baremetal-first-boot").exists()


@pytest.mark.parametrize("status", [404, 409])
def test_first_boot_stops_when_the_run_is_over(machine: Machine, there: Office, status: int) -> None:
    there.replies["first-boot"] = [(status, "no")]
    assert first_boot(machine, there).returncode == 0
    assert there.signals()[-1:] == ["first-boot"]
    assert not (machine.folder / "root/etc/baremetal/callback").exists()


def test_the_debian_installers_way_through_the_same_gate(machine: Machine, there: Office) -> None:
    early = render_answer(
        frozen("debian12"), "early.sh", context("debian12", there.url, dns="192.0.2.2,192.0.2.3")
    )
    syslog = machine.folder / "syslog"
    syslog.write_text(
        "main-menu[1]: INFO: Menu item 'netcfg' selected\nmain-menu[1]: WARNING: Menu item 'base' failed.\n"
    )
    (machine.folder / "bin/debconf-set").write_text(f'#!/bin/sh\necho "$@" >>{machine.folder}/debconf\n')
    (machine.folder / "bin/debconf-set").chmod(0o755)
    (machine.folder / "bin/sh").symlink_to(shutil.which("dash") or "/bin/sh")
    done = machine.run(early + "\nwait\n", BM_SYSLOG=str(syslog))
    assert done.returncode == 0, done.stderr
    assert "disk" not in there.last("install-started")
    assert there.last("install-failed")["stage"] == "base"
    done = machine.run('. "$BM_TMP/bm-disk.sh"\n')
    assert done.returncode == 0, done.stderr
    assert there.last("install-started")["disk"] == "vda"
    assert list(disks_of(there.last("install-started"))) == ["vda"]
    assert (machine.folder / "debconf").read_text() == (
        "partman-auto/disk /dev/vda\ngrub-installer/bootdev /dev/vda\n"
    )
    done = machine.run('. "$BM_TMP/bm-late.sh"\n')
    assert done.returncode == 0, done.stderr
    assert there.signals()[-1] == "install-complete"
    resolv = machine.folder / "root/etc/resolv.conf"
    assert resolv.read_text() == "nameserver 192.0.2.2\nnameserver 192.0.2.3\n"


def test_the_debian_installer_stops_before_partitioning_when_two_disks_fit(
    machine: Machine, there: Office
) -> None:
    machine.disk("vdb", GIB)
    early = render_answer(frozen("debian12"), "early.sh", context("debian12", there.url))
    (machine.folder / "bin/sh").symlink_to(shutil.which("true") or "/bin/true")
    assert machine.run(early).returncode == 0
    assert machine.run('. "$BM_TMP/bm-disk.sh"\n').returncode == OFF
    assert there.last("install-failed")["stage"] == "disk"
    assert there.signals() == ["install-started", "install-failed"]
