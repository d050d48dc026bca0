"""The listener on a machine's network, fed with frames in the form that QEMU's own DHCP server sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from baremetal.lab.lan import LanListener, dhcp_answer, say_no_other_offer

OFFER, ACK = 2, 5


def answer(kind: int, *, source: int = 67, options: bytes = b"\x01\x04\xff\xff\xff\x00") -> bytes:
    """Make a BOOTP reply with its Ethernet, IP and UDP headers."""
    bootp = (
        b"\x02" + bytes(235) + b"\x63\x82\x53\x63" + bytes((0, 53, 1, kind)) + options + b"\xff" + bytes(20)
    )
    udp = (
        source.to_bytes(2, "big")
        + (68).to_bytes(2, "big")
        + (8 + len(bootp)).to_bytes(2, "big")
        + b"\x12\x34"
    )
    head = (
        b"\x45\x10"
        + (28 + len(bootp)).to_bytes(2, "big")
        + bytes(4)
        + b"\x40\x11\x00\x00"
        + bytes((10, 0, 2, 2))
    )
    return bytes(12) + b"\x08\x00" + head + b"\xff" * 4 + udp + bootp


def framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


@pytest.fixture
def ends() -> Iterator[tuple[LanListener, socket.socket]]:
    ours, theirs = socket.socketpair()
    listener = LanListener(ours)
    theirs.settimeout(1)
    with theirs:
        yield listener, theirs
    listener.close()


def test_an_offer_is_repeated_with_the_word_that_there_will_be_no_other() -> None:
    frame = answer(OFFER)
    again = say_no_other_offer(frame)
    datagram = again[14:]
    assert dhcp_answer(again) == OFFER
    assert again[:14] == frame[:14]
    assert again.endswith(bytes((175, 7, 1, 1, 1, 176, 1, 1, 0, 255)))
    assert int.from_bytes(datagram[2:4], "big") == len(datagram)
    assert int.from_bytes(datagram[24:26], "big") == len(datagram) - 20
    words = sum(int.from_bytes(datagram[at : at + 2], "big") for at in range(0, 20, 2))
    assert (words & 0xFFFF) + (words >> 16) == 0xFFFF


def test_listens_until_the_lease_is_given(ends: tuple[LanListener, socket.socket]) -> None:
    listener, theirs = ends
    assert listener.listen()
    stream = framed(b"\0" * 60, answer(OFFER))
    theirs.sendall(stream[:90])
    assert listener.listen()
    theirs.sendall(stream[90:])
    assert listener.listen()
    assert theirs.recv(4096) == framed(say_no_other_offer(answer(OFFER)))
    theirs.sendall(framed(answer(ACK)))
    assert not listener.listen()


def test_ends_with_the_machine(ends: tuple[LanListener, socket.socket]) -> None:
    listener, theirs = ends
    theirs.close()
    assert not listener.listen()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(300),
        answer(OFFER, source=53),
        answer(OFFER)[:200],
        answer(OFFER).replace(b"\x63\x82\x53\x63", bytes(4)),
        answer(OFFER)[:283],
        answer(OFFER).replace(b"\x35\x01\x02", b"\x37\xff\x02"),
    ],
)
def test_any_other_frame_is_left_alone(frame: bytes) -> None:
    assert dhcp_answer(frame) is None


def test_rubbish_without_end_is_not_kept(ends: tuple[LanListener, socket.socket]) -> None:
    listener, theirs = ends
    theirs.setblocking(False)
    goes_on = True
    sent = 0
    while goes_on and sent < 1 << 20:
        sent += theirs.send(b"\xff" * 65536)
        goes_on = listener.listen()
    assert not goes_on
