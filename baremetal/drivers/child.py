"""The inside of a child process that talks IPMI with one BMC, on pyghmi, and may be killed at any moment.

Owns one session at a time and the loop that serves the parent's requests: open, read, write, leave, close. Answers
carry raw completion codes and bytes; what they mean is `ipmi.py`'s. Deliberately knows no URL, no deadline (the parent
kills) and no retries beyond lost packets. It must stay cheap to fork: nothing of the web, the store or the command line
is imported here.

Why pyghmi is bent here (1.6.19; private names, so its version is pinned exactly):

- Its I/O thread wakes a waiter only for packets that come after the waiter is queued, so that a quick BMC costs up to
  a second a command. One session per process needs no thread: `_wait` selects in place.
- Tags and session ids start at the same numbers on every login, so that a late RAKP2 of a former attempt looks like
  a wrong password. Here every attempt has its own.
- A malformed packet ends the caller with IndexError or struct.error. Here it is counted and dropped.
- Login statuses get lost ("table full" after the fall-back to suite 3 reads as "no cipher suite"), an unknown user is
  tried a second time, and silence after RAKP1 means logins without end. Here the first refusal counts, and attempts do.
"""

from __future__ import annotations

import os
import queue
import secrets
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from pyghmi.exceptions import PyghmiException, TemporaryError
from pyghmi.ipmi.private import session as rmcp

from baremetal.errors import BmcErrorKind

Answer = tuple[Any, ...]

_MAX_LOGINS = 6
_FIRST = "the first packet"
_MALFORMED = (IndexError, KeyError, ValueError, TypeError, AttributeError, NotImplementedError, struct.error)
_SUITE_HASH = {None: 256, 17: 256, 3: 1}
_PRIVILEGE = {"callback": 1, "user": 2, "operator": 3, "administrator": 4}


class Failed(Exception):
    """What goes to the parent instead of an answer: the kind, and words without secrets."""

    def __init__(self, kind: BmcErrorKind, what: str, seen: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.kind, self.what, self.seen, self.fix = kind, what, seen, fix


class LoginLog:
    """What was seen while logging in: the evidence from which a failure gets its kind."""

    def __init__(self) -> None:
        self.packets = 0
        self.malformed = 0
        self.logins = 0
        self.phase = _FIRST
        self.status: int | None = None
        self.said = ""
        self.only_v15 = False

    def failure(self, suite: int | None) -> Failed:
        """Class the failed login. Status codes: IPMI 2.0 table 13-15."""
        kinds = BmcErrorKind
        seen = f"status 0x{self.status:02x} in {self.phase}" if self.status is not None else self.said
        if self.only_v15:
            return Failed(
                kinds.UNSUPPORTED, "the BMC speaks only IPMI 1.5", "no IPMI 2.0 in its capabilities"
            )
        if self.status in (0x01, 0x0B):
            return Failed(
                kinds.SESSION_FULL, "the BMC has no free session", seen, "it frees idle ones by itself"
            )
        if self.status in (0x0C, 0x0D, 0x0E):
            return Failed(kinds.AUTH, "the BMC does not know this user", seen, "check the user name")
        if self.status == 0x0F or "password" in self.said or "integrity code" in self.said:
            return Failed(
                kinds.AUTH, "the BMC's password is another one", self.said or seen, "set the right password"
            )
        if self.status in (0x09, 0x0A):
            return Failed(
                kinds.UNSUPPORTED,
                "the BMC does not grant this privilege",
                seen,
                "add ?privilege=operator to the URL",
            )
        if self.status is not None and self.phase == "open session":
            wanted = f"suite {suite}" if suite is not None else "suites 17 and 3"
            return Failed(
                kinds.CIPHER,
                f"the BMC refuses cipher {wanted}",
                seen,
                "enable one of them on the BMC, or drop ?cipher=",
            )
        if self.status is not None:
            return Failed(kinds.PROTOCOL, "the BMC refused the login", seen)
        if not self.packets:
            return Failed(
                kinds.UNREACHABLE,
                "the BMC does not answer",
                "no packet",
                "check address, port and IPMI over LAN",
            )
        if self.phase == _FIRST or self.malformed:
            said = (
                self.said
                if "timeout" not in self.said
                else f"{self.packets} packets, {self.malformed} malformed"
            )
            return Failed(kinds.PROTOCOL, "the BMC answers with what is no IPMI login", said)
        fix = "an old BMC may be silent on suite 17: try ?cipher=3" if self.phase == "open session" else ""
        return Failed(
            kinds.DEADLINE, "the BMC stopped answering during login", f"silence in {self.phase}", fix
        )


class Session(rmcp.Session):  # type: ignore[misc]
    """pyghmi's session with the repairs named above. One at a time: its log and wishes are class attributes."""

    log = LoginLog()
    suite: int | None = None
    any_privilege = True
    privlevel: int

    def _initsession(self) -> None:
        super()._initsession()
        self.localsid = secrets.randbits(31) | 1
        self.rmcptag = secrets.randbelow(200)
        self.attemptedhash = _SUITE_HASH[self.suite]

    def process_pktqueue(self) -> None:
        self.log.packets += len(self.pktqueue)
        super().process_pktqueue()

    def _handle_ipmi_packet(self, data: Any, sockaddr: Any = None, qent: Any = None) -> Any:
        try:
            return super()._handle_ipmi_packet(data, sockaddr=sockaddr, qent=qent)
        except _MALFORMED:
            self.log.malformed += 1
            return None

    def _open_rmcpplus_request(self) -> None:
        self.log.phase = "open session"
        super()._open_rmcpplus_request()

    def _send_rakp1(self) -> None:
        self.log.phase = "RAKP 1"
        super()._send_rakp1()

    def _send_rakp3(self) -> None:
        self.log.phase = "RAKP 3"
        super()._send_rakp3()

    def _req_priv_level(self) -> None:
        self.log.phase = "set privilege"
        super()._req_priv_level()

    def _got_rmcp_response(self, data: Any) -> Any:
        if self.sessioncontext == "OPENSESSION" and data[0] == self.rmcptag and data[1]:
            again = self.suite is None and self.attemptedhash == 256
            if data[1] in (0x01, 0x0B) or not again:
                return self._refused(data[1])
        return super()._got_rmcp_response(data)

    def _got_rakp2(self, data: Any) -> Any:
        if self.sessioncontext == "EXPECTINGRAKP2" and data[0] == self.rmcptag and data[1] not in (0, 2):
            if data[1] in (0x09, 0x0A) and self.any_privilege and self.privlevel == 4:
                self.privlevel = 3  # enough for chassis commands
                return self.login()
            return self._refused(data[1])
        return super()._got_rakp2(data)

    def _got_rakp4(self, data: Any) -> Any:
        # 0x0f once may be the echo of a doubled RAKP3, whose good answer is under way
        forgiven = (0, 2) if self.log.logins else (0, 2, 0x0F)
        if self.sessioncontext == "EXPECTINGRAKP4" and data[0] == self.rmcptag and data[1] not in forgiven:
            return self._refused(data[1])
        return super()._got_rakp4(data)

    def _refused(self, status: int) -> int:
        self.log.status = status
        self.onlogon({"error": f"status {status:#04x}"})
        return -9

    def _get_session_challenge(self) -> None:
        self.log.only_v15 = True
        self.onlogon({"error": "IPMI 1.5 only"})

    def onlogon(self, parameter: dict[str, Any]) -> None:
        if "error" in parameter:
            self.log.said = str(parameter["error"])
        super().onlogon(parameter)

    def _relog(self) -> Any:
        self.log.logins += 1
        if self.log.logins > _MAX_LOGINS:
            return self.onlogon({"error": "timeout"})
        if self.log.phase != _FIRST:
            self.logontries = 2  # it lives: losing packets is no reason to give up yet
        return super()._relog()

    def _timedout(self) -> None:
        if self.sessioncontext == "ESTABLISHED":
            self.logontries = 0  # no second login behind the parent's back, with a write in hand
        super()._timedout()

    def _mark_broken(self, error: Any = None) -> None:
        self.incommand = False  # or logout waits for the command that has just failed
        super()._mark_broken(error)


def _wait(timeout: float, myaddr: Any = None, evq: Any = None) -> None:
    """Stand in for pyghmi's I/O thread: wait for packets in place and queue them."""
    if select.select(rmcp.iosockets, (), (), max(0.0, timeout))[0]:
        rmcp._io_graball(rmcp.iosockets, {})


def _open(
    host: str, port: int, user: bytes, password: bytes, privilege: str | None, suite: int | None
) -> Session:
    rmcp.iothread, rmcp.iothreadready, rmcp._io_wait = object(), True, _wait
    _forget()
    Session.log = LoginLog()
    Session.suite = suite
    Session.any_privilege = privilege is None
    try:
        # a level is always given: with None pyghmi tries a refused user twice
        return Session(
            host,
            user,
            password,
            port=port,
            privlevel=_PRIVILEGE[privilege or "administrator"],
            keepalive=False,
        )
    except socket.gaierror as error:
        raise Failed(
            BmcErrorKind.UNREACHABLE,
            f"the BMC's name {host!r} does not resolve",
            str(error.strerror),
            "check the address",
        ) from None
    except (PyghmiException, TemporaryError, OSError, AssertionError, *_MALFORMED):
        raise Session.log.failure(suite) from None


def _command(session: Session, netfn: int, command: int, data: bytes) -> tuple[int, bytes]:
    """Send one command, repeated while packets get lost: executed at least once when answered, maybe when not."""
    before = session.log.malformed
    try:
        answer = session.raw_command(netfn=netfn, command=command, data=data)
        if "error" not in answer or answer["code"] not in (0xFFFF,):
            return int(answer["code"]), bytes(answer["data"])
    except (PyghmiException, TemporaryError, OSError, AssertionError, *_MALFORMED):
        pass
    if session.log.malformed > before:
        raise Failed(BmcErrorKind.PROTOCOL, "the BMC answers with malformed packets")
    raise Failed(
        BmcErrorKind.DEADLINE,
        "the BMC stopped answering",
        f"silence after command {netfn:#04x}/{command:#04x}",
    )


def _close(session: Session | None) -> None:
    if session is None or session.broken or not session.logged:
        return
    session.maxtimeout = 1  # a lost packet or two are worth repeating, so that the slot is free again
    sid = struct.pack("<I", session.sessionid)
    _command(session, 6, 0x3C, sid)


def _forget() -> None:
    """Drop what pyghmi keeps of earlier sessions, sockets too: a late packet of one BMC must not reach the next."""
    for known in (rmcp.Session.bmc_handlers, rmcp.Session.waiting_sessions, rmcp.Session.initting_sessions):
        known.clear()
    rmcp.Session.keepalive_sessions.clear()
    rmcp.Session.socketpool.clear()
    while rmcp.iosockets:
        rmcp.iosockets.pop().close()


def serve(pipe: Connection) -> None:
    """Serve the parent until it says close or its end of the pipe is gone, and leave the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # pyghmi prints
        os.dup2(null, descriptor)
    inbox: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    try:
        _serve(pipe, inbox)
    except (OSError, EOFError):
        pass
    os._exit(0)


def _listen(pipe: Connection, inbox: queue.SimpleQueue[Answer]) -> None:
    """Hear the parent even while pyghmi blocks: when the parent is gone, so are we, whatever we were doing."""
    while True:
        try:
            inbox.put(pipe.recv())
        except (OSError, EOFError):
            os._exit(0)


def _serve(pipe: Connection, inbox: queue.SimpleQueue[Answer]) -> None:
    session: Session | None = None
    while True:
        request = inbox.get()
        try:
            match request:
                case ("open", *place):
                    session = _open(*place)
                    answer: Answer = ("ok",)
                case ("read", int(netfn), int(command), bytes(data)) if session is not None:
                    answer = ("ok", *_command(session, netfn, command, data))
                case ("write", int(netfn), int(command), bytes(data)) if session is not None:
                    pipe.send(("permit?",))
                    if inbox.get() == ("yes",):
                        answer = ("ok", *_command(session, netfn, command, data))
                    else:
                        answer = ("unsent",)
                case ("leave",):
                    left, session = session, None
                    _close(left)
                    answer = ("ok",)
                case ("modules",):
                    answer = ("ok", sorted(sys.modules))
                case ("close",):
                    _close(session)
                    pipe.send(("ok",))
                    return
                case _:
                    answer = (
                        "failed",
                        str(BmcErrorKind.PROTOCOL),
                        "the driver's child was asked nonsense",
                        "",
                        "",
                    )
        except Failed as error:
            answer = ("failed", str(error.kind), error.what, error.seen, error.fix)
        except Exception as error:
            # what is here is a bug, in pyghmi or in us: name the place, not the values, which may be secret
            where = traceback.extract_tb(error.__traceback__)[-1]
            seen = f"{type(error).__name__} in {where.name}, line {where.lineno}"
            answer = (
                "failed",
                str(BmcErrorKind.PROTOCOL),
                "the BMC's answer could not be understood",
                seen,
                "",
            )
        pipe.send(answer)
