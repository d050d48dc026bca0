"""What the network may throw at a login: ten thousand broken packets, and not one ends the conversation."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from pyghmi.ipmi.private import session as rmcp

from baremetal.drivers.child import LoginLog, Session
from baremetal.errors import BmcErrorKind

RMCP = b"\x06\x00\xff\x07"
BMC = ("::ffff:127.0.0.1", 9, 0, 0)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session in the middle of its login, that sends into the void."""
    monkeypatch.setattr(rmcp, "iothread", object())
    monkeypatch.setattr(rmcp, "iothreadready", True)
    monkeypatch.setattr(rmcp, "_io_sendto", lambda *_: None)
    monkeypatch.setattr(Session, "log", LoginLog())
    monkeypatch.setattr(rmcp.Session, "initting_sessions", {})
    made = Session("127.0.0.1", b"admin", b"right", port=9, onlogon=lambda _: None, privlevel=4)
    monkeypatch.setattr(made, "_mark_broken", lambda *_: None)
    yield made
    made.socket.close()
    rmcp.iosockets.clear()
    rmcp.Session.bmc_handlers.clear()
    rmcp.Session.socketpool.clear()
    rmcp.Session.waiting_sessions.clear()


def _good(session: Session, kind: int, rng: random.Random) -> bytes:
    """Build what a BMC might answer at this point of the login."""
    body = bytes([session.rmcptag, 0, 4, 0]) + session.localsid.to_bytes(4, "little") + rng.randbytes(64)
    if kind == 0:  # IPMI 1.5: channel authentication capabilities
        message = b"\x81\x1c\x63\x20" + bytes([session.seqlun << 2]) + b"\x38\x00\x01\x80\x04\x02" + bytes(5)
        return RMCP + bytes(9) + bytes([len(message)]) + message
    return RMCP + bytes([6, kind]) + bytes(8) + len(body).to_bytes(2, "little") + body


def _bent(packet: bytes, rng: random.Random) -> bytes:
    data = bytearray(packet)
    match rng.randrange(4):
        case 0:
            del data[rng.randrange(5, len(data)) :]
        case 1:
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(4, len(data))] = rng.randrange(256)
        case 2:
            at = rng.randrange(5, len(data))
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        case _:
            data[4:] = rng.randbytes(rng.randrange(1, 80))
    return bytes(data)


def test_ten_thousand_broken_packets(session: Session) -> None:
    rng = random.Random(20)
    contexts = ["OPENSESSION", "EXPECTINGRAKP2", "EXPECTINGRAKP4", "ESTABLISHED", None]
    keys = {
        "k1": b"k" * 32,
        "aeskey": b"a" * 16,
        "currhashlen": 16,
        "pendingsessionid": 1,
        "randombytes": bytes(16),
    }
    for number in range(10_000):
        if number % 100 == 0:
            session._initsession()
            session.ipmiversion = 2.0
            session._open_rmcpplus_request()
            for name, value in keys.items():
                setattr(session, name, value)
        session.sessioncontext = rng.choice(contexts)
        packet = _bent(_good(session, rng.choice([0, 0x11, 0x13, 0x15, 0xC0]), rng), rng)
        session.pktqueue.append((packet, BMC))
        session.process_pktqueue()
    assert session.log.packets == 10_000
    assert session.log.malformed > 1_000, "or the test bends nothing that matters"


@pytest.mark.parametrize(
    ("status", "phase", "kind"),
    [
        (0x01, "open session", BmcErrorKind.SESSION_FULL),
        (0x0B, "RAKP 1", BmcErrorKind.SESSION_FULL),
        (0x0D, "RAKP 1", BmcErrorKind.AUTH),
        (0x0F, "RAKP 3", BmcErrorKind.AUTH),
        (0x09, "RAKP 1", BmcErrorKind.UNSUPPORTED),
        (0x11, "open session", BmcErrorKind.CIPHER),
        (0x04, "open session", BmcErrorKind.CIPHER),
        (0x08, "RAKP 3", BmcErrorKind.PROTOCOL),
    ],
)
def test_statuses(status: int, phase: str, kind: BmcErrorKind) -> None:
    log = LoginLog()
    log.packets, log.status, log.phase = 3, status, phase
    assert log.failure(None).kind is kind
