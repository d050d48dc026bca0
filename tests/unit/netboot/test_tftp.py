"""The TFTP server on real sockets."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvloop

from baremetal import telemetry
from baremetal.errors import Unavailable
from baremetal.netboot.tftp import (
    Content,
    FileContent,
    Limits,
    Outcome,
    Patience,
    Request,
    Seen,
    TftpServer,
    bind,
)
from tests.unit.netboot.tftp_rig import CALM, HASTY, Client, Rig, Wire, request

pytestmark = pytest.mark.slow  # real sockets, and deadlines that are waited out

BODY = random.Random(7).randbytes(300_001)


def serve(contents: dict[str, Content]) -> Rig:
    return Rig(lambda asked: contents.get(asked.name))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(BODY)
    return path


@pytest.mark.parametrize(
    "new_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"]
)
@pytest.mark.parametrize("window", [1, 4, 64])
@pytest.mark.parametrize("block", [512, 1468, 8192])
def test_a_file_arrives_whole(
    media: Path, block: int, window: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    limits = Limits(max_block=8192, patience=CALM)
    with (
        Rig(lambda _: FileContent(media), limits=limits, new_loop=new_loop) as rig,
        Client(rig.address, wait_s=5) as client,
    ):
        got = client.get("initrd", {"blksize": block, "windowsize": window, "tsize": 0})
        assert got.data == BODY
        assert got.options == {"blksize": str(block), "windowsize": str(window), "tsize": str(len(BODY))}
        assert got.blocks == len(BODY) // block + 1, "no block was sent twice"
        (seen,) = rig.reports()
        assert (seen.outcome, seen.name, seen.client) == (Outcome.SERVED, "initrd", "127.0.0.1")
        assert (seen.bytes, seen.block_size, seen.window, seen.retransmits) == (len(BODY), block, window, 0)
        assert 0 < seen.seconds < 20
        assert seen.at.tzinfo is not None


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024])
def test_the_end_is_a_block_that_is_not_full(size: int) -> None:
    limits = Limits(patience=CALM)
    with Rig(lambda _: BODY[:size], limits=limits) as rig, Client(rig.address, wait_s=5) as client:
        got = client.get("a")
        assert got.data == BODY[:size]
        assert got.options == {}, "no option was asked for"
        assert got.blocks == size // 512 + 1


def test_block_numbers_go_on_at_zero_after_65535() -> None:
    """Pain 20."""
    size = 8 * 66_000 + 3
    body = random.Random(3).randbytes(size)
    with Rig(lambda _: body, limits=Limits(patience=CALM)) as rig, Client(rig.address, wait_s=5) as client:
        got = client.get("big", {"blksize": 8, "windowsize": 64})
        assert got.data == body
        assert got.blocks == 66_001


@pytest.mark.parametrize("window", [1, 4, 64])
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_what_the_network_loses_repeats_and_swaps_is_made_good(media: Path, seed: int, window: int) -> None:
    body, options = BODY[:40_000], {"blksize": 1024, "windowsize": window}
    wire = Wire(seed, loss=0.08, repeat=0.08, swap=0.08)
    with serve({"a": body}) as rig, Client(rig.address, wire=wire, wait_s=0.08) as client:
        assert client.get("a", options).data == body
        assert rig.reports()[-1].outcome is Outcome.SERVED
        assert rig.seen[-1].retransmits > 0


@pytest.mark.parametrize(
    ("window", "both_ways", "times"),
    [(1, True, 1.0), (1, False, 1.0), (4, True, 2.0), (4, False, 1.5)],
)
def test_repeated_packets_do_not_breed(window: int, both_ways: bool, times: float) -> None:
    """The Sorcerer's Apprentice: with every acknowledgement doubled, blocks must not be.

    In a window, one that is repeated looks like a loss; it is believed once per flight, and not for the next.
    """
    limits, wire = Limits(patience=CALM), Wire(repeat=1.0)
    with (
        Rig(lambda _: BODY, limits=limits) as rig,
        Client(rig.address, wire=wire if both_ways else None, outward=wire, wait_s=5) as client,
    ):
        got = client.get("a", {"blksize": 1024, "windowsize": window})
        assert got.data == BODY
        (seen,) = rig.reports()
        least = len(BODY) // 1024 + 1
        assert (least + seen.retransmits) / least <= times + 0.02


def test_an_acknowledgement_for_every_block_of_a_window_costs_little() -> None:
    """Clients that negotiate a window and acknowledge each block exist; each must not bring the whole window again."""
    with serve({"a": BODY}) as rig, Client(rig.address) as client:
        client.ask("a", {"blksize": 1024, "windowsize": 32})
        assert client.receive() is not None
        client.acknowledge(0)
        expected = 1
        while expected <= len(BODY) // 1024 + 1:
            packet = client.receive()
            assert packet is not None
            number = struct.unpack_from("!HH", packet)[1]
            if number == expected:
                client.acknowledge(number)
                expected += 1
        (seen,) = rig.reports()
        assert seen.outcome is Outcome.SERVED
        assert seen.retransmits < 2 * (len(BODY) // 1024)


def test_an_acknowledgement_from_elsewhere_or_beyond_changes_nothing() -> None:
    with serve({"a": BODY[:2000]}) as rig, Client(rig.address) as client:
        client.ask("a")
        first = client.receive()
        assert first is not None
        assert client.peer is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(struct.pack("!HH", 4, 1), client.peer)
        client.acknowledge(900)
        client.send(b"\x00")
        assert client.receive(0.08) is None
        client.acknowledge(1)
        second = client.receive()
        assert second is not None
        assert second[:4] == b"\x00\x03\x00\x02"


def test_each_transfer_has_a_port_of_its_own() -> None:
    with serve({"a": BODY[:10]}) as rig, Client(rig.address) as one, Client(rig.address) as other:
        for client in (one, other):
            client.get("a")
        assert one.peer is not None
        assert other.peer is not None
        assert len({one.peer[1], other.peer[1], rig.address[1]}) == 3


def test_a_client_that_falls_silent_is_given_up() -> None:
    patience = Patience(first_wait_s=0.02, least_wait_s=0.02, most_wait_s=0.04, tries=5)
    with (
        Rig(lambda _: BODY, limits=Limits(patience=patience)) as rig,
        Client(rig.address) as silent,
        Client(rig.address) as deaf,
    ):
        silent.ask("a", {"blksize": 512})
        deaf.ask("a")
        assert deaf.receive() is not None
        deaf.acknowledge(1)
        one, other = sorted(rig.reports(2), key=lambda seen: seen.bytes)
        assert (one.outcome, one.bytes, one.retransmits) == (Outcome.TIMED_OUT, 0, 4), "heard of only once"
        assert (other.outcome, other.bytes, other.retransmits) == (Outcome.TIMED_OUT, 512, 5)
        assert other.reason.startswith("no answer for 0.")
        assert rig.server.transfers == 0


def test_a_client_that_takes_for_ever_is_ended() -> None:
    patience = Patience(first_wait_s=0.02, least_wait_s=0.02, most_wait_s=0.02, tries=99, longest_s=0.2)
    with Rig(lambda _: BODY, limits=Limits(patience=patience)) as rig, Client(rig.address) as client:
        client.ask("a")
        number = 1
        while not rig.seen:
            packet = client.receive()
            if packet is None or packet[1] != 3:
                continue
            time.sleep(0.03)
            client.acknowledge(number)
            number += 1
        assert (rig.seen[0].outcome, rig.seen[0].reason) == (Outcome.TIMED_OUT, "it took too long in all")


@pytest.mark.slow
def test_the_waits_double_and_follow_what_the_client_asked_for() -> None:
    with Rig(lambda _: BODY, limits=Limits(patience=HASTY)) as rig, Client(rig.address) as client:
        client.ask("a", {"timeout": 1})
        times = []
        for _ in range(2):
            assert client.receive(3) is not None
            times.append(time.monotonic())
        assert 0.9 < times[1] - times[0] < 1.5, "RFC 2349: as the client said"
    patience = Patience(first_wait_s=0.1, least_wait_s=0.1, most_wait_s=10)
    with Rig(lambda _: BODY, limits=Limits(patience=patience)) as rig, Client(rig.address) as client:
        client.ask("a")
        times = []
        for _ in range(4):
            assert client.receive(3) is not None
            times.append(time.monotonic())
        waits = [after - before for before, after in itertools.pairwise(times)]
        assert waits == pytest.approx([0.1, 0.2, 0.4], abs=0.09)


def test_a_client_that_has_gone_ends_the_transfer_at_once() -> None:
    with Rig(lambda _: BODY, limits=Limits()) as rig:
        with Client(rig.address) as client:
            client.ask("a")
            assert client.receive() is not None
            client.acknowledge(1)
        (seen,) = rig.reports()
        assert (seen.outcome, seen.reason) == (Outcome.FAILED, "the client has gone")
        assert seen.seconds < 2


def test_leaving_after_the_last_block_without_a_word_is_being_served() -> None:
    with Rig(lambda _: BODY[:600], limits=Limits(patience=HASTY)) as rig:
        with Client(rig.address) as client:
            client.ask("a")
            assert client.receive() is not None
            client.acknowledge(1)
            assert client.receive() is not None
        (seen,) = rig.reports()
        assert (seen.outcome, seen.bytes) == (Outcome.SERVED, 600)


def test_firmware_asks_for_the_size_first_and_then_in_earnest() -> None:
    """EDK2: tsize and blksize, ERROR to the OACK, then the same with the download; Intel's ROMs do alike."""
    with serve({"EFI/BOOT/shimx64.efi": BODY}) as rig:
        with Client(rig.address) as probe:
            probe.ask("\\EFI\\BOOT\\shimx64.efi", {"tsize": 0, "blksize": 1468})
            oack = probe.receive()
            assert oack == b"\x00\x06tsize\x00300001\x00blksize\x001468\x00"
            probe.send(b"\x00\x05\x00\x08User \x1b[2Jaborted\xff the\n transfer\x00more")
            (seen,) = rig.reports()
            assert (seen.outcome, seen.name) == (Outcome.PROBED, "EFI/BOOT/shimx64.efi")
            assert seen.reason == "the client ended it: User [2Jaborted\ufffd the transfer (error 8)"
        with Client(rig.address) as client:
            got = client.get("EFI/BOOT/shimx64.efi", {"tsize": 0, "blksize": 1468, "windowsize": 4})
            assert got.data == BODY
            assert got.options == {"tsize": "300001", "blksize": "1468", "windowsize": "4"}


def test_grub_looks_whether_a_file_is_there() -> None:
    """It takes the first block and closes; the same later on is a transfer that failed."""
    for blocks, outcome in ((1, Outcome.LOOKED), (3, Outcome.FAILED)):
        with serve({"grub.cfg": BODY}) as rig, Client(rig.address) as client:
            client.ask("grub.cfg", {"tsize": 0, "blksize": 1024})
            for number in range(blocks + 1):
                assert client.receive() is not None
                if number < blocks:
                    client.acknowledge(number)
            client.send(b"\x00\x05\x00\x00closed\x00")
            (seen,) = rig.reports()
            assert (seen.outcome, seen.name) == (outcome, "grub.cfg")


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ({"blksize": 65464}, {"blksize": "1468"}),
        ({"blksize": 7}, {}),
        ({"blksize": "many"}, {}),
        ({"blksize": "-512"}, {}),
        ({"windowsize": 1000}, {"windowsize": "64"}),
        ({"windowsize": 0}, {}),
        ({"timeout": 3}, {"timeout": "3"}),
        ({"timeout": 0}, {}),
        ({"timeout": 256}, {}),
        ({"TSize": 0, "BLKSIZE": 1024}, {"tsize": "1000", "blksize": "1024"}),
        ({"rollover": 0, "utimeout": 5}, {}),
    ],
)
def test_options_are_answered_as_far_as_they_are_understood(
    asked: dict[str, int | str], answered: dict[str, str]
) -> None:
    """Pain 20: blksize, tsize, windowsize."""
    with serve({"a": BODY[:1000]}) as rig, Client(rig.address) as client:
        got = client.get("a", asked)
        assert (got.options, got.data) == (answered, BODY[:1000])


def test_netascii_is_served_as_it_stands() -> None:
    with serve({"a": b"one\ntwo\r\n"}) as rig, Client(rig.address) as client:
        assert client.get("a", mode="NetASCII").data == b"one\ntwo\r\n"


def test_what_is_not_there_is_not_found_and_said_to_be_harmless_where_it_is() -> None:
    before = telemetry.TFTP_REQUESTS.labels("not found")._value.get()
    with serve({}) as rig:
        for name in ("grubx64.efi", "revocations_sbat.efi"):
            with Client(rig.address) as client:
                assert client.get(name).error == (1, "file not found")
        one, other = rig.reports(2)
        assert (one.outcome, one.is_harmless) == (Outcome.NOT_FOUND, False)
        assert (other.outcome, other.is_harmless) == (Outcome.NOT_FOUND, True)
    assert telemetry.TFTP_REQUESTS.labels("not found")._value.get() == before + 2


def test_writing_is_refused() -> None:
    asked: list[Request] = []
    with Rig(lambda each: asked.append(each)) as rig, Client(rig.address) as client:
        client.send(request("a", {"tsize": 10}, opcode=2))
        assert client.receive() == b"\x00\x05\x00\x02writing is not allowed\x00"
        assert rig.reports()[0].outcome is Outcome.REFUSED
        assert not asked


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"../etc/passwd", 2),
        (b"a/../../b", 2),
        (b"..\\windows", 2),
        (b"", 2),
        (b"/", 2),
        (b"new\nline", 2),
        (b"\x1b[2J", 2),
        (b"latin\xe9", 2),
        ("txt.\u202eexe".encode(), 2),
        (b"x" * 256, 2),
    ],
)
def test_bad_names_never_reach_the_resolver(name: bytes, code: int) -> None:
    asked: list[Request] = []
    with Rig(lambda each: asked.append(each)) as rig, Client(rig.address) as client:
        got = client.get(name)
        assert got.error is not None
        assert got.error[0] == code
        (seen,) = rig.reports()
        assert seen.outcome is Outcome.REFUSED
        assert seen.name.isprintable(), "it goes to people's screens"
        assert not asked


@pytest.mark.parametrize(
    "packet",
    [
        b"\x00\x01",
        b"\x00\x01name",
        b"\x00\x01name\x00",
        b"\x00\x01name\x00octet",
        b"\x00\x01name\x00mail\x00",
        b"\x00\x02name",
    ],
)
def test_requests_that_are_none_are_refused(packet: bytes) -> None:
    with serve({"name": BODY}) as rig, Client(rig.address) as client:
        client.send(packet)
        answer = client.receive()
        assert answer is not None
        assert answer[:4] == b"\x00\x05\x00\x04"
        assert rig.reports()[0].outcome is Outcome.REFUSED


def test_noise_gets_no_answer_and_ends_nothing() -> None:
    noise = random.Random(5)
    with serve({"a": BODY[:5]}) as rig, Client(rig.address) as client:
        for packet in (
            b"",
            b"\x00",
            b"\x00\x04\x00\x01",
            b"\x00\x05\x00\x00\x00",
            b"\x00\x07",
            b"\x01\x01a\x00",
        ):
            client.send(packet)
        for _ in range(300):
            client.send(b"\x00" + bytes([noise.randrange(3, 256)]) + noise.randbytes(noise.randrange(600)))
        assert client.receive(0.1) is None
        assert client.get("a").data == BODY[:5]
        assert rig.server.dropped["no request"] == 306


def test_the_resolver_learns_who_asks_for_what() -> None:
    asked: list[Request] = []

    def resolve(each: Request) -> Content | None:
        asked.append(each)
        assert threading.current_thread() is not threading.main_thread()
        return f"set mac for {each.client}\n".encode()

    with Rig(resolve) as rig, Client(rig.address) as client:
        got = client.get(b"/grub//grub.cfg\xff", {"blksize": 1024, "X": "y"})
        assert got.data == b"set mac for 127.0.0.1\n"
        assert asked == [
            Request(
                "grub/grub.cfg",
                b"/grub//grub.cfg\xff",
                "127.0.0.1",
                "127.0.0.1",
                {"blksize": "1024", "x": "y"},
            )
        ]


def test_an_exception_of_the_resolver_is_an_error_and_no_end() -> None:
    def resolve(each: Request) -> Content | None:
        if each.name == "bad":
            raise RuntimeError("the database is away")
        return b"good"

    with Rig(resolve) as rig:
        with Client(rig.address, wait_s=2) as client:
            assert client.get("bad").error == (0, "the server cannot answer just now")
        with Client(rig.address, wait_s=2) as client:
            assert client.get("good").data == b"good"
        bad, good = rig.reports(2)
        assert (bad.outcome, bad.reason) == (Outcome.FAILED, "RuntimeError: the database is away")
        assert good.outcome is Outcome.SERVED


def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    release = threading.Event()

    def resolve(each: Request) -> Content | None:
        if each.name == "slow":
            release.wait(10)
        return b"late"

    with Rig(resolve, limits=Limits(resolve_s=0.2, patience=HASTY)) as rig:
        with Client(rig.address, wait_s=2) as client, Client(rig.address) as other:
            client.ask("slow")
            client.ask("slow")
            assert other.get("quick").data == b"late", "one slow answer holds up nobody else"
            answer = client.receive()
            assert answer is not None
            assert answer[:4] == b"\x00\x05\x00\x00"
            assert client.receive(0.2) is None, "a request that is repeated meanwhile is the same request"
        release.set()
        assert [seen.outcome for seen in rig.reports(2)] == [Outcome.SERVED, Outcome.FAILED]


def test_a_report_that_cannot_be_recorded_ends_nothing() -> None:
    def record(_: Seen) -> None:
        raise RuntimeError("the timeline is full")

    with Rig(lambda _: b"x", record=record) as rig:
        for _ in range(2):
            with Client(rig.address, wait_s=2) as client:
                assert client.get("a").data == b"x"


def test_files_are_read_as_they_are_sent(media: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"y" * len(BODY))
    with Rig(lambda _: FileContent(media)) as rig, Client(rig.address) as client:
        client.ask("initrd", {"blksize": 1024})
        assert client.receive() is not None
        other.replace(media)
        parts = []
        for number in range(len(BODY) // 1024 + 1):
            client.acknowledge(number)
            packet = client.receive()
            assert packet is not None
            parts.append(packet[4:])
        client.acknowledge(len(parts))
        assert b"".join(parts) == BODY, "a file that was replaced meanwhile is sent to its end"


def test_a_file_that_gets_shorter_meanwhile_is_an_error(media: Path) -> None:
    with Rig(lambda _: FileContent(media)) as rig, Client(rig.address) as client:
        client.ask("initrd", {"blksize": 1024})
        assert client.receive() is not None
        os.truncate(media, 1500)
        client.acknowledge(0)
        client.receive()
        client.acknowledge(1)
        answer = client.receive()
        assert answer is not None
        assert answer[:4] == b"\x00\x05\x00\x00"
        assert rig.reports()[0].outcome is Outcome.FAILED


def test_a_file_that_is_missing_or_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with Rig(lambda each: FileContent(tmp_path / each.name)) as rig:
        for name, code in (("missing", 1), ("pipe", 0), (".", 2)):
            with Client(rig.address) as client:
                got = client.get(name)
                assert got.error is not None
                assert got.error[0] == code, name
        assert rig.reports(3)[0].reason == f"the file is missing: {tmp_path / 'missing'}"


def test_two_hundred_clients_at_once(tmp_path: Path) -> None:
    body = BODY[:60_000]
    (tmp_path / "kernel").write_bytes(body)
    held = threading.Barrier(200, timeout=20)

    def fetch(number: int) -> tuple[bytes, int]:
        with Client(rig.address, source=f"127.0.1.{number + 1}", wait_s=2) as client:
            held.wait()
            got = client.get("kernel", {"blksize": 1468, "windowsize": 8})
            return got.data, number

    limits = Limits(count_loopback=True)
    with (
        Rig(lambda _: FileContent(tmp_path / "kernel"), limits=limits) as rig,
        ThreadPoolExecutor(200) as clients,
    ):
        assert all(data == body for data, _ in clients.map(fetch, range(200)))
        seen = rig.reports(200)
        assert {each.outcome for each in seen} == {Outcome.SERVED}
        assert len({each.client for each in seen}) == 200


def test_many_transfers_of_a_big_file_are_one_file_in_memory(tmp_path: Path) -> None:
    size = 50_000_000
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(size)
    with Rig(lambda _: FileContent(tmp_path / "initrd"), limits=Limits(patience=Patience())) as rig:
        clients = [Client(rig.address, wait_s=2) for _ in range(200)]
        before = _resident()
        for client in clients:
            client.ask("initrd", {"blksize": 1468, "windowsize": 4, "tsize": 0})
            assert client.receive() == b"\x00\x06blksize\x001468\x00windowsize\x004\x00tsize\x0050000000\x00"
            client.acknowledge(0)
            for _ in range(4):
                assert client.receive() is not None
        assert rig.server.transfers == 200
        assert _resident() - before < size, "not even one copy of it"
        for client in clients:
            client.send(b"\x00\x05\x00\x00enough\x00")
        rig.reports(200)
        for client in clients:
            client.sock.close()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_one_client_has_so_many_transfers_and_all_together_too() -> None:
    limits = Limits(transfers=6, transfers_per_client=4, count_loopback=True, patience=Patience())
    with Rig(lambda _: BODY, limits=limits) as rig:
        clients = [Client(rig.address, source=f"127.0.2.{1 + n // 6}", wait_s=0.2) for n in range(12)]
        for client in clients:
            client.ask("a")
        rig.wait(lambda: rig.server.dropped["too many transfers"] == 6)
        expected = [True] * 4 + [False] * 2 + [True] * 2 + [False] * 4
        answered = [
            client.receive(5 if is_served else 0.02) is not None
            for client, is_served in zip(clients, expected, strict=True)
        ]
        assert answered == expected
        for client in clients:
            client.send(b"\x00\x05\x00\x00enough\x00")
        rig.reports(6)
        clients[5].peer = None
        clients[5].ask("a")
        assert clients[5].receive() is not None, "room again"
        for client in clients:
            client.sock.close()


def test_a_flood_from_one_client_leaves_the_others_served() -> None:
    limits = Limits(count_loopback=True, requests_per_s=20, request_burst=10, patience=HASTY)
    with (
        Rig(lambda _: None, limits=limits) as rig,
        Client(rig.address, source="127.0.3.1") as flooding,
        Client(rig.address, source="127.0.3.2") as other,
    ):
        for _ in range(500):
            flooding.sock.sendto(request("nothing"), rig.address)
        assert other.get("a").error == (1, "file not found")
        rig.wait(lambda: rig.server.dropped["too many requests"] >= 100)
        assert len([seen for seen in rig.seen if seen.client == "127.0.3.1"]) < 60
        time.sleep(0.2)
        flooding.peer = None
        assert flooding.receive() is not None


def test_a_client_that_starts_over_from_the_same_port_is_served_anew() -> None:
    with serve({"a": BODY, "b": BODY[:100]}) as rig, Client(rig.address) as client:
        client.ask("a")
        assert client.receive() is not None
        old, client.peer = client.peer, None
        client.ask("b")
        packet = client.receive()
        while packet is not None and client.peer == old:  # a repetition of what it had asked for before
            client.peer = None
            packet = client.receive()
        assert packet == b"\x00\x03\x00\x01" + BODY[:100]
        client.acknowledge(1)
        outcomes = {seen.name: (seen.outcome, seen.reason) for seen in rig.reports(2)}
        assert outcomes == {
            "a": (Outcome.FAILED, "the client has asked again"),
            "b": (Outcome.SERVED, ""),
        }


def test_the_answer_comes_from_the_address_that_was_asked() -> None:
    with (
        Rig(lambda each: str(each.local).encode(), host="0.0.0.0") as rig,
        Client(("127.0.0.9", rig.address[1])) as client,
    ):
        assert client.get("a").data == b"127.0.0.9"
        assert client.peer is not None
        assert client.peer[0] == "127.0.0.9"


def test_a_broadcast_gets_no_answer() -> None:
    with Rig(lambda _: b"x", host="0.0.0.0") as rig, Client(rig.address) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sock.sendto(request("a"), ("127.255.255.255", rig.address[1]))
        assert client.receive(0.1) is None
        assert rig.server.dropped["broadcast"] == 1


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_and_both_at_once() -> None:
    with Rig(lambda each: f"{each.client} {each.local}".encode() + bytes(3000), host="::") as rig:
        with Client(rig.address) as client:
            got = client.get("a", {"blksize": 1468})
            assert got.data[:8] == b"::1 ::1\x00"
            assert got.options == {"blksize": "1448"}, "the header is 20 bytes longer"
        with Client(("127.0.0.1", rig.address[1])) as client:
            got = client.get("a", {"blksize": 1468})
            assert got.data.startswith(b"127.0.0.1 127.0.0.1\x00")
            assert got.options == {"blksize": "1468"}
        assert [seen.client for seen in rig.reports(2)] == ["::1", "127.0.0.1"]


def test_stopping_tells_the_clients_and_frees_the_port() -> None:
    hang = threading.Event()

    def resolve(each: Request) -> Content | None:
        if each.name == "slow":
            hang.wait(5)
        return BODY

    with Rig(resolve) as rig, Client(rig.address) as client, Client(rig.address) as waiting:
        client.ask("a")
        assert client.receive() is not None
        waiting.ask("slow")
        rig.wait(lambda: rig.server.transfers == 2)
        rig.stop()
        hang.set()
        answer = client.receive()
        while answer is not None and answer[1] == 3:
            answer = client.receive()
        assert answer == b"\x00\x05\x00\x00the server stops\x00"
        answer = waiting.receive()
        assert answer is not None
        assert answer[1] == 5
        assert {seen.outcome for seen in rig.reports(2)} == {Outcome.FAILED}
        rig.stop()
        bind("127.0.0.1", rig.address[1]).close()


def test_a_socket_that_is_already_bound_is_taken_over() -> None:
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    with Rig(lambda _: b"x", sock=sock) as rig, Client(rig.address) as client:
        assert rig.address[1] == port
        assert client.get("a").data == b"x"
    assert sock.fileno() == -1


def test_a_port_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as taken, ThreadPoolExecutor(1) as executor:
        port = taken.getsockname()[1]
        server = TftpServer("127.0.0.1", port, lambda _: None, executor=executor)
        with pytest.raises(Unavailable) as refused:
            asyncio.run(server.start())
        assert refused.value.code == "BM303"
        assert str(port) in refused.value.what
        assert "ss -lunp" in (refused.value.fix or "")
        assert refused.value.seen == os.strerror(errno.EADDRINUSE)


def test_port_69_without_the_privilege_says_what_to_do() -> None:
    least = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not least.exists() or int(least.read_text()) <= 69:
        pytest.skip("here, everybody may listen on port 69")
    script = """if True:
        import encodings.idna, os  # what a stranger may not read must be there before
        from baremetal.errors import Unavailable
        from baremetal.netboot.tftp import bind
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            bind("127.0.0.1", 69)
        except Unavailable as trouble:
            print(trouble.code, trouble)
    """
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith(
        "BM303 the TFTP server cannot listen on UDP port 69 (127.0.0.1:69) (seen: Permission denied)"
    )
    assert "CAP_NET_BIND_SERVICE" in said
    assert "ListenDatagram=69" in said
