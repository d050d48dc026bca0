"""The RMCP+ server packet by packet: logins, seals, sequence numbers, repeats, and what malformed packets do."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.sim.completion import Code, LoginStatus, Silence
from baremetal.sim.knobs import HEALTHY, Knobs
from baremetal.sim.packets import Payload, Window, parse, pong
from baremetal.sim.rmcp import BmcFarm, BmcServer
from baremetal.sim.sessions import Privilege, User
from baremetal.sim.suites import SUITES, Keys, Malformed
from tests.unit.sim.rmcp_client import Client, message, outside

pytestmark = pytest.mark.slow

PING = b"\x06\x00\xff\x06\x00\x00\x11\xbe\x80\x07\x00\x00"
CAPABILITIES = b"\x06\x00\xff\x07" + bytes(9) + bytes((9,)) + message(6, 0x38, b"\x8e\x04")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> BmcServer:
    users = (User("admin", "password"), User("night", "shift", Privilege.OPERATOR))
    return BmcServer(SimulatedBmc(DummyChassis(), clock, users=users))


def test_presence_ping_is_answered(server: BmcServer) -> None:
    reply = server.answer(PING, None)
    assert reply is not None
    assert reply[8] == 0x40
    assert reply[9] == 0x07
    assert len(reply) == 28
    assert reply[20] & 0x80, "IPMI supported"
    assert pong(PING[:9]) is None


def test_capabilities_say_ipmi_2_and_named_users(server: BmcServer) -> None:
    reply = server.answer(CAPABILITIES, None)
    assert reply is not None
    data = parse(reply).payload[7:-1]
    assert data[:4] == b"\x01\x80\x04\x02"


def test_cipher_suites_are_listed_sixteen_bytes_at_a_time(server: BmcServer) -> None:
    server.bmc.knobs = replace(HEALTHY, suites=(1, 2, 3, 17))
    got = b""
    for index in range(3):
        reply = server.answer(outside(0, message(6, 0x54, bytes((0x0E, 0, 0x80 | index)))), None)
        assert reply is not None
        got += parse(reply).payload[8:-1]
    assert got == b"".join(SUITES[number].record() for number in (1, 2, 3, 17))


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_every_suite_logs_in_and_carries_commands(server: BmcServer, suite: int) -> None:
    server.bmc.knobs = replace(HEALTHY, suites=(suite,))
    client = Client(server)
    assert client.log_in(suite=suite) == 0
    assert client.honest
    assert client.command(6, 0x3B, b"\x04") == (0, b"\x04")
    for _ in range(20):
        assert client.command(0, 1)[0] == 0
    assert client.command(0, 2, b"\x01") == (0, b"")
    assert server.bmc.chassis.is_on
    assert client.command(6, 0x3C, struct.pack("<I", client.session)) == (0, b"")
    assert len(server.bmc.sessions) == 0


@pytest.mark.parametrize("suite", [0, 1, 2, 15, 16])
def test_a_suite_that_is_not_on_offer_is_refused(server: BmcServer, suite: int) -> None:
    assert Client(server).log_in(suite=suite) == LoginStatus.NO_MATCHING_SUITE
    assert server.bmc.fired["suites"] == 1
    assert len(server.bmc.sessions) == 0


def test_algorithms_left_to_the_bmc_get_its_best_suite(server: BmcServer) -> None:
    client = Client(server)
    payload = bytes((1, 0, 0, 0)) + struct.pack("<I", client.console)
    for kind in range(3):
        payload += bytes((kind, 0, 0, 0, 0, 0, 0, 0))
    reply = client.exchange(Payload.OPEN_REQUEST, payload)
    assert reply[1] == 0
    assert (reply[16], reply[24], reply[32]) == (3, 4, 1)


@pytest.mark.parametrize(
    ("user", "password", "role", "status"),
    [
        ("admin", "wrong", 0x14, LoginStatus.INVALID_INTEGRITY_VALUE),
        ("nobody", "password", 0x14, LoginStatus.UNAUTHORISED_NAME),
        ("night", "shift", 0x14, LoginStatus.UNAUTHORISED_ROLE),
        ("admin", "password", 0x15, LoginStatus.INVALID_ROLE),
        ("a" * 17, "password", 0x14, LoginStatus.INVALID_NAME_LENGTH),
    ],
)
def test_a_login_that_is_refused_says_why_and_frees_its_slot(
    server: BmcServer, user: str, password: str, role: int, status: LoginStatus
) -> None:
    assert Client(server).log_in(user, password, role=role) == status
    assert len(server.bmc.sessions) == 0


def test_a_full_table_refuses_and_frees_itself_after_a_minute(server: BmcServer, clock: Clock) -> None:
    server.bmc.knobs = replace(HEALTHY, max_sessions=2)
    assert [Client(server).log_in() for _ in range(3)] == [0, 0, LoginStatus.TABLE_FULL]
    clock.now += 61
    assert Client(server).log_in() == 0
    assert server.bmc.fired["max_sessions"] == 1
    assert server.bmc.fired["idle_reap"] == 2


def test_privilege_is_raised_up_to_the_users_limit(server: BmcServer) -> None:
    client = Client(server)
    assert client.log_in("night", "shift", role=0x13) == 0
    assert client.command(0, 2, b"\x01")[0] == Code.INSUFFICIENT_PRIVILEGE
    assert client.command(6, 0x3B, b"\x04")[0] == Code.PRIVILEGE_EXCEEDS_LIMIT
    assert client.command(6, 0x3B, b"\x03") == (0, b"\x03")
    assert client.command(0, 2, b"\x01")[0] == 0
    assert client.command(6, 2)[0] == Code.INSUFFICIENT_PRIVILEGE


def test_commands_outside_a_session_are_refused(server: BmcServer) -> None:
    reply = server.answer(outside(0, message(0, 2, b"\x01")), None)
    assert reply is not None
    assert parse(reply).payload[6] == Code.INSUFFICIENT_PRIVILEGE
    assert not server.bmc.chassis.is_on


def test_a_repeated_open_session_takes_one_slot(server: BmcServer) -> None:
    client = Client(server)
    request = client.open_request()
    first = client.exchange(Payload.OPEN_REQUEST, request)
    assert client.exchange(Payload.OPEN_REQUEST, request) == first
    assert len(server.bmc.sessions) == 1


def test_repeated_rakp_messages_hear_the_same_again(server: BmcServer) -> None:
    client = Client(server)
    opened = client.exchange(Payload.OPEN_REQUEST, client.open_request())
    (client.session,) = struct.unpack_from("<I", opened, 8)
    request = client.rakp1()
    first = client.exchange(Payload.RAKP1, request)
    assert client.exchange(Payload.RAKP1, request) == first
    assert client.exchange(Payload.RAKP1, client.rakp1())[1] == LoginStatus.INVALID_SESSION


def test_the_same_packet_again_is_answered_and_not_executed(server: BmcServer) -> None:
    client = Client(server)
    client.log_in()
    client.command(6, 0x3B, b"\x04")
    packet = client.packet(0, 2, b"\x01")
    assert client.read(client.ask(packet))[0] == 0
    assert client.read(client.ask(packet))[0] == 0
    assert server.bmc.requests["chassis-control"] == 1


def test_a_request_under_a_new_number_is_executed_again(server: BmcServer) -> None:
    # so pyghmi repeats: at least once, as on real BMCs
    client = Client(server)
    client.log_in()
    client.command(6, 0x3B, b"\x04")
    client.command(0, 2, b"\x01")
    client.command(0, 2, b"\x01")
    assert server.bmc.requests["chassis-control"] == 2


def test_forged_packets_are_dropped(server: BmcServer) -> None:
    client = Client(server)
    client.log_in()
    packet = client.packet(0, 1)
    for forged in (
        packet[:-1] + bytes((packet[-1] ^ 1,)),
        packet[:20] + bytes((packet[20] ^ 1,)) + packet[21:],
        packet[:5] + bytes((packet[5] & 0x3F,)) + packet[6:],
        packet[:6] + bytes(4) + packet[10:],
    ):
        with pytest.raises(Malformed):
            client.ask(forged)
    assert client.read(client.ask(packet))[0] == 0


@pytest.mark.parametrize("far", [17, 40])
def test_sequence_numbers_far_off_are_dropped(server: BmcServer, far: int) -> None:
    client = Client(server)
    client.log_in()
    for _ in range(50):
        client.command(0, 1)
    assert client.ask(client.packet(0, 1, number=50 - far)) is None
    assert client.ask(client.packet(0, 1, number=50 + far)) is None
    assert client.read(client.ask(client.packet(0, 1, number=65)))[0] == 0
    assert client.read(client.ask(client.packet(0, 1, number=55)))[0] == 0


def test_silence_drops_everything_and_then_ends(server: BmcServer, clock: Clock) -> None:
    server.bmc.freeze(5)
    for packet in (PING, CAPABILITIES):
        with pytest.raises(Silence):
            server.answer(packet, None)
    clock.now += 5
    assert server.answer(PING, None)


def test_sessions_do_not_outlive_a_restart_of_the_bmc(server: BmcServer, clock: Clock) -> None:
    client = Client(server)
    client.log_in()
    client.command(6, 0x3B, b"\x04")
    assert client.command(6, 2) == (0, b"")
    with pytest.raises(Silence):
        client.command(0, 1)
    clock.now += HEALTHY.reboot_s
    with pytest.raises(Malformed):
        client.command(0, 1)
    assert Client(server).log_in() == 0


@given(st.lists(st.integers(0, 60), max_size=80))
def test_no_sequence_number_is_accepted_twice(numbers: list[int]) -> None:
    window = Window()
    accepted = [number for number in numbers if window.accept(number)]
    assert len(accepted) == len(set(accepted))
    assert 0 not in accepted


@given(st.binary(max_size=200), st.sampled_from(sorted(SUITES)))
def test_what_is_sealed_opens_again(text: bytes, number: int) -> None:
    keys: Keys = SUITES[number].derive(b"key", b"text")
    if keys.encrypts:
        assert keys.decrypt(keys.encrypt(text)) == text


_FUZZ = settings(
    max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_PACKETS = st.one_of(
    st.binary(max_size=120),
    st.binary(max_size=100).map(lambda rest: b"\x06\x00\xff\x07" + rest),
    st.sampled_from(
        [PING, CAPABILITIES, outside(0, message(6, 0x54, b"\x0e\x00\x80")), outside(0x10, bytes(32))]
        + [outside(kind, bytes((1, 0, 0, 0)) + bytes(60)) for kind in range(0x10, 0x17)]
    ),
    st.tuples(st.sampled_from([0, 2, 4, 6, 6, 10, 44, 62]), st.integers(0, 255), st.binary(max_size=40)),
)


@pytest.fixture
def fuzzed(server: BmcServer) -> Client:
    return Client(server)


@_FUZZ
@given(
    packet=_PACKETS,
    mutations=st.lists(st.tuples(st.integers(0, 130), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 8),
)
def test_no_packet_can_do_more_than_be_dropped(
    fuzzed: Client,
    clock: Clock,
    packet: bytes | tuple[int, int, bytes],
    mutations: list[tuple[int, int]],
    cut: int,
) -> None:
    """Random packets, mutated ones, and mutated ones inside a live session: an answer, or one of two exceptions."""
    if fuzzed.server.bmc.sessions.get(fuzzed.session) is None:
        clock.now += 60  # a reset of the BMC that was hit upon is over by now
        assert fuzzed.log_in() == 0
        assert fuzzed.command(6, 0x3B, b"\x04") == (0, b"\x04")
    mutated = bytearray(packet if isinstance(packet, bytes) else fuzzed.packet(*packet))
    for place, value in mutations:
        if place < len(mutated):
            mutated[place] = value
    try:
        fuzzed.server.answer(bytes(mutated[: len(mutated) - cut]), ("127.0.0.1", 1))
    except (Malformed, Silence):
        pass


def test_the_loop_survives_rubbish_and_chassis_that_fail() -> None:
    class BrokenChassis(DummyChassis):
        def power_on(self, boot: object) -> None:
            raise RuntimeError("no such machine")

    bmc = SimulatedBmc(BrokenChassis(), time.monotonic)
    with BmcFarm() as farm, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        port = farm.add(bmc)
        wire.settimeout(2)
        wire.connect(("127.0.0.1", port))
        rubbish = random.Random(7)
        for _ in range(300):
            wire.send(rubbish.randbytes(rubbish.randrange(80)))
            wire.send(b"\x06\x00\xff\x07" + rubbish.randbytes(rubbish.randrange(80)))

        def press() -> None:
            client = Client(farm.servers[port])
            client.log_in()
            client.command(6, 0x3B, b"\x04")
            farm.servers[port].datagram_received(client.packet(0, 2, b"\x01"), ("127.0.0.1", 9))

        farm.call(press)
        assert farm.servers[port].dropped["error"] == 1, "the chassis, and no packet"
        assert any(_pings(wire) for _ in range(5))


def _pings(wire: socket.socket) -> bool:
    """Ping once; the system may have dropped a packet of the flood, so callers try again."""
    wire.send(PING)
    try:
        while wire.recv(100)[8:9] != b"\x40":
            pass
    except TimeoutError:
        return False
    return True


def test_a_port_that_is_taken_is_an_os_error() -> None:
    async def twice() -> None:
        bmc = SimulatedBmc(DummyChassis(), time.monotonic)
        first = BmcServer(bmc)
        port = await first.start()
        with pytest.raises(OSError):
            await BmcServer(bmc).start(port=port)
        await first.stop()
        await first.stop()

    asyncio.run(twice())


def test_a_settling_power_command_takes_effect_without_being_asked() -> None:
    bmc = SimulatedBmc(DummyChassis(), time.monotonic, Knobs(settle_s=0.05))
    with BmcFarm() as farm:
        port = farm.add(bmc)

        def press() -> bool:
            server = farm.servers[port]
            client = Client(server)
            client.log_in()
            client.command(6, 0x3B, b"\x04")
            server.datagram_received(client.packet(0, 2, b"\x01"), ("127.0.0.1", 9))
            return bmc.chassis.is_on

        assert farm.call(press) is False
        deadline = time.monotonic() + 5
        while not bmc.chassis.is_on and time.monotonic() < deadline:
            time.sleep(0.01)
        assert bmc.chassis.is_on


def test_a_closed_session_has_no_keys_left(server: BmcServer) -> None:
    client = Client(server)
    client.log_in()
    server.bmc.sessions.close(client.session)
    with pytest.raises(Malformed):
        client.command(0, 1)
