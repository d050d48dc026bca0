"""The control API's routes for storage hosts and volumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from baremetal.lifecycle.model import MAIN
from baremetal.service.storage.doors import VolumeDoors
from baremetal.service.storage.goldens import Goldens
from baremetal.service.storage.hosts import Hosts
from baremetal.service.tokens import Role
from baremetal.web.auth import allows, who

T = TypeVar("T")
Name = Annotated[str, Field(min_length=1, max_length=64)]
Storage = Annotated[str, Query(max_length=64)]


class NewStorage(BaseModel):
    """A storage host; its further facts are checked by the service."""

    model_config = ConfigDict(extra="allow")

    name: Name


class NewImage(BaseModel):
    """A golden image: of a file on the service's machine, or of a server's own volume; `replace`: its next version."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    path: Annotated[str, Field(max_length=1024)] = ""
    server: Annotated[str, Field(max_length=253)] = ""
    storage: Annotated[str, Field(max_length=64)] = ""
    replace: bool = False


class ByHand(BaseModel):
    """For which server a LUN is made by hand, and how large."""

    model_config = ConfigDict(extra="forbid")

    server: Annotated[str, Field(max_length=253)]
    size: Annotated[str, Field(max_length=32)] = ""
    system: Annotated[str, Field(max_length=64)] = ""


def add_storage(app: FastAPI, hosts: Hosts, goldens: Goldens, doors: VolumeDoors, threads: Executor) -> None:
    """Add the routes. `threads` run what waits for a storage host."""

    async def aside(call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    @app.get("/v1/storage")
    @allows(Role.VIEWER)
    def listed() -> dict[str, Any]:
        return {"storage": hosts.list()}

    @app.post("/v1/storage", status_code=201)
    @allows(Role.ADMIN)
    async def added(body: NewStorage, request: Request) -> dict[str, Any]:
        """Add a storage host, once it has been looked at."""
        facts = dict(body.model_extra or {})
        return await aside(lambda: hosts.add(body.name, facts, who(request).name))

    @app.get("/v1/storage/{name}")
    @allows(Role.VIEWER)
    async def shown(name: str) -> dict[str, Any]:
        """Describe a storage host, and look how it is."""

        def look() -> dict[str, Any]:
            told = hosts.show(name)
            seen = "software" in told
            return told | {"not_served": doors.missing(name) if seen else None}

        return await aside(look)

    @app.delete("/v1/storage/{name}", status_code=204)
    @allows(Role.ADMIN)
    def removed(name: str, request: Request) -> Response:
        """Forget a storage host that keeps nothing of ours; nothing is changed there."""
        hosts.remove(name, who(request).name)
        return Response(status_code=204)

    @app.post("/v1/storage/{name}/restore")
    @allows(Role.OPERATOR)
    async def restored(name: str, request: Request) -> dict[str, Any]:
        """Serve every volume again that the storage host has ceased to serve, since it was restarted."""
        return await aside(lambda: doors.restore(name, who(request).name))

    @app.post("/v1/storage/{name}/steps")
    @allows(Role.OPERATOR)
    def by_hand(name: str, body: ByHand) -> dict[str, Any]:
        """Say what has to be done on an array for one server, with the secret that its script will use."""
        return {"steps": doors.steps(name, body.server, body.size, body.system or MAIN)}

    @app.get("/v1/volumes")
    @allows(Role.VIEWER)
    async def volumes() -> dict[str, Any]:
        return {"volumes": await aside(goldens.list)}

    @app.post("/v1/volumes", status_code=201)
    @allows(Role.ADMIN)
    async def golden(body: NewImage, request: Request) -> dict[str, Any]:
        """Make a golden image: import `path`, a file on the service's machine, or promote the volume of `server`."""
        by = who(request).name
        if body.server:
            return await aside(lambda: goldens.promote(body.server, body.name, by, replace=body.replace))
        return await aside(
            lambda: goldens.import_image(body.name, body.path, body.storage, by, replace=body.replace)
        )

    @app.delete("/v1/volumes/{name}", status_code=204)
    @allows(Role.ADMIN)
    async def deleted(name: str, request: Request, storage: Storage = "") -> Response:
        """Delete a golden image that nobody is a clone of, or what a server that is gone has left."""
        await aside(lambda: goldens.delete(name, storage, who(request).name))
        return Response(status_code=204)
