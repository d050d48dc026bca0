"""What other programs are told: whole, as golden text, and checked by the programs themselves where they can be had.

Cites the founding systems: S4-2 (ISC dhcpd), S3-1 (next-server and file name; H3C), S0-12 (Synology, RouterOS, LEDE).
RouterOS, OpenWrt, H3C and Synology have no checker that could run here: their text is golden only, and says so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from baremetal.cli.app import main
from baremetal.cli.print_config import Target
from baremetal.errors import Invalid, Unknown
from baremetal.netboot.dhcp.offer import Mode
from baremetal.service.advice.print_config import TARGETS, Site, text
from tests.programs import unpacked
from tests.unit.netboot.network import HOSTS, network

GOLDEN = Path(__file__).parents[2] / "golden" / "configs"
SITE = Site(network(Mode.FULL), is_placed=True, hosts=HOSTS, tftp_port=69)
NAMES = {
    "isc": "isc.conf",
    "kea": "kea.conf",
    "routeros": "routeros.rsc",
    "openwrt": "openwrt.sh",
    "h3c": "h3c.txt",
    "synology": "synology.txt",
    "tftp": "tftp.sh",
    "nginx": "nginx.conf",
    "systemd": "baremetal.service",
}


@pytest.mark.parametrize("target", NAMES)
def test_whole_files(target: str) -> None:
    """UPDATE_GOLDEN=yes writes them, for a person to read the difference."""
    written = text(target, SITE)
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / NAMES[target]).write_text(written)
    assert written == (GOLDEN / NAMES[target]).read_text()


def test_every_target_of_the_command_line_is_written() -> None:
    assert set(TARGETS) == {target.value for target in Target} == {*NAMES, "dnsmasq"}
    with pytest.raises(Unknown, match="One of dnsmasq, isc"):
        text("bind", SITE)


def test_every_dhcp_target_names_every_loader_and_the_script() -> None:
    for target in ("dnsmasq", "isc", "kea", "routeros", "openwrt", "h3c", "synology"):
        written = text(target, SITE)
        for word in (
            "undionly.kpxe",
            "ipxe.efi",
            "ipxe-arm64.efi",
            "http://10.0.1.2:8080/boot.ipxe",
            "10.0.1.2",
        ):
            assert word in written, f"{target}: {word}"
    for target in ("isc", "kea", "routeros", "openwrt", "h3c"):
        written = text(target, SITE)
        assert "10.0.1.11" in written, f"{target}: the fixed address of r1"
        assert written.index("ipxe") < written.index("undionly.kpxe"), "iPXE is told apart first"


def test_texts_that_nothing_checks_say_so() -> None:
    for target in ("routeros", "openwrt", "h3c"):
        assert "not checked by any program" in text(target, SITE)
    assert "nothing checks them" in text("synology", SITE)


def test_without_subnets_isc_gets_lines_for_its_own() -> None:
    written = text("isc", dataclasses.replace(SITE, is_placed=False, network=network(Mode.EXTERNAL)))
    assert "subnet 10" not in written
    assert 'filename "ipxe.efi";' in written


def test_only_ipxe_begins_at_another_tftp_server() -> None:
    placed = network(Mode.EXTERNAL)
    others = [
        dataclasses.replace(
            one, loader_bios="pxelinux.0", loader_uefi="shimx64.efi", loader_arm64="bootaa64.efi"
        )
        for one in placed.segments
    ]
    with pytest.raises(Invalid, match="only iPXE can begin"):
        text("tftp", dataclasses.replace(SITE, network=dataclasses.replace(placed, segments=tuple(others))))


def test_paths_that_could_be_read_as_something_else_are_refused() -> None:
    with pytest.raises(Invalid, match="cannot stand in other programs' settings"):
        text("nginx", dataclasses.replace(SITE, media_dir=Path("/srv/a b;")))


def test_the_unit_asks_for_no_more_rights_than_the_settings_need() -> None:
    def rights(**more: object) -> list[str]:
        site = dataclasses.replace(SITE, **{"network": network(Mode.EXTERNAL), "tftp_port": None, **more})  # type: ignore[arg-type]
        lines = text("systemd", site).splitlines()
        bound = next(line for line in lines if line.startswith("CapabilityBoundingSet="))
        ambient = [line for line in lines if line.startswith("AmbientCapabilities=")]
        assert not ambient or ambient == [bound.replace("CapabilityBoundingSet", "AmbientCapabilities")]
        return bound.partition("=")[2].split()

    assert rights() == []
    assert rights(tftp_port=69) == ["CAP_NET_BIND_SERVICE"]
    assert rights(boot_listen=("0.0.0.0", 80)) == ["CAP_NET_BIND_SERVICE"]
    assert rights(network=network(Mode.PROXY)) == ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"]


# ---- each by its own program


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_dhcpd_accepts_its_settings(tmp_path: Path) -> None:
    """S4-2."""
    dhcpd = unpacked("isc-dhcp-server", "usr/sbin/dhcpd")
    for name, site in {"placed": SITE, "own": dataclasses.replace(SITE, is_placed=False)}.items():
        file = tmp_path / f"{name}.conf"
        file.write_text(text("isc", site))
        done = subprocess.run(
            [dhcpd.path, "-4", "-t", "-cf", str(file)],
            env=dhcpd.env, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kea_accepts_its_settings(tmp_path: Path) -> None:
    kea = unpacked("kea-dhcp4-server", "usr/sbin/kea-dhcp4")
    # Interfaces and the place of the leases are this host's: the test has neither eth1 nor /var/lib/kea.
    settings = json.loads(text("kea", SITE).partition("\n")[2])
    settings["Dhcp4"]["interfaces-config"]["interfaces"] = ["lo"]
    for subnet in settings["Dhcp4"]["subnet4"]:
        subnet.pop("interface", None)
    file = tmp_path / "kea.conf"
    file.write_text("// as it is printed, with a comment\n" + json.dumps(settings))
    done = subprocess.run(
        [kea.path, "-t", str(file)],
        env={**kea.env, "KEA_LOCKFILE_DIR": str(tmp_path), "KEA_LOGGER_DESTINATION": "stdout"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nginx_accepts_and_serves_what_the_boot_app_would(tmp_path: Path) -> None:
    """S4-4: the served tree; a reference in front is dropped, nothing is listed, hidden names stay hidden.

    But for the two that Anaconda asks for; and a medium's own boot configuration is not served (I2).
    """
    nginx = unpacked("nginx", "usr/sbin/nginx")
    media = tmp_path / "media" / "debian12"
    media.mkdir(parents=True)
    (media / "linux").write_text("kernel")
    (media / ".hidden").write_text("no")
    (media / ".treeinfo").write_text("[general]")
    (media / ".treeinfo.old").write_text("no")
    (media / "EFI/BOOT").mkdir(parents=True)
    (media / "EFI/BOOT/grub.cfg").write_text("its own installer")
    (media / "out").symlink_to("/etc/hostname")
    if os.geteuid() == 0:
        os.lchown(media / "out", 65534, 65534)
    tmp_path.chmod(0o755)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = text(
        "nginx", dataclasses.replace(SITE, media_dir=tmp_path / "media", boot_listen=("127.0.0.1", 9))
    )
    server = server.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("    listen [::]:80;\n", "")
    file = tmp_path / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    file.write_text(f"{user}daemon off;\npid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{temporary}{server}}}\n")
    command = [nginx.path, "-p", str(tmp_path), "-c", str(file), "-e", "stderr"]
    done = subprocess.run(
        [*command, "-t"], env=nginx.env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    with subprocess.Popen(command, env=nginx.env, stderr=subprocess.DEVNULL) as child:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with socket.socket() as one:
                    if one.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            assert get("/media/debian12/linux") == (200, "kernel")
            assert get("/media/_0123abcd.7/debian12/linux") == (200, "kernel")
            assert get("/media/debian12/")[0] == 403
            assert get("/media/debian12/.hidden")[0] == 404
            assert get("/media/_0123abcd.7/debian12/.treeinfo") == get("/media/debian12/.treeinfo")
            assert get("/media/debian12/.treeinfo") == (200, "[general]")
            assert get("/media/debian12/.treeinfo.old")[0] == 404
            assert get("/media/debian12/EFI/BOOT/grub.cfg")[0] == 502, "the boot app's to answer"
            assert get("/media/debian12/out")[0] == 403, "a link of somebody else's that leads out"
            assert get("/media/debian12/none")[0] == 404
            assert get("/media../secret.key")[0] == 502, "not below media: the boot app's, which is not there"
            assert get("/boot.ipxe")[0] == 502
        finally:
            child.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_systemd_accepts_its_unit(mode: Mode, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    file = tmp_path / "baremetal.service"
    executable = shutil.which("true")
    assert executable
    site = dataclasses.replace(SITE, network=network(mode), executable=executable, user="root")
    file.write_text(text("systemd", site))
    done = subprocess.run(
        [program, "verify", "--man=no", "--generators=no", str(file)],
        capture_output=True, text=True, timeout=60, check=False, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )  # fmt: skip
    assert str(file.name) not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


# ---- the command


def test_the_command_reads_the_settings_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[server]\npublic_url = "http://10.0.1.2:8080"\ndata_dir = "/srv/baremetal"\n'
        '[dhcp]\ninterface = "eth7"\nnext_server = "10.0.1.3"\n'
        '[[dhcp.subnet]]\nname = "rack1"\nrange = "10.0.1.100-10.0.1.199"\nmask = "255.255.255.0"\n'
        '[[dhcp.subnet]]\nrange = "10.0.2.5"\nmask = "255.255.255.0"\npublic_url = "http://10.0.2.2"\n'
        'loader_uefi = "snponly.efi"\nnext_server = "10.0.2.2"\nfilename = "http://10.0.2.2/own.ipxe"\nlease_s = 600\n'
    )
    assert main(["print-config", "dnsmasq", "--config", str(file), "--mode", "full"]) == 0
    written = capsys.readouterr().out.splitlines()
    for line in (
        "interface=eth7",
        "dhcp-leasefile=/srv/baremetal/dhcp/leases",
        "dhcp-range=set:rack1,10.0.1.100,10.0.1.199,255.255.255.0,10.0.1.255,2700",
        "dhcp-range=set:net2,10.0.2.0,static,255.255.255.0,10.0.2.255,600",
        "dhcp-boot=tag:rack1,tag:firmware,tag:bios,undionly.kpxe,,10.0.1.3",
        "dhcp-boot=tag:rack1,tag:ipxe,tag:!installer,http://10.0.1.2:8080/boot.ipxe,,10.0.1.3",
        "dhcp-boot=tag:net2,tag:firmware,tag:x64,tag:!http,snponly.efi,,10.0.2.2",
        "dhcp-boot=tag:net2,tag:firmware,tag:x64,tag:http,http://10.0.2.2/loaders/snponly.efi,,10.0.2.2",
        "dhcp-boot=tag:net2,tag:ipxe,tag:!installer,http://10.0.2.2/own.ipxe,,10.0.2.2",
    ):
        assert line in written, line
    assert main(["print-config", "dnsmasq", "--config", str(file)]) == 0
    assert capsys.readouterr().out.startswith("# For a dnsmasq that already gives the addresses")
    assert main(["print-config", "systemd", "--config", str(file)]) == 0
    written = capsys.readouterr().out.splitlines()
    assert "ReadWritePaths=/srv/baremetal" in written
    assert f"--config {file}" in next(line for line in written if line.startswith("ExecStart="))


def test_without_subnets_it_says_what_it_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[server]\npublic_url = "http://192.0.2.9:8080"\n')
    assert main(["print-config", "kea", "--config", str(file)]) == 0
    out = capsys.readouterr()
    assert '"subnet": "192.0.2.0/24"' in out.out
    assert "no [[dhcp.subnet]] is set" in out.err
    assert main(["print-config", "dnsmasq", "--config", str(file), "--mode", "proxy"]) == 2
    out = capsys.readouterr()
    assert (out.out, "BM506" in out.err) == ("", True)
    assert main(["print-config", "nginx", "--config", str(file)]) == 0
    assert capsys.readouterr().err == ""
