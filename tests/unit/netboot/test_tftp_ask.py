"""Asking a TFTP server whether it has a file: ours, and ones that answer nothing or nonsense."""

from __future__ import annotations

import socket
import threading

import pytest

from baremetal.netboot.tftp import Outcome, ask
from tests.unit.netboot.tftp_rig import Rig


def test_ours_says_what_it_has_and_reports_no_transfer() -> None:
    with Rig(lambda asked: b"x" * 5000 if asked.name == "ipxe.efi" else None) as rig:
        host, port = rig.address
        told = ask(host, "ipxe.efi", port)
        assert (told.there, told.size) == (True, 5000)
        rig.wait(lambda: len(rig.seen) == 1)
        assert rig.seen[0].outcome is Outcome.PROBED
        told = ask(host, "undionly.kpxe", port)
        assert (told.there, told.why) == (False, "file not found")


@pytest.mark.parametrize(
    ("answer", "there"),
    [
        (None, None),
        (b"\x00\x03\x00\x01data", True),
        (b"\x00\x05\x00\x02\xff\x1b[2J", False),
        (b"\x00\x06tsize\x00\xb2\x00", True),
        (b"\x00\x09\x00\x00", None),
    ],
)
def test_other_answers(answer: bytes | None, there: bool | None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)

        def serve() -> None:
            _, peer = server.recvfrom(1024)
            if answer is not None:
                server.sendto(answer, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        told = ask("127.0.0.1", "ipxe.efi", server.getsockname()[1], wait_s=0.1 if answer is None else 5.0)
        thread.join(5)
    assert told.there is there
    assert told.why.isprintable()


def test_nobody_there_is_a_reason() -> None:
    told = ask("127.0.0.1", "ipxe.efi", 9, wait_s=0.05)
    assert told.there is None
    assert told.why
