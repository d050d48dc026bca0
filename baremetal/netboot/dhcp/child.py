"""dnsmasq as a process: found, asked for its opinion of settings, started, read line by line, ended.

The child dies with us, however we end: it asks the kernel for a signal at its parent's death (PR_SET_PDEATHSIG), which
means the parent *thread*, so whoever starts it must stay. It keeps our own user and group: a change of either would
take that signal away, and our files are readable by ourselves alone. Deliberately unknown: when to start it again.
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
from collections.abc import Iterator
from pathlib import Path

from baremetal.errors import BaremetalError, Invalid, Refused, Unavailable

PROGRAM = "dnsmasq"
ANSWER_S = 10.0
END_S = 5.0
_ADMINISTRATION = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_LONGEST_LINE = 1 << 16

# Runs before dnsmasq in the child: a fork of a large threaded process must not run Python of ours (`preexec_fn`).
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find(program: str = PROGRAM) -> str:
    """Return where dnsmasq is; daemons' folders are not in every user's PATH. Raises Unavailable BM305."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_ADMINISTRATION))
    if (found := shutil.which(program, path=path)) is None:
        raise Unavailable(
            f"{program} is not installed",
            code="BM305",
            fix='install it (apt-get install dnsmasq-base), or set [dhcp] mode = "external"',
        )
    return found


def test(program: str, file: Path) -> None:
    """Have dnsmasq read its settings, and do nothing else. Raises Invalid BM306 with its words, Unavailable BM305."""
    command = [program, "--test", f"--conf-file={file}"]
    with as_unavailable("dnsmasq cannot be run"):
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=ANSWER_S,
            check=False,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").replace(str(file), "the settings").split())
        raise Invalid("dnsmasq refuses its settings", code="BM306", seen=said[-400:], fix="correct [dhcp]")


class Child:
    """One running dnsmasq. Starts at once. Raises Unavailable BM305 where that cannot be done."""

    def __init__(self, program: str, file: Path) -> None:
        command = [
            sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), program,
            "--keep-in-foreground", f"--conf-file={file}", "--log-facility=-", "--pid-file=",
            f"--user={pwd.getpwuid(os.geteuid()).pw_name}", f"--group={grp.getgrgid(os.getegid()).gr_name}",
        ]  # fmt: skip
        with as_unavailable("dnsmasq cannot be started"):
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        assert self._process.stderr is not None
        self._pipe = self._process.stderr
        os.set_blocking(self._pipe.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def lines(self, seconds: float) -> list[str] | None:
        """Return the lines that it wrote within so many seconds, maybe none; None when it has ended."""
        if not self._selector.select(seconds):
            return []
        data = os.read(self._pipe.fileno(), 1 << 16)
        if not data:
            return None
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) < _LONGEST_LINE else b""
        return [line.decode("utf-8", "replace") for line in lines]

    def hang_up(self) -> None:
        """Have it read its hosts again. It must serve already: before that the signal ends it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGHUP)

    def end(self) -> int:
        """End it: ask, wait, kill. Return its exit status, negative for a signal. Idempotent."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_S)
        self._selector.close()
        self._pipe.close()
        return self._process.wait()

    def wait(self) -> int:
        """Return the exit status of one whose lines have ended; ends it if it lives on without them."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_S)
        return self.end()


def start_error(code: int, said: str) -> BaremetalError:
    """Word why dnsmasq ended before it served."""
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
def as_unavailable(what: str) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{what}: {error.strerror}", code="BM305") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{what}: no answer within {error.timeout:.0f} s", code="BM305") from error


def _environment() -> dict[str, str]:
    """Its lines are read by us: no translations."""
    return {**{name: os.environ[name] for name in ("PATH",) if name in os.environ}, "LC_ALL": "C"}
