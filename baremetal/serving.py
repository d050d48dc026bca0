"""Runs what `wiring` built: both apps and the ticks, from the first socket to the last lock given back.

Owns the process's side of the service: signals, sockets, the lock on the data directory, and the order in which things
begin and end. The sockets are bound first, so that a port in use is an error with a name and not a half-started
service. Deliberately unknown: what the objects are made from, and what the apps answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from baremetal import garbage, telemetry
from baremetal.config import Config, split_listen
from baremetal.drivers.process import warm
from baremetal.errors import BaremetalError, Unavailable
from baremetal.web.protocol import BoundedProtocol
from baremetal.wiring import App, build

log = telemetry.logger(__name__)

STOP_S = 5.0


def serve(config: Config, *, ready: Callable[[str, str], None] | None = None) -> None:
    """Run the service until SIGTERM or SIGINT; `ready` hears the two URLs once both answer. Raises Unavailable."""
    telemetry.configure(form=config.server.log_format, level=config.server.log_level)
    garbage.seldom()

    async def until_told() -> None:
        halt = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, halt.set)
        await run(config, halt, ready)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_told())


async def run(
    config: Config,
    halt: asyncio.Event,
    ready: Callable[[str, str], None] | None = None,
    *,
    build: Callable[..., App] = build,
) -> None:
    """Run both apps and the engine in this loop until `halt` is set. Raises Unavailable (BM303), Invalid."""
    with contextlib.ExitStack() as stack:
        boot = stack.enter_context(
            contextlib.closing(_bind(config.server.boot_listen, "boot app", "server.boot_listen"))
        )
        control = stack.enter_context(
            contextlib.closing(_bind(config.server.control_listen, "control app", "server.control_listen"))
        )
        stack.enter_context(occupy(config.data_dir))
        app = build(config, boot_port=boot.getsockname()[1])
        try:
            if app.tftp is not None:
                await app.tftp.start()
            await asyncio.to_thread(_start, app)
            await _run_apps(app, boot, control, halt, ready)
        finally:
            if app.tftp is not None:
                await app.tftp.stop()
            await asyncio.to_thread(_stop, app)
    log.info("service stopped")


def _start(app: App) -> None:
    """Resume what an earlier process left, and begin to tick."""
    app.engine.recover()
    app.services.servers.recover()
    app.sans.learn()
    if app.dhcp is not None:
        app.dhcp.start()
    app.ticks.start()
    app.pools[0].submit(warm)
    app.pools[0].submit(app.services.profiles.warm_up)


def _stop(app: App) -> None:
    """End ticks, turns and streams; write what waits; close the database."""
    app.services.timeline.close()
    app.engine.stop()
    app.watch.stop()
    app.ticks.stop()
    if app.dhcp is not None:
        app.dhcp.stop()
    for pool in app.pools:
        pool.shutdown(wait=True, cancel_futures=True)
    with contextlib.suppress(BaremetalError):
        app.observations.flush()
    app.store.close()


async def _run_apps(
    app: App,
    boot: socket.socket,
    control: socket.socket,
    halt: asyncio.Event,
    ready: Callable[[str, str], None] | None,
) -> None:
    server = app.config.server
    tls = {"ssl_certfile": server.control_tls_cert, "ssl_keyfile": server.control_tls_key}
    servers = [
        _Server(_uvicorn(app.boot, limit_concurrency=4096)),
        _Server(_uvicorn(app.control, **(tls if server.control_tls_cert else {}))),
    ]
    serving = [
        asyncio.create_task(one.serve(sockets=[sock]))
        for one, sock in zip(servers, (boot, control), strict=True)
    ]
    halted = asyncio.create_task(halt.wait())
    try:
        await _started(servers, serving)
        urls = (_url("http", boot), _url("https" if server.control_tls_cert else "http", control))
        log.info("service ready", boot=urls[0], control=urls[1], access=str(app.token_file))
        if ready is not None:
            ready(*urls)
        # Either both apps run, or none: a half service would keep machines waiting.
        await asyncio.wait([*serving, halted], return_when=asyncio.FIRST_COMPLETED)
    finally:
        halted.cancel()
        app.services.timeline.close()
        for one in servers:
            one.should_exit = True
        await asyncio.gather(*serving)


async def _started(servers: list[_Server], serving: list[asyncio.Task[None]]) -> None:
    """Wait until every server answers, or one has given up. uvicorn has no event to wait for."""
    for one, task in zip(servers, serving, strict=True):
        while not one.started and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: two servers share this process, and `serve` owns the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn(app: ASGIApp, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(STOP_S),
        **more,
    )


def _bind(listen: str, what: str, key: str) -> socket.socket:
    host, port = split_listen(listen)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(
            f"the {what} cannot listen on {listen}: {error.strerror}", fix=f"correct {key}"
        ) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen(2048)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Unavailable(
            f"the {what} cannot listen on {listen}",
            code="BM303",
            seen=error.strerror,
            fix=f"stop what uses the port (ss -ltnp 'sport = :{port}'), or set {key}",
        ) from error
    return sock


def _url(scheme: str, sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.contextmanager
def occupy(folder: Path) -> Iterator[None]:
    """Make the data directory, and keep a second service off it inside the block. Raises Unavailable.

    A second service would void the reservations of the first.
    """
    _make_folder(folder)
    lock = os.open(folder / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Unavailable(
                f"another service works on {folder}",
                fix="stop it first, or give this one a data_dir of its own",
            ) from error
        yield
    finally:
        os.close(lock)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(
            f"the data directory {folder} cannot be made: {error.strerror}", fix="set [server] data_dir"
        ) from error
    if not os.access(folder, os.W_OK):
        raise Unavailable(f"the data directory {folder} cannot be written", fix="set [server] data_dir")
