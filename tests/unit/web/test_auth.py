"""Nobody gets in by a route that was forgotten: every route of the app is asked, without a token."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from functools import cache
from typing import Any, cast

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route

from baremetal.service.tokens import Identity, Role, Tokens
from baremetal.web import api
from baremetal.web.apps import control_app
from baremetal.web.auth import BodyLimit, HostCheck, is_loopback

OPEN = {"/healthz"}
ADMIN_ONLY = {"/v1/tokens", "/v1/tokens/{name}", "/v1/secrets/rotate-key"}


class TwoTokens:
    """Knows a viewer and an operator, and nobody else."""

    def identify(self, token: str) -> Identity | None:
        roles = {"v": Role.VIEWER, "o": Role.OPERATOR}
        return Identity(token, roles[token]) if token in roles else None


class Nothing:
    """A service that must not be reached."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a request without permission reached {name}")


@cache
def app() -> FastAPI:
    nothing = cast(Any, Nothing())
    services = api.Services(
        servers=nothing,
        deploys=nothing,
        power=nothing,
        explain=nothing,
        profiles=nothing,
        doctor=nothing,
        timeline=nothing,
        tokens=cast(Tokens, TwoTokens()),
        storage=nothing,
        goldens=nothing,
        volume_doors=nothing,
        bmc=nothing,
    )
    return control_app(services, "0")


def routes() -> list[tuple[str, str]]:
    found = []
    for route in app().routes:
        assert isinstance(route, app().router.route_class), f"{route} is not behind the guard"
        assert isinstance(route, APIRoute)
        found += [(method, route.path) for method in sorted(route.methods or ())]
    return found


def ask(method: str, path: str, token: str | None = None) -> int:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    url = path.replace("{name}", "x").replace("{verb}", "deploy")

    async def go() -> int:
        transport = httpx2.ASGITransport(app=app())
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {"on": True, "target": "on", "device": "pxe", "name": "x", "profile": "x"}
            return (await client.request(method, url, headers=headers, json=body)).status_code

    return asyncio.run(go())


@pytest.mark.parametrize(("method", "path"), routes())
def test_every_route_is_guarded(method: str, path: str) -> None:
    if path in OPEN:
        return
    assert ask(method, path) == 401
    assert ask(method, path, "stranger") == 401
    if method not in ("GET", "HEAD") and path != "/v1/servers/{name}/plan":
        assert ask(method, path, "v") == 403
    if path in ADMIN_ONLY:
        assert ask(method, path, "o") == 403


@pytest.mark.parametrize(("method", "path"), routes())
@pytest.mark.parametrize(("token", "refusal"), [(None, 401), ("stranger", 401), ("v", 403)])
def test_nothing_is_read_of_whom_is_not_let_in(
    method: str, path: str, token: str | None, refusal: int
) -> None:
    """A body is neither read nor judged, nor is a query, before it is clear who sends it."""
    if path in OPEN or (token == "v" and (method in ("GET", "HEAD") or path.endswith("/plan"))):
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"8000000")]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    url = path.replace("{name}", "x").replace("{verb}", "deploy")
    scope = {
        "type": "http",
        "method": method,
        "path": url,
        "raw_path": url.encode(),
        "query_string": b"limit=much&run=first&after=x",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 8000),
        "scheme": "http",
        "root_path": "",
        "http_version": "1.1",
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app()(scope, receive, send))
    assert sent[0]["status"] == refusal


def test_a_route_without_a_mark_is_refused_to_everybody() -> None:
    forgetful = app.__wrapped__()
    forgetful.get("/forgotten")(lambda: {"secret": 1})
    assert not any(isinstance(route, Route) and not isinstance(route, APIRoute) for route in forgetful.routes)

    async def go() -> int:
        transport = httpx2.ASGITransport(app=forgetful)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/forgotten", headers={"authorization": "Bearer o"})).status_code

    assert asyncio.run(go()) == 403


async def _ok(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status(app: Any, headers: list[tuple[bytes, bytes]], chunks: list[bytes]) -> int:
    sent: list[MutableMapping[str, Any]] = []
    waiting = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> MutableMapping[str, Any]:
        return waiting.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "headers": headers, "method": "POST"}, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"localhost:8000", 200),
        (b"LOCALHOST", 200),
        (b"[::1]:8000", 200),
        (b"localhost.", 200),
        (b"evil.example", 421),
        (b"localhost.evil.example", 421),
        (b"", 421),
    ],
)
def test_only_our_own_names_are_served(host: bytes, expected: int) -> None:
    assert status(HostCheck(_ok, {"localhost", "::1"}), [(b"host", host)], []) == expected


def test_a_body_that_is_too_long_is_refused_by_its_word() -> None:
    assert status(BodyLimit(_ok, 10), [(b"content-length", b"11")], []) == 413
    assert status(BodyLimit(_ok, 10), [(b"content-length", b"-1")], []) == 413
    assert status(BodyLimit(_ok, 10), [], [b"12345", b"12345"]) == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
