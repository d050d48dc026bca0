"""The boot app: what netbooting machines ask over plain HTTP.

Owns addresses, methods, statuses and headers. Reads happen inline, because a thread per request costs more than the
read; what must be committed goes to a small pool of its own. Nothing here ever answers 500: a script's address has a
script that waits, a call-back has "wait", everything else one uniform "not found".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from baremetal.errors import Unavailable
from baremetal.lifecycle.model import Fetch
from baremetal.netboot.dialect import wait_text
from baremetal.netboot.scripts import boot_script
from baremetal.service.boot.boot import Boot
from baremetal.service.boot.machine import Machine, machine_mac, machine_serial, machine_uuid
from baremetal.service.boot.requests import FileRequest
from baremetal.service.media.loaders import Loaders
from baremetal.service.media.media import Media
from baremetal.telemetry import logger
from baremetal.web.callbacks import CallbackApp
from baremetal.web.doors import Doors
from baremetal.web.gathering import Gathering
from baremetal.web.limits import Bucket, RateLimit
from baremetal.web.plain import Plain, not_found

log = logger(__name__)

_FIRST = frozenset(("/boot.ipxe", "/ipxe/boot.ipxe", "/default.ipxe"))
Endpoint = Callable[[Request], Awaitable[Response]]


class BootApp:
    """The routes of the boot app over its services. `writer` runs whatever waits for the database."""

    def __init__(self, boot: Boot, media: Media, loaders: Loaders, writer: Executor, doors: Doors) -> None:
        self._boot = boot
        self._media = media
        self._loaders = loaders
        self._writer = writer
        self._settling = Gathering(writer, boot.settle)
        self._callbacks = CallbackApp(boot, writer, doors)
        self._doors = doors

    def build(self, requests: Bucket | None = None, failures: Bucket | None = None) -> ASGIApp:
        """Put the app behind its rate limits."""
        return RateLimit(self, requests or Bucket(500.0, 5000.0), failures or Bucket(20.0, 1000.0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoint(scope)
        try:
            response = await endpoint(Request(scope, receive, send)) if endpoint else not_found()
        except Exception:
            log.exception("a request broke")
            response = Plain("wait", 503)
        await response(scope, receive, send)

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        """Find what answers an address and a method; written out, because a router costs what reading a server costs.

        HEAD, by which UEFI firmware asks for a loader's size first, goes with GET only where asking does not count: a
        script that is served and a signal that is heard do.
        """
        method: str = scope["method"]
        path: str = scope["path"]
        if method == "GET" and path == "/ipxe":
            return self.script
        if method == "GET" and path in _FIRST:
            return self.first
        reads = method in ("GET", "HEAD")
        match path.split("/"):
            case ["", "answer", token, file] if reads and token and file:
                scope["path_params"] = {"token": token, "file": file}
                return self.answer
            case ["", "callback", token, "log", name] if method in ("PUT", "POST") and token and name:
                scope["path_params"] = {"token": token, "name": name}
                return self._callbacks.log
            case ["", "callback", token, signal] if method in ("GET", "POST") and token and signal:
                scope["path_params"] = {"token": token, "signal": signal}
                return self._callbacks.callback
            case ["", "media", *_] if reads and path != "/media":
                scope["path_params"] = {"path": path.removeprefix("/media/")}
                return self.media
        # What has no address of its own is a name that some loader asks for.
        scope["path_params"] = {"path": path.removeprefix("/")}
        return self.file if reads else None

    # -- scripts --

    async def first(self, request: Request) -> Response:
        """The same script for every machine."""
        if _is_debian_installer(request):
            return Plain("")
        return Plain(boot_script(self._doors.base(request)))

    async def script(self, request: Request) -> Response:
        asked = request.query_params
        return await self._script(
            request,
            Machine(
                mac=machine_mac(asked.get("mac", "")),
                uuid=machine_uuid(asked.get("uuid", "")),
                serial=machine_serial(asked.get("serial", "")),
                arch=asked.get("arch", "")[:32],
                address=self._doors.address(request),
                base=self._doors.base(request),
            ),
        )

    async def file(self, request: Request) -> Response:
        """What loaders ask for by name: their configurations in their lookup orders, and their own programs."""
        name = request.path_params["path"]
        machine = Machine.by_name(name, self._doors.address(request), self._doors.base(request), http=True)
        if machine is not None:
            return await self._script(request, machine) if request.method == "GET" else not_found()
        found = self._loaders.find(name)
        if found is None:
            return not_found()
        if request.method == "GET":
            size, address = found.stat.st_size, self._doors.address(request)
            self._boot.saw_file(FileRequest(address, name, True, size, protocol="HTTP"))
        return FileResponse(found.path, media_type="application/octet-stream", stat_result=found.stat)

    async def _script(self, request: Request, machine: Machine) -> Response:
        if _is_debian_installer(request):
            # It takes DHCP's file name for a second preseed; an empty one changes nothing.
            return Plain("")
        try:
            look = self._boot.look(machine)
            if look.commits:
                return Plain(await self._settling.ask(look))
            if look.stranger:
                self._writer.submit(self._boot.meet, machine)
            return Plain(self._boot.script(look)) if look.found else not_found()
        except Exception:
            log.exception("a boot script could not be made", mac=machine.mac, address=machine.address)
            own = machine.asked is not None and machine.asked.own
            return Plain(wait_text(machine.loader, machine.base, machine.key, own=own))

    # -- answer files --

    async def answer(self, request: Request) -> Response:
        token, file = request.path_params["token"], request.path_params["file"]
        try:
            text = self._boot.answer(token, file, self._doors.address(request), self._doors.base(request))
        except Unavailable:
            return Plain("wait", 503)
        except Exception:
            log.exception("an answer file could not be made", file=file)
            return Plain("wait", 503)
        return not_found() if text is None else Plain(text)

    # -- media --

    async def media(self, request: Request) -> Response:
        # The loader of an installation medium asks for its configuration beside itself, where the medium's own would
        # start an installer for whoever comes (I2).
        name = request.url.path.lstrip("/")
        machine = Machine.by_name(name, self._doors.address(request), self._doors.base(request), http=True)
        if machine is not None:
            return await self._script(request, machine) if request.method == "GET" else not_found()
        found = self._media.find(request.path_params["path"])
        if found is None:
            return not_found()
        if found.run and found.what is not Fetch.MEDIA and request.method == "GET":
            self._boot.fetched(found.server, found.run, found.what, found.name, self._doors.address(request))
        response = FileResponse(found.path, media_type="application/octet-stream", stat_result=found.stat)
        response.chunk_size = 256 * 1024
        return response


def _is_debian_installer(request: Request) -> bool:
    return request.headers.get("user-agent", "").startswith("debian-installer")
