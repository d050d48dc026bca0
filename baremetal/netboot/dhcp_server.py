"""Our dnsmasq: a child that is tested before it is used, watched while it runs and started again when it ends.

Owns the child, its files and its back-off. A server that is added or moved is a new hosts file and a SIGHUP, so that no
lease is lost; other settings are a restart on the same lease file. What its log shows of machines goes to a callback.
Deliberately unknown: what a segment should be told (`offer.py`) and how that is written (`dnsmasq.py`).

The child dies with us, however we end: it asks the kernel for a signal at its parent's death (PR_SET_PDEATHSIG), which
means the parent *thread*, so one thread starts it and stays. It keeps our own user and group: a change of either would
take that signal away, and our files are readable by ourselves alone.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from baremetal import telemetry
from baremetal.errors import BaremetalError, Invalid, Refused, Unavailable
from baremetal.netboot import dnsmasq
from baremetal.netboot.advertiser import Advertiser, has_global_address
from baremetal.netboot.interface import check, index_of
from baremetal.netboot.offer import Host, Mode, Network
from baremetal.netboot.sightings import Reader, Seen

log = telemetry.logger(__name__)

PROGRAM = "dnsmasq"
START_S = 10.0
STOP_S = 5.0
TICK_S = 0.5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0  # a child that ran this long has a fresh start's patience
_ADMINISTRATION = ("/usr/sbin", "/sbin", "/usr/local/sbin")

# Runs before dnsmasq in the child: a fork of a large threaded process must not run Python of ours (`preexec_fn`).
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Status:
    """How the child is: running since, or why not and how often it was started again."""

    is_running: bool
    why: str = ""
    restarts: int = 0
    pid: int | None = None


class DhcpServer:
    """One dnsmasq. `heard` gets sightings and `changed` the status, both in the watching thread: be quick there."""

    def __init__(
        self,
        network: Network,
        hosts: Sequence[Host] = (),
        *,
        folder: Path,
        heard: Callable[[Seen], None] = lambda seen: None,
        changed: Callable[[Status], None] = lambda status: None,
        program: str = PROGRAM,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        if network.mode is Mode.EXTERNAL:
            raise ValueError("mode external has no server of ours")
        self._network = network
        self._folder = folder
        self._heard = heard
        self._changed = changed
        self._program = program
        self._first_pause_s = first_pause_s
        self._hosts = tuple(hosts)
        self._text = dnsmasq.config(network)
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stale = False  # the hosts changed while the child was starting
        self._status = Status(False, "not started")
        self._halt = threading.Event()
        self._again = threading.Event()  # a restart is wanted, at once
        self._settled = threading.Event()  # the first start has ended, one way or the other
        self._failure: BaremetalError | None = None
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> Status:
        """How the child is just now."""
        return self._status

    def start(self) -> None:
        """Start, and return when dnsmasq serves. Raises what `check` raises, and Invalid BM306, Unavailable BM305.

        Later ends of the child raise nothing: it is started again until `stop`.
        """
        self._check()
        self._write()
        self._test(self._text)
        self._thread = threading.Thread(target=self._watch, name="dhcp", daemon=True)
        self._thread.start()
        self._settled.wait(START_S + STOP_S)
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """End the child and the watching. Idempotent."""
        self._halt.set()
        self._again.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(START_S + 2 * STOP_S)

    def keep_hosts(self, hosts: Sequence[Host]) -> tuple[Host, ...]:
        """Give these servers their addresses from now on; return those left out for a MAC or address given twice.

        Does nothing where nothing changed. Raises Invalid BM306.
        """
        with self._lock:
            before = dnsmasq.hosts(self._hosts)
            text, left_out = dnsmasq.hosts(hosts)
            self._hosts = tuple(hosts)
            if (text, left_out) == before:
                return left_out
            for host in left_out:
                log.warning(
                    "address or MAC given twice, left out of DHCP", server=host.name, address=host.address
                )
            if self._network.hosts_file and self._network.mode is Mode.FULL:
                _replace(Path(self._network.hosts_file), text)
                self._is_stale = True
                self._refresh()
            return left_out

    def configure(self, network: Network) -> None:
        """Take other settings: they are tested, then dnsmasq is started again, its leases kept. Raises Invalid BM306.

        What runs goes on where they are wrong.
        """
        text = dnsmasq.config(network)
        with self._lock:
            if text == self._text:
                return
            self._test(text)
            self._network, self._text = network, text
            self._write()
        self._again.set()

    def _refresh(self) -> None:
        """Have the child read its hosts again, once it serves: before that the signal would end it."""
        with self._lock:
            if self._is_stale and self._child is not None and self._status.is_running:
                self._is_stale = False
                with contextlib.suppress(ProcessLookupError):
                    self._child.send_signal(signal.SIGHUP)

    # ---- files and tests

    def _check(self) -> None:
        ports = (67, 4011) if self._network.mode is Mode.PROXY else (67,)
        for interface in self._network.interfaces:
            check(interface, *ports)
        self._find_program()

    def _find_program(self) -> str:
        found = shutil.which(
            self._program, path=os.pathsep.join((os.environ.get("PATH", ""), *_ADMINISTRATION))
        )
        if found is None:
            raise Unavailable(
                f"{self._program} is not installed",
                code="BM305",
                fix='install it (apt-get install dnsmasq-base), or set [dhcp] mode = "external"',
            )
        return found

    @property
    def _conf(self) -> Path:
        return self._folder / "dnsmasq.conf"

    def _write(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._conf, self._text)
            if self._network.hosts_file:
                _replace(Path(self._network.hosts_file), dnsmasq.hosts(self._hosts)[0])
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be written: {error.strerror}", code="BM305") from error

    def _test(self, text: str) -> None:
        """Have dnsmasq read the settings, and do nothing else. Raises Invalid BM306 with the line."""
        trial = self._folder / "trial.conf"
        _replace(trial, text)
        done = subprocess.run(
            [self._find_program(), "--test", f"--conf-file={trial}"],
            capture_output=True, text=True, timeout=START_S, check=False, env=_environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        trial.unlink(missing_ok=True)
        if done.returncode:
            said = " ".join(done.stderr.replace(str(trial), "the settings").split())
            raise Invalid(
                "dnsmasq refuses its settings", code="BM306", seen=said[-400:], fix="correct [dhcp]"
            )

    # ---- the child

    def _watch(self) -> None:
        pause_s = self._first_pause_s
        restarts = 0
        try:
            while not self._halt.is_set():
                self._again.clear()
                began = time.monotonic()
                try:
                    if self._settled.is_set():
                        self._check()
                    why = self._run(restarts)
                except BaremetalError as error:
                    why = str(error)
                    if not self._settled.is_set():
                        self._failure = error
                        return
                if self._halt.is_set():
                    return
                if self._again.is_set():  # asked for: at once, and no fault
                    continue
                restarts += 1
                if time.monotonic() - began > STEADY_S:
                    pause_s = self._first_pause_s
                self._tell(Status(False, why, restarts))
                log.warning("dnsmasq is down", why=why, again_in_s=pause_s)
                self._settled.set()
                self._again.wait(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        finally:
            self._tell(Status(False, "stopped" if self._halt.is_set() else self._status.why, restarts))
            self._settled.set()

    def _run(self, restarts: int) -> str:
        """Run one child until it ends or is to end; return why, in words."""
        program = self._find_program()
        command = [
            sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), program,
            "--keep-in-foreground", f"--conf-file={self._conf}", "--log-facility=-",
            f"--user={pwd.getpwuid(os.geteuid()).pw_name}", f"--group={grp.getgrgid(os.getegid()).gr_name}",
            "--pid-file=",
        ]  # fmt: skip
        indexes = {name: index_of(name) for name in self._network.interfaces}
        with self._lock, _as_unavailable():
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        child = self._child
        advertisers = self._advertise()
        try:
            return self._follow(child, indexes, restarts)
        finally:
            for advertiser in advertisers:
                advertiser.stop()
            self._end(child)

    def _advertise(self) -> list[Advertiser]:
        """Answer IPv6 router solicitations where dnsmasq will not."""
        started = []
        if self._network.mode is Mode.FULL and self._network.router_advertisements:
            for name in self._network.interfaces:
                if has_global_address(name):
                    continue
                try:
                    advertiser = Advertiser(name)
                except OSError as error:  # IPv6 is off: machines boot all the same, later
                    log.warning(
                        "no IPv6 here, iPXE will wait 13 s for it", interface=name, why=error.strerror
                    )
                    continue
                advertiser.start()
                started.append(advertiser)
        return started

    def _follow(self, child: subprocess.Popen[bytes], indexes: dict[str, int | None], restarts: int) -> str:
        assert child.stderr is not None
        reader, last = Reader(), deque[str](maxlen=3)
        deadline = time.monotonic() + START_S
        serves = False
        with _Lines(child.stderr) as lines:
            while True:
                heard = lines.wait(TICK_S)
                for line in heard or ():
                    last.append(line.partition(": ")[2] or line)
                    if not serves and " started, " in line:
                        serves = True
                        self._tell(Status(True, restarts=restarts, pid=child.pid))
                        self._refresh()
                        self._settled.set()
                    self._hear(reader.read(line))
                if not heard:
                    self._hear(reader.flush())
                if heard is None:
                    break
                if self._halt.is_set() or self._again.is_set():
                    return "asked to"
                gone = [name for name, index in indexes.items() if index_of(name) != index]
                if gone:
                    return f"interface {gone[0]} is gone"
                if not serves and time.monotonic() > deadline:
                    raise Unavailable("dnsmasq does not begin to serve", code="BM305", seen=" / ".join(last))
        code = child.wait(STOP_S)
        if not serves and not self._settled.is_set():
            raise _start_error(code, " / ".join(last))
        return f"ended by signal {-code}" if code < 0 else f"ended with {code}: {' / '.join(last)}"

    def _hear(self, sightings: Iterable[Seen]) -> None:
        for seen in sightings:
            try:
                self._heard(seen)
            except Exception as error:  # a fault of the listener's must not end DHCP
                log.error("a DHCP sighting was lost", kind=str(seen.kind), error=repr(error))

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._child = None
        for number in (signal.SIGTERM, signal.SIGKILL):
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(STOP_S)
        if child.stderr is not None:
            child.stderr.close()

    def _tell(self, status: Status) -> None:
        self._status = status
        self._changed(status)


class _Lines:
    """A pipe as batches of lines, waited for with a time-out: None when it has ended."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._fd = pipe.fileno()
        os.set_blocking(self._fd, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._fd, selectors.EVENT_READ)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def wait(self, seconds: float) -> list[str] | None:
        if not self._selector.select(seconds):
            return []
        data = os.read(self._fd, 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > 1 << 16:
            self._rest = b""
        return [line.decode("utf-8", "replace") for line in lines]


def _start_error(code: int, said: str) -> BaremetalError:
    if "already in use" in said:
        return Unavailable(
            "dnsmasq's port is in use", code="BM303", seen=said, fix="stop the other DHCP server"
        )
    if "interface" in said:
        return Unavailable(
            "dnsmasq cannot serve on its interface", code="BM304", seen=said, fix="correct [dhcp]"
        )
    if "ermission" in said or "not permitted" in said:
        return Refused("dnsmasq may not do its work as this user", code="BM305", seen=said)
    return Unavailable(f"dnsmasq ended at once with {code}", code="BM305", seen=said)


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"dnsmasq cannot be started: {error.strerror}", code="BM305") from error


def _environment() -> dict[str, str]:
    """Its lines are read by us: no translations."""
    return {**{name: os.environ[name] for name in ("PATH",) if name in os.environ}, "LC_ALL": "C"}


def _replace(path: Path, text: str) -> None:
    """Write a file that is either the old or the new one at any moment."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)
