"""Who is let in to the control app: one guard before every route, and the Host allow-list.

Deny by default: a route that does not say which role it wants is refused to everybody. Only `@open_to_all` lets in
without a token, and only `/healthz` carries it. The guard stands before the framework's own work, because that reads
and parses the body first and asks its dependencies afterwards.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from functools import lru_cache
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from baremetal.errors import NotAuthorised
from baremetal.service.tokens import Identity, Role, Tokens

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_OPEN = "open"
_MARK = "_baremetal_role"


def allows(role: Role) -> Callable[[Endpoint], Endpoint]:
    """Mark an endpoint: this role, and those above it, may use it."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, role)
        return endpoint

    return mark


def open_to_all(endpoint: Endpoint) -> Endpoint:
    """Mark an endpoint that needs no token."""
    setattr(endpoint, _MARK, _OPEN)
    return endpoint


class Guard:
    """Stands in front of every route. Raises NotAuthorised; a request's body is never looked at."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def route_class(self) -> type[APIRoute]:
        """Return the kind of route that an app must be made of for this guard to stand before it."""
        guard = self

        class GuardedRoute(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                inner = super().get_route_handler()

                async def handle(request: Request) -> Response:
                    # In a thread: the token is looked up in the store.
                    await run_in_threadpool(guard, request)
                    return await inner(request)

                return handle

        return GuardedRoute

    def __call__(self, request: Request) -> None:
        wanted = getattr(request.scope.get("endpoint"), _MARK, None)
        if wanted == _OPEN:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        identity = self._tokens.identify(token.strip()) if scheme.lower() == "bearer" else None
        if identity is None:
            raise NotAuthorised(
                "a token is needed" if not token else "this token opens nothing",
                fix="send 'Authorization: Bearer …'; the first token lies in <data_dir>/control.token, "
                "or set BAREMETAL_TOKEN",
            )
        if not isinstance(wanted, Role) or identity.role < wanted:
            word = wanted.word if isinstance(wanted, Role) else "no"
            raise NotAuthorised(
                f"the token {identity.name!r} has the role {identity.role.word}; this needs {word}",
                code="BM603",
                fix="use a token with that role",
            )
        request.state.identity = identity


def who(request: Request) -> Identity:
    """Return the identity that the guard found."""
    identity: Identity = request.state.identity
    return identity


class HostCheck:
    """Refuse a request whose Host names none of ours: a web page elsewhere must not reach us by DNS rebinding."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(host.lower() for host in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _host(scope) in self._allowed:
            await self._app(scope, receive, send)
            return
        refusal = NotAuthorised(
            "the service is not called by this name",
            fix="use its address, or add the name to [server] control_hosts in its settings",
        )
        body = json.dumps(refusal.as_dict()).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 421,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": body})


class BodyLimit:
    """Refuse bodies that are longer than anything meant for this app; counted as they arrive, declared or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._limit):
                await _too_large(send)
                return
        seen = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                # The app sees a client that went away; what it then says does not matter.
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)


async def _too_large(send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
    body = b'{"code":"BM505","error":"Invalid","message":"the body is too large"}'
    await send(
        {
            "type": "http.response.start",
            "status": 413,
            "headers": [(b"content-type", b"application/json"), (b"connection", b"close")],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _host(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"host":
            text: str = value.decode("latin-1").lower()
            if text.startswith("["):
                return text[1:].partition("]")[0]
            return text.partition(":")[0].rstrip(".")
    return ""


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether a listener on this host can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
