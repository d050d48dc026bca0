"""A big initrd over HTTP, from the boot app and from nginx by the settings that we print for it, in turn."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.figure import Figure
from bench.service import Service, free_ports
from tests.programs import unpacked

SIZE = 100 * 1000 * 1000
ROUNDS = 7
PROFILE, NAME = "rocky9", "images/pxeboot/initrd.img"
BOUND = 0.3


def run(_: Namespace) -> list[Figure]:
    with Service() as service:
        service.media(PROFILE, NAME)
        (service.data / "media" / PROFILE / NAME).write_bytes(os.urandom(SIZE))
        with _nginx(service) as theirs:
            rates: dict[str, list[float]] = {"ours": [], "nginx": []}
            for _round in range(ROUNDS):
                for which, url in (("ours", service.boot_url), ("nginx", theirs)):
                    rates[which].append(_fetch(f"{url}/media/{PROFILE}/{NAME}"))
    ours, nginx = median(rates["ours"]), median(rates["nginx"])
    how = f"{ours:,.0f} against {nginx:,.0f} MB/s, medians of {ROUNDS} in turn, by curl over loopback"
    return [
        Figure(
            f"{SIZE // 10**6} MB over HTTP to one client, beside nginx",
            ours / nginx,
            "times its rate",
            BOUND,
            at_least=True,
            how=how,
        )
    ]


@contextmanager
def _nginx(service: Service) -> Iterator[str]:
    """Run nginx with what `print-config nginx` says for this service, on a free port; yields its URL."""
    program = unpacked("nginx", "usr/sbin/nginx")
    (port,) = free_ports(1)
    config = service.folder / "config.toml"
    printed = subprocess.run(
        [Path(sys.executable).with_name("baremetal"), "print-config", "nginx", "--config", config],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    server = printed.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("    listen [::]:80;\n", "")
    folder = service.folder / "nginx"
    folder.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    file = folder / "nginx.conf"
    file.write_text(f"{user}daemon off;\npid {folder}/pid;\nevents {{}}\nhttp {{\n{temporary}{server}}}\n")
    command = [program.path, "-p", str(folder), "-c", str(file), "-e", str(folder / "errors")]
    with subprocess.Popen(command, env=program.env) as child:
        try:
            _await(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()


def _await(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("nginx does not start")


def _fetch(url: str) -> float:
    """Fetch a file to nowhere, so that no disk is measured; return how many megabytes came per second."""
    curl = shutil.which("curl")
    if curl is None:
        raise RuntimeError("curl is not installed")
    told = subprocess.run(
        [curl, "-sSf", "--noproxy", "*", "-o", os.devnull, "-w", "%{size_download} %{time_total}", url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert int(told[0]) == SIZE
    return SIZE / 1e6 / float(told[1])
