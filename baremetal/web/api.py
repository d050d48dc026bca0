"""The control API under /v1: routes only. Each turns a request into one call of a service, its answer into a shape.

Deliberately knows nothing of states, BMCs or templates. Who may use a route stands above it; a route without such a
mark is refused to everybody (`auth.Guard`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from baremetal import telemetry
from baremetal.errors import Invalid
from baremetal.lifecycle.model import Verb
from baremetal.service.advice.doctor import Doctor
from baremetal.service.advice.explain import Explain
from baremetal.service.deploys.deploys import Deploys, Order
from baremetal.service.profiles import Profiles
from baremetal.service.servers import roster
from baremetal.service.servers.power import Power
from baremetal.service.servers.servers import Enrolment, ServerChange, Servers
from baremetal.service.storage.doors import VolumeDoors
from baremetal.service.storage.goldens import Goldens
from baremetal.service.storage.hosts import Hosts
from baremetal.service.timeline import Timeline
from baremetal.service.tokens import Role, Tokens
from baremetal.web import shapes
from baremetal.web.auth import allows, open_to_all, who
from baremetal.web.storage import add_storage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases that this API offers. `bmc` runs what talks to BMCs, outside the web framework's threads."""

    servers: Servers
    deploys: Deploys
    power: Power
    explain: Explain
    profiles: Profiles
    doctor: Doctor
    timeline: Timeline
    tokens: Tokens
    storage: Hosts
    goldens: Goldens
    volume_doors: VolumeDoors
    bmc: Executor


def add_routes(app: FastAPI, services: Services) -> None:
    """Add the whole API to an app."""
    _add_service(app, services)
    _add_servers(app, services)
    _add_verbs(app, services)
    _add_machine(app, services)
    _add_events(app, services)
    _add_profiles(app, services)
    _add_tokens(app, services)
    add_storage(app, services.storage, services.goldens, services.volume_doors, services.bmc)


async def _aside(services: Services, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(services.bmc, call)


def _add_service(app: FastAPI, services: Services) -> None:
    @app.get("/healthz")
    @open_to_all
    def healthz() -> dict[str, str]:
        """Say whether this service can do its work: 200, or 503 without its database."""
        services.doctor.alive()
        return {"status": "ok"}

    @app.get("/metrics")
    @allows(Role.VIEWER)
    def metrics() -> Response:
        """Metrics in Prometheus' text form."""
        services.servers.count()
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json", include_in_schema=False)
    @allows(Role.VIEWER)
    def schema() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/v1/doctor")
    @allows(Role.OPERATOR)
    async def doctor(name: str | None = None) -> dict[str, Any]:
        """Look for problems, each with its fix; with a name, that server and its BMC too (reads only)."""
        return await _aside(services, lambda: services.doctor.examine(name))


def _add_servers(app: FastAPI, services: Services) -> None:
    servers = services.servers

    @app.get("/v1/servers", response_model=shapes.Servers)
    @allows(Role.VIEWER)
    def listed(
        state: str | None = None,
        tag: Annotated[list[str] | None, Query(max_length=32)] = None,
        where: Annotated[str, Query(max_length=1024)] = "",
    ) -> dict[str, Any]:
        """List servers; `tag` is `key=value` and may be repeated, `where` asks of their hardware."""
        return {"servers": servers.select(state, _pairs(tag or []), where)}

    @app.post("/v1/servers", status_code=201, openapi_extra=_ENROL_BODY)
    @allows(Role.OPERATOR)
    async def enrol(request: Request) -> dict[str, Any]:
        """Enrol one server, or several (`{"servers": […]}`, or a CSV or YAML body): all or none."""
        new, many = _enrolments(request.headers.get("content-type", ""), await request.body())
        taken = await asyncio.to_thread(servers.enrol, new, who(request).name)
        return {"servers": taken} if many else taken[0]

    @app.get("/v1/servers/{name}", response_model=shapes.ServerShape)
    @allows(Role.VIEWER)
    def shown(name: str) -> dict[str, Any]:
        return servers.show(name)

    @app.patch("/v1/servers/{name}", response_model=shapes.ServerShape)
    @allows(Role.OPERATOR)
    async def change(name: str, body: shapes.Change, request: Request) -> dict[str, Any]:
        """Set facts of a server; nothing is written to the machine. The names of its volumes may follow."""
        given = body.model_dump(exclude={"bmc_password", "boot"})
        password = body.bmc_password.get_secret_value() if body.bmc_password is not None else None
        change = ServerChange(**given, bmc_password=password)
        by, system = who(request).name, body.boot
        if system is not None:
            await asyncio.to_thread(servers.check_choice, name, system)
        changed = await _aside(services, lambda: servers.change(name, change, by))
        return changed if system is None else await asyncio.to_thread(servers.choose, name, system, by)

    @app.delete("/v1/servers/{name}", status_code=204)
    @allows(Role.OPERATOR)
    def forget(name: str, request: Request, force: bool = False) -> Response:
        """Stop caring for a server; its history stays, its tokens never work again."""
        servers.forget(name, who(request).name, force=force)
        return Response(status_code=204)

    @app.post("/v1/servers/{name}/maintenance", status_code=202, response_model=shapes.ServerShape)
    @allows(Role.OPERATOR)
    def maintenance(name: str, body: shapes.Maintenance, request: Request) -> dict[str, Any]:
        return servers.maintenance(name, body.on, who(request).name)

    @app.get("/v1/unknown")
    @allows(Role.VIEWER)
    def unknown() -> dict[str, Any]:
        """List the machines that asked to boot and that nobody has enrolled."""
        return {"unknown": servers.unknowns()}

    @app.get("/v1/servers/{name}/ssh")
    @allows(Role.OPERATOR)
    def ssh(name: str) -> dict[str, Any]:
        """Where the deployed system answers by SSH, and with which host keys."""
        return servers.ssh(name)


def _add_verbs(app: FastAPI, services: Services) -> None:
    deploys = services.deploys

    def offer(verb: str) -> None:
        def ask(name: str, request: Request, body: Any = None) -> dict[str, Any]:
            return deploys.ask(name, _order(verb, body), who(request).name)

        # A rebuild without a body, or with null, repeats what is deployed; a deploy's names its profile.
        bodies = {
            "deploy": shapes.Deployment,
            "rebuild": shapes.Deployment | None,
            "rescue": shapes.Rescue | None,
        }
        ask.__annotations__ |= {"body": bodies.get(verb, shapes.Plain | None), "request": Request}
        ask.__doc__ = f"Ask for {verb}: 202 and the run that began, or 409 with the verbs that are allowed."
        path = f"/v1/servers/{{name}}/{verb}"
        app.post(path, status_code=202, response_model=shapes.Accepted, name=verb)(allows(Role.OPERATOR)(ask))

    for verb in Verb:
        offer(str(verb))

    @app.post("/v1/bulk/{verb}", status_code=202, response_model=shapes.Outcomes)
    @allows(Role.OPERATOR)
    def bulk(verb: str, body: shapes.Many, request: Request) -> dict[str, Any]:
        """Ask one verb of several servers. Everything is checked first: one bad name starts nothing."""
        if verb not in tuple(Verb):
            raise Invalid(f"no verb {verb!r}")
        order = _order(verb, body)
        return {"servers": deploys.ask_many(body.names, body.tags, order, who(request).name, body.where)}

    @app.post("/v1/servers/{name}/plan")
    @allows(Role.VIEWER)
    def plan(name: str, body: shapes.Deployment) -> dict[str, Any]:
        """Say what a deploy would do, with the rendered files, tokens masked; does nothing."""
        return deploys.plan(name, _order("deploy", body))


def _add_machine(app: FastAPI, services: Services) -> None:
    power, explain = services.power, services.explain

    @app.get("/v1/servers/{name}/power", response_model=shapes.PowerShape)
    @allows(Role.VIEWER)
    async def power_state(name: str) -> dict[str, Any]:
        """Ask the BMC now."""
        return await _aside(services, lambda: power.state(name))

    @app.put("/v1/servers/{name}/power", response_model=shapes.PowerShape)
    @allows(Role.OPERATOR)
    async def set_power(name: str, body: shapes.Power, request: Request) -> dict[str, Any]:
        """Switch, and read back."""
        switch = power.end_system if body.by_ssh else power.switch
        return await _aside(services, lambda: switch(name, body.target, who(request).name))

    @app.get("/v1/servers/{name}/boot-device", response_model=shapes.BootDeviceShape)
    @allows(Role.VIEWER)
    async def boot_device(name: str) -> dict[str, Any]:
        return await _aside(services, lambda: power.boot_device(name))

    @app.put("/v1/servers/{name}/boot-device", response_model=shapes.BootDeviceShape)
    @allows(Role.OPERATOR)
    async def set_boot_device(name: str, body: shapes.BootDeviceChoice, request: Request) -> dict[str, Any]:
        """Set the boot device, and read it back."""
        call = partial(
            power.set_boot_device,
            name,
            body.device,
            who(request).name,
            persistent=body.persistent,
            force=body.force,
        )
        return await _aside(services, call)

    @app.get("/v1/servers/{name}/explain")
    @allows(Role.VIEWER)
    def explained(name: str) -> dict[str, Any]:
        """Say what this server (or MAC) would boot now, and why."""
        return explain.explain(name)

    @app.get("/v1/servers/{name}/render")
    @allows(Role.VIEWER)
    def rendered(name: str, profile: str | None = None, loader: str | None = None) -> dict[str, Any]:
        """Give the exact bytes that the server would be served, tokens masked."""
        return services.deploys.render(name, profile, loader)

    @app.get("/v1/servers/{name}/logs")
    @allows(Role.VIEWER)
    def logs(name: str, run: int | None = None) -> dict[str, Any]:
        """Give what the installer uploaded."""
        return {"logs": services.timeline.logs(name, run)}


def _add_events(app: FastAPI, services: Services) -> None:
    timeline = services.timeline

    @app.get("/v1/servers/{name}/events", response_model=shapes.Events)
    @allows(Role.VIEWER)
    def events_of(
        name: str,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
        newest: bool = False,
    ) -> dict[str, Any]:
        """List a server's events after a number, oldest first: the first `limit`, or with `newest` the last."""
        if newest:
            return {"events": timeline.newest(name, limit)}
        return {"events": timeline.events([name], after, limit)}

    @app.get("/v1/servers/{name}/timeline")
    @allows(Role.VIEWER)
    def timeline_of(name: str, run: int | None = None) -> dict[str, Any]:
        """Tell a run as a person would: the marks on its way, and how long each took."""
        return timeline.tell(name, run)

    @app.get("/v1/events", response_model=shapes.Events)
    @allows(Role.VIEWER)
    def events(
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
        server: Annotated[list[str] | None, Query(max_length=256)] = None,
    ) -> dict[str, Any]:
        return {"events": timeline.events(server or [], after, limit)}

    @app.get("/v1/events/stream")
    @allows(Role.VIEWER)
    async def stream(
        request: Request,
        after: int | None = None,
        server: Annotated[list[str] | None, Query(max_length=256)] = None,
    ) -> StreamingResponse:
        """Send every event as it happens (SSE); `Last-Event-ID` or `after` resumes, without either only news."""
        last = request.headers.get("last-event-id", "")
        start = int(last) if last.isascii() and last.isdigit() else after
        if start is None:
            start = await asyncio.to_thread(timeline.last)
        wanted = await asyncio.to_thread(timeline.ids, server or [])
        return StreamingResponse(
            _stream(timeline, wanted, start, request),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )


async def _stream(
    timeline: Timeline, wanted: Sequence[str], after: int, request: Request
) -> AsyncIterator[bytes]:
    """Follow the history. Every event is read from the store, so none is missed between two looks."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def wake() -> None:
        # The loop is closed already where the service stops while something is being committed.
        if not loop.is_closed():
            loop.call_soon_threadsafe(news.set)

    with timeline.follow(wake) as closing:
        quiet = 0
        yield b"retry: 1000\n\n"
        while not closing() and not await request.is_disconnected():
            news.clear()
            batch = await asyncio.to_thread(timeline.after, wanted, after, 500)
            for event in batch.events:
                text = json.dumps(event, default=str, separators=(",", ":"))
                yield f"id: {event['id']}\nevent: {event['kind']}\ndata: {text}\n\n".encode()
            after = batch.last
            if batch.events:
                quiet = 0
                continue
            quiet += 1
            if quiet % 15 == 0:
                yield b": still here\n\n"
            try:
                await asyncio.wait_for(news.wait(), timeout=1.0)
            except TimeoutError:
                pass


def _add_profiles(app: FastAPI, services: Services) -> None:
    profiles = services.profiles

    @app.get("/v1/profiles")
    @allows(Role.VIEWER)
    def profile_list() -> dict[str, Any]:
        return {"profiles": profiles.briefs()}

    @app.get("/v1/profiles/{name}")
    @allows(Role.VIEWER)
    def profile_show(name: str) -> dict[str, Any]:
        return profiles.show(name)

    @app.get("/v1/profiles/{name}/lint")
    @allows(Role.VIEWER)
    def profile_lint(name: str) -> dict[str, Any]:
        """Render with a sample server and check; `problems` is empty when all is well."""
        return profiles.lint(name)


def _add_tokens(app: FastAPI, services: Services) -> None:
    tokens = services.tokens

    @app.get("/v1/tokens")
    @allows(Role.ADMIN)
    def token_list() -> dict[str, Any]:
        return {"tokens": tokens.entries()}

    @app.post("/v1/tokens", status_code=201)
    @allows(Role.ADMIN)
    def token_create(body: shapes.NewToken) -> dict[str, str]:
        """Make a token; this answer is the only place where it is ever shown."""
        return {"name": body.name, "role": body.role, "token": tokens.create(body.name, body.role)}

    @app.post("/v1/secrets/rotate-key")
    @allows(Role.ADMIN)
    def rotate_key() -> dict[str, int]:
        """Seal every BMC account with a fresh key and forget the old one."""
        return {"resealed": services.servers.rotate_key()}

    @app.delete("/v1/tokens/{name}", status_code=204)
    @allows(Role.ADMIN)
    def token_revoke(name: str) -> Response:
        tokens.revoke(name)
        return Response(status_code=204)


def _order(verb: str, body: shapes.Deployment | shapes.Plain | shapes.Rescue | None) -> Order:
    given = body.model_dump(exclude={"names", "tags", "where"}) if body is not None else {}
    return Order(verb=verb, **given)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found:
            raise Invalid(f"{word!r} is not key=value", variable="tag")
        pairs[key] = value
    return pairs


def _enrolments(content_type: str, body: bytes) -> tuple[list[Enrolment], bool]:
    """Read an enrolment from whatever form it came in; says whether several were meant."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("text/csv", "application/yaml", "application/x-yaml", "text/yaml"):
        form = "csv" if kind == "text/csv" else "yaml"
        try:
            return roster.parse(body.decode(), form), True
        except UnicodeDecodeError as error:
            raise Invalid("the file is not UTF-8", seen=f"byte {error.start}") from error
    try:
        given = json.loads(body or b"{}")
    except ValueError as error:
        raise Invalid("the body is not JSON") from error
    many = isinstance(given, dict) and "servers" in given
    rows = shapes.read(shapes.Enrolments, given).servers if many else [shapes.read(shapes.Enrolment, given)]
    return [_enrolment(row) for row in rows], many


def _enrolment(row: shapes.Enrolment) -> Enrolment:
    password = row.bmc_password.get_secret_value() if row.bmc_password is not None else None
    return Enrolment(**row.model_dump(exclude={"bmc_password"}), bmc_password=password)


_ENROL_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": shapes.enrol_schema()},
            "text/csv": {"schema": {"type": "string"}},
            "application/yaml": {"schema": {"type": "string"}},
        },
    }
}
