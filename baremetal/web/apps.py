"""Puts the control app together: guard, error shape, limits, metrics; and knows nothing of what the routes do."""

from __future__ import annotations

import time
from collections.abc import Iterable, MutableMapping
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from baremetal import telemetry
from baremetal.web import api, faults, shapes
from baremetal.web.auth import BodyLimit, Guard, HostCheck

BODY_LIMIT = 8 * 1024 * 1024
TITLE = "baremetal"


def control_app(services: api.Services, version: str) -> FastAPI:
    """Build the control app without its outer layers, as tests look at it; `control_stack` adds them."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": shapes.ErrorShape} for status in (401, 403, 404, 409, 422, 502, 503, 504)
    }
    app = FastAPI(
        title=TITLE,
        version=version,
        # The schema is a route of ours, so that the guard stands before it too; the interactive pages need the net.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses=errors,
        redirect_slashes=False,
    )
    app.router.route_class = Guard(services.tokens).route_class()
    faults.handle(app)
    api.add_routes(app, services)
    return app


def control_stack(app: FastAPI, hosts: Iterable[str]) -> ASGIApp:
    """Put the outer layers around the control app: Host check, body limit, timing."""
    return HostCheck(BodyLimit(Timing(app, "control"), BODY_LIMIT), hosts)


class Timing:
    """Measures requests by route template, never by path."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            telemetry.REQUEST_SECONDS.labels(self._name, scope["method"], route, str(status)).observe(
                time.perf_counter() - began
            )
