"""The IPMI driver against BMCs that break the protocol, on real sockets; and what its codes mean."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version

import pytest

from baremetal.drivers.base import BmcCredentials, BmcUrl, Deadlines, PowerState
from baremetal.drivers.ipmi import IpmiDriver
from baremetal.errors import BmcError, BmcErrorKind, Invalid, Unavailable
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.sim.rmcp import BmcFarm
from baremetal.sim.sessions import User

pytestmark = pytest.mark.slow

Answer = Callable[[bytes], list[bytes]]
RMCP = b"\x06\x00\xff\x07"


@contextmanager
def bmc_that(answer: Answer) -> Iterator[tuple[int, list[bytes]]]:
    """Serve a UDP port with a function from one packet to the replies; yields port and packets seen."""
    seen: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.05)
        ending = threading.Event()

        def serve() -> None:
            while not ending.is_set():
                try:
                    packet, address = server.recvfrom(2048)
                except TimeoutError:
                    continue
                seen.append(packet)
                for reply in answer(packet):
                    server.sendto(reply, address)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], seen
        finally:
            ending.set()
            thread.join()


@contextmanager
def proxied(change: Callable[[bytes, bool], list[bytes]]) -> Iterator[tuple[int, SimulatedBmc]]:
    """Stand between driver and a healthy BMC. `change` gets (packet, to the BMC?) and returns what goes on."""
    bmc = SimulatedBmc(DummyChassis(), time.monotonic, users=(User("admin", "right"),))
    with BmcFarm() as farm:
        inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        inner.connect(("127.0.0.1", farm.add(bmc)))
        inner.settimeout(0.1)

        def pass_on(packet: bytes) -> list[bytes]:
            replies: list[bytes] = []
            for inward in change(packet, True):
                inner.send(inward)
                try:
                    replies += change(inner.recv(2048), False)
                except TimeoutError:
                    pass
            return replies

        with inner, bmc_that(pass_on) as (port, _):
            yield port, bmc


def _is(packet: bytes, payload: int) -> bool:
    return len(packet) > 5 and packet[4] == 6 and packet[5] & 0x3F == payload


OPEN_RESPONSE, RAKP1, RAKP2, RAKP3, RAKP4 = 0x11, 0x12, 0x13, 0x14, 0x15


def _open(
    port: int,
    password: str = "right",
    options: str = "",
    deadlines: Deadlines | None = None,
    user: str = "admin",
) -> IpmiDriver:
    url = BmcUrl.parse(f"ipmi://127.0.0.1:{port}?{options}".rstrip("?"))
    return IpmiDriver(url, BmcCredentials(user, password), deadlines or Deadlines())


def _failure(port: int, password: str = "right", options: str = "") -> BmcError:
    with pytest.raises(BmcError) as caught:
        _open(port, password, options).close()
    return caught.value


class TestBrokenBmcs:
    def test_rubbish_ends_soon_and_is_named(self) -> None:
        replies = {
            "four bytes": RMCP,
            "a header without a body": RMCP + b"\x06\x11",
            "IPMI 1.5 cut short": RMCP + bytes(5),
            "a length that lies": RMCP + bytes(9) + b"\xff" + b"\x81\x1c",
            "RAKP 2 out of the blue": RMCP + b"\x06\x13" + bytes(12),
            "unknown payload": RMCP + b"\x06\x3f" + bytes(60),
            "no RMCP at all": b"HTTP/1.1 400 Bad Request\r\n\r\n",
        }

        def ask(reply: bytes) -> tuple[BmcErrorKind, bool, bool]:
            with bmc_that(lambda _: [reply]) as (port, seen):
                start = time.monotonic()
                return _failure(port).kind, time.monotonic() - start < 8, len(seen) < 10

        with ThreadPoolExecutor(len(replies)) as pool:
            found = dict(zip(replies, pool.map(ask, replies.values()), strict=True))
        assert found == dict.fromkeys(replies, (BmcErrorKind.PROTOCOL, True, True))

    def test_rubbish_beside_good_answers_is_dropped(self) -> None:
        def change(packet: bytes, to_bmc: bool) -> list[bytes]:
            return [packet] if to_bmc else [RMCP, b"", RMCP + b"\x06\x13\x00", packet[:20], packet]

        with proxied(change) as (port, _):
            bmc = _open(port)
            assert bmc.power() is PowerState.OFF
            bmc.close()

    def test_a_flood_cannot_outlast_the_deadline(self) -> None:
        with bmc_that(lambda _: [RMCP + bytes(8)] * 3000) as (port, _):
            start = time.monotonic()
            with pytest.raises(BmcError):
                _open(port, deadlines=Deadlines(connect_s=1.0))
            assert time.monotonic() - start < 3

    def test_a_bmc_that_ignores_the_user_is_not_asked_for_ever(self) -> None:
        rakp1: list[bytes] = []

        def change(packet: bytes, to_bmc: bool) -> list[bytes]:
            if to_bmc and _is(packet, RAKP1):
                rakp1.append(packet)
                return []
            return [packet]

        with proxied(change) as (port, _):
            error = _failure(port)
        assert error.kind is BmcErrorKind.DEADLINE
        assert "RAKP 1" in str(error)
        assert 1 < len(rakp1) < 9

    def test_a_late_answer_of_a_former_login_is_no_wrong_password(self) -> None:
        """A RAKP 2 that comes after its login was given up once looked like a wrong password, and would freeze."""
        late: list[bytes] = []

        def change(packet: bytes, to_bmc: bool) -> list[bytes]:
            if not to_bmc and _is(packet, RAKP2):
                if not late:
                    late.append(packet)
                    return []
                return [late[0], packet]
            return [packet]

        with proxied(change) as (port, bmc):
            driver = _open(port)
            assert driver.power() is PowerState.OFF
            driver.close()
            assert bmc.requests["rakp1"] == 2
            assert bmc.sessions.wrong_passwords == 0

    def test_every_login_packet_doubled(self) -> None:
        with proxied(lambda packet, _: [packet, packet]) as (port, _):
            driver = _open(port)
            assert driver.power() is PowerState.OFF
            driver.close()

    def test_a_bmc_of_another_age(self) -> None:
        def only_v15(packet: bytes) -> list[bytes]:
            body = struct.pack("BBBB", 0x81, 0x1C, 0x63, 0x20) + packet[18:19] + b"\x38\x00"
            body += bytes([1, 0x04, 0x04, 0, 0, 0, 0, 0])
            body += bytes([-sum(body[3:]) & 0xFF])
            return [RMCP + bytes(9) + bytes([len(body)]) + body]

        with bmc_that(only_v15) as (port, _):
            error = _failure(port)
        assert error.kind is BmcErrorKind.UNSUPPORTED
        assert "1.5" in str(error)

    def test_a_wrong_password_never_reaches_the_point_that_counts(self) -> None:
        """pyghmi sees from RAKP 2 that the keys differ, so the BMC's own counter may not even move."""
        with proxied(lambda packet, _: [packet]) as (port, bmc):
            error = _failure(port, password="wrong")
            assert error.kind is BmcErrorKind.AUTH
            assert bmc.requests["rakp1"] == 1
            assert bmc.requests["rakp3"] == 0
            assert "wrong" not in str(error).replace("wrong password", "")


class TestAnswers:
    """Completion codes and short answers, spoken by a BMC whose commands are replaced."""

    @pytest.fixture
    def bmc(self) -> Iterator[tuple[SimulatedBmc, IpmiDriver]]:
        bmc = SimulatedBmc(DummyChassis(), time.monotonic, users=(User("admin", "right"),))
        with BmcFarm() as farm:
            driver = _open(farm.add(bmc))
            yield bmc, driver
            driver.close()

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (0xC0, BmcErrorKind.BUSY),
            (0xC3, BmcErrorKind.BUSY),
            (0xC4, BmcErrorKind.BUSY),
            (0xD2, BmcErrorKind.BUSY),
            (0xD5, BmcErrorKind.CONFLICT),
            (0xC1, BmcErrorKind.UNSUPPORTED),
            (0x80, BmcErrorKind.UNSUPPORTED),
            (0xCC, BmcErrorKind.UNSUPPORTED),
            (0xD4, BmcErrorKind.UNSUPPORTED),
            (0xFF, BmcErrorKind.PROTOCOL),
            (0x01, BmcErrorKind.PROTOCOL),
        ],
    )
    def test_codes(
        self,
        bmc: tuple[SimulatedBmc, IpmiDriver],
        monkeypatch: pytest.MonkeyPatch,
        code: int,
        kind: BmcErrorKind,
    ) -> None:
        simulated, driver = bmc
        with monkeypatch.context() as patch:
            patch.setattr(simulated, "handle", lambda *_: (code, b""))
            with pytest.raises(BmcError) as caught:
                driver.power()
        assert caught.value.kind is kind
        assert f"0x{code:02X}" in str(caught.value)
        assert driver.power() is PowerState.OFF

    @pytest.mark.parametrize("call", ["power", "boot_device", "check"])
    def test_short_answers(
        self, bmc: tuple[SimulatedBmc, IpmiDriver], monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        simulated, driver = bmc
        with monkeypatch.context() as patch:
            patch.setattr(simulated, "handle", lambda *_: (0, b""))
            with pytest.raises(BmcError, match="0 bytes") as caught:
                getattr(driver, call)()
        assert caught.value.kind is BmcErrorKind.PROTOCOL


class TestAccounts:
    @pytest.mark.parametrize(
        ("user", "password"), [("u" * 17, "x"), ("u", "p" * 21), ("ü" * 9, "x"), ("u", "ü" * 11)]
    )
    def test_what_ipmi_cannot_carry_is_said_before_a_packet_leaves(self, user: str, password: str) -> None:
        with bmc_that(lambda _: []) as (port, seen):
            with pytest.raises(Invalid, match="at most") as caught:
                _open(port, password, user=user)
            assert password not in str(caught.value) or password == "x"
            assert seen == []

    @pytest.mark.parametrize(
        ("user", "password"), [("u" * 16, "p" * 20), ("", ""), ("üser", "päss wörd:@/#%")]
    )
    def test_what_it_can_carry_logs_in(self, user: str, password: str) -> None:
        bmc = SimulatedBmc(DummyChassis(), time.monotonic, users=(User(user, password),))
        with BmcFarm() as farm:
            driver = _open(farm.add(bmc), password, user=user)
            assert driver.power() is PowerState.OFF
            driver.close()


@pytest.mark.parametrize("options", ["bridge=0x82:7", "cipher=8"])
def test_what_is_not_supported_is_said_in_the_open(options: str) -> None:
    with bmc_that(lambda _: []) as (port, seen):
        error = _failure(port, options=options)
        assert error.kind is BmcErrorKind.UNSUPPORTED
        assert options.partition("=")[0] in str(error)
        assert seen == []


def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    bmc = SimulatedBmc(DummyChassis(), time.monotonic, users=(User("admin", "right"),))
    with BmcFarm("::1") as farm:
        url = BmcUrl.parse(f"ipmi://[::1]:{farm.add(bmc)}")
        driver = IpmiDriver(url, BmcCredentials("admin", "right"), Deadlines())
        assert driver.power() is PowerState.OFF
        driver.close()


def test_no_process_more_is_our_trouble_and_not_the_bmcs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("baremetal.drivers.process.Pipe", refuse)
    with pytest.raises(Unavailable, match="Too many open files"):
        _open(1)


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(BmcError, match="does not resolve") as caught:
        IpmiDriver(BmcUrl.parse("ipmi://bmc.invalid"), BmcCredentials("a", "b"), Deadlines())
    assert caught.value.kind is BmcErrorKind.UNREACHABLE


def test_pyghmi_is_the_one_that_was_read() -> None:
    """child.py replaces private methods of pyghmi: read its session.py again before raising this."""
    assert version("pyghmi") == "1.6.19"
