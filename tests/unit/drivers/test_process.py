"""Children that may hang: what they load, when they are killed, that none is left, and nothing of theirs either."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from baremetal.drivers import nursery, process
from baremetal.drivers.process import Child, warm
from baremetal.errors import BmcError, BmcErrorKind, Superseded

pytestmark = pytest.mark.slow

# a place where nobody answers: a socket that is bound and never read
HANG = ("open", "127.0.0.1", 9, b"user", b"password", None, None)


def _await(claim: Callable[[], bool], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            pass
    return found


def test_a_child_loads_pyghmi_and_nothing_of_the_rest() -> None:
    child = Child()
    _, modules = child.ask(("modules",), 10)
    child.kill()
    assert "pyghmi.ipmi.private.session" in modules
    heavy = (
        "fastapi",
        "starlette",
        "uvicorn",
        "sqlalchemy",
        "sqlmodel",
        "alembic",
        "typer",
        "pydantic",
        "jinja2",
        "paramiko",
    )
    ours = (
        "baremetal.web",
        "baremetal.cli",
        "baremetal.store",
        "baremetal.engine",
        "baremetal.service",
        "baremetal.serving",
        "baremetal.wiring",
    )
    assert [name for name in modules if name.startswith((*heavy, *ours))] == []
    assert [name for name in modules if name.startswith(("pytest", "_pytest"))] == [], (
        "nor this process's __main__"
    )


def test_a_script_is_not_run_again_in_its_children(tmp_path: Path) -> None:
    """As the standard library's fork server does: with a web stack in `__main__`, 0.8 s each."""
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent(
            """
            import fastapi
            from baremetal.drivers.process import Child

            child = Child()
            print(any(name.startswith("fastapi") for name in child.ask(("modules",), 10)[1]))
            child.kill()
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_child_that_hangs_is_killed_at_the_deadline() -> None:
    child = Child()
    pid = child.pid
    start = time.monotonic()
    with pytest.raises(BmcError) as caught:
        child.ask(HANG, 0.2)
    assert caught.value.kind is BmcErrorKind.DEADLINE
    assert 0.2 <= time.monotonic() - start < 1.0
    assert not child.alive
    assert _await(lambda: not _is_running(pid))


def test_a_stopped_child_is_killed_all_the_same() -> None:
    child = Child()
    pid = child.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(BmcError):
        child.ask(("modules",), 0.2)
    assert _await(lambda: not _is_running(pid))


def test_a_child_that_dies_is_an_error_with_a_name() -> None:
    child = Child()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(BmcError, match="ended unexpectedly") as caught:
        child.ask(("modules",), 5)
    assert caught.value.kind is BmcErrorKind.PROTOCOL
    assert not child.alive


def test_a_child_that_has_ended_by_itself_may_be_killed_and_killed_again() -> None:
    child = Child()
    pid = child.pid
    assert child.ask(("close",), 5) == ("ok",)
    assert _await(lambda: not _is_running(pid))
    child.kill()
    child.kill()


def test_a_dead_child_keeps_its_number_until_it_is_let_go() -> None:
    """So that killing it cannot hit a stranger who got the number meanwhile."""
    child = Child()
    os.kill(child.pid, signal.SIGKILL)
    assert _await(lambda: not _is_running(child.pid))
    assert Path(f"/proc/{child.pid}").exists()
    child.kill()
    assert _await(lambda: not Path(f"/proc/{child.pid}").exists())


def test_nonsense_is_answered() -> None:
    child = Child()
    assert child.ask(("sing",), 5)[0] == "failed"
    assert child.ask(("read", 0, 1, b""), 5)[0] == "failed", "before a session is open"
    child.kill()


def test_ctrl_c_is_the_parents_affair() -> None:
    child = Child()
    child.ask(("modules",), 5)
    os.kill(child.pid, signal.SIGINT)
    assert child.ask(("modules",), 5)[0] == "ok"
    child.kill()


@pytest.mark.parametrize("how", ["idle", "hanging"])
def test_children_leave_when_their_parent_is_killed(how: str) -> None:
    script = f"""
        import threading, time
        from baremetal.drivers.process import Child
        children = [Child() for _ in range(3)]
        if {how == "hanging"}:
            for child in children:
                threading.Thread(target=child.ask, args=({HANG!r}, 60), daemon=True).start()
            time.sleep(0.3)
        print(*(child.pid for child in children), flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert all(_is_running(pid) for pid in pids)
        parent.kill()
    assert _await(lambda: not any(_is_running(pid) for pid in pids))


def _nursery() -> int:
    nursery = process._nurseries._now
    assert nursery is not None
    return nursery.pid


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_nursery_that_was_killed_is_started_again() -> None:
    outlives = Child()
    first = _nursery()
    os.kill(first, signal.SIGKILL)
    assert _await(lambda: not _is_running(first))
    child = Child()
    assert child.ask(("modules",), 10)[0] == "ok"
    child.kill()
    assert _nursery() != first
    assert outlives.ask(("modules",), 10)[0] == "ok"
    outlives.kill()
    assert _await(lambda: not _is_running(outlives.pid))


def test_a_child_that_outlives_its_nursery_can_be_killed() -> None:
    child = Child()
    os.kill(_nursery(), signal.SIGKILL)
    assert _await(lambda: not _is_running(_nursery()))
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    assert _await(lambda: not _is_running(child.pid))


def test_a_nursery_that_hangs_costs_a_fork_and_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    process._nurseries.close()
    monkeypatch.setattr(process, "_PATIENCE_S", 2.0)
    child = Child()
    hung = _nursery()
    os.kill(hung, signal.SIGSTOP)
    begun = time.monotonic()
    child.kill()
    assert _await(lambda: not _is_running(child.pid))
    assert time.monotonic() - begun < 1.0
    with pytest.raises(TimeoutError):
        Child()
    assert not _is_running(hung)
    another = Child()
    assert another.ask(("modules",), 10)[0] == "ok"
    another.kill()


def test_an_answer_that_nobody_waited_for_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    Child().kill()
    first = _nursery()
    with monkeypatch.context() as patched:
        patched.setattr(process, "NUMBER", None)  # breaks after the request has been sent
        with pytest.raises(AttributeError):
            Child()
    child = Child()
    assert _nursery() != first
    assert str(child.pid) in _children(_nursery())
    child.kill()


def test_a_nursery_that_cannot_fork_says_so_and_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "no process more")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("os.fork", refuse)
    served = threading.Thread(target=nursery.serve, args=(theirs,))
    served.start()
    before = _descriptors()
    for _ in range(2):
        socket.send_fds(ours, [nursery.FORK], [0])
        assert nursery.NUMBER.unpack(ours.recv(64)) == (-errno.EAGAIN,)
    assert _descriptors() == before
    ours.close()
    served.join(5.0)
    assert not served.is_alive()
    theirs.close()


def test_the_nursery_is_the_only_process_that_is_kept() -> None:
    """No tracker of resources, as multiprocessing keeps one: it would be seven megabytes more."""
    script = """
        import os, pathlib
        from baremetal.drivers.process import Child

        Child().kill()
        print(len(pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_no_permit_is_asked_before_there_is_a_session() -> None:
    def refuse() -> None:
        raise Superseded("no")

    child = Child()
    answer = child.ask(("write", 0, 2, b"\x01"), 5, refuse)
    assert answer[0] == "failed", "without a session there is nothing to permit"
    child.kill()


def test_nothing_is_left_behind_by_many_at_once() -> None:
    warm()
    Child().kill()
    before = _descriptors()
    threads = threading.active_count()
    pids: list[int] = []

    def live(number: int) -> None:
        child = Child()
        pids.append(child.pid)
        match number % 3:
            case 0:
                child.ask(("close",), 10)
                child.kill()
            case 1:
                child.kill()
            case _:
                with pytest.raises(BmcError):
                    child.ask(HANG, 0.1)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(live, range(48)))
    assert len(set(pids)) == 48
    assert _await(lambda: not any(_is_running(pid) for pid in pids))
    assert _await(lambda: _children(_nursery()) == []), "dead ones are reaped too"
    assert _descriptors() == before
    assert threading.active_count() == threads
