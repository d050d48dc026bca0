"""Call-backs and installer logs over HTTP: reading what a machine sends, and the status of the word that it hears.

Signals that come at the same time are committed together. Deliberately unknown: what a signal means.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from baremetal.errors import BaremetalError, Invalid, Unavailable
from baremetal.lifecycle.model import Signal
from baremetal.service.boot.boot import Boot
from baremetal.service.boot.callbacks import Call, Word
from baremetal.service.boot.news import News, read_json, read_news
from baremetal.telemetry import logger
from baremetal.web.doors import Doors
from baremetal.web.gathering import Gathering
from baremetal.web.limits import TooLarge, read_body
from baremetal.web.plain import Plain, not_found

log = logger(__name__)

CALLBACK_LIMIT = 64 * 1024
LOG_LIMIT = 1024 * 1024
_FIELDS = 64
_SIGNALS = {str(signal): signal for signal in Signal}
_STATUS = {Word.GO: 200, Word.OK: 200, Word.WAIT: 503, Word.REFUSED: 409, Word.GONE: 404}
_LOG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class CallbackApp:
    """The boot app's routes for those that hold a call-back token."""

    def __init__(self, boot: Boot, writer: Executor, doors: Doors) -> None:
        self._boot = boot
        self._writer = writer
        self._hearing = Gathering(writer, boot.hear)
        self._doors = doors

    async def callback(self, request: Request) -> Plain:
        try:
            word = await self._callback(request)
        except TooLarge:
            return Plain("refused", 413)
        except Unavailable as error:
            log.warning("a call-back has to wait", error=str(error))
            word = Word.WAIT
        except Exception:
            log.exception("a call-back broke")
            word = Word.WAIT
        return Plain(word.value, _STATUS[word])

    async def _callback(self, request: Request) -> Word:
        caller = self._boot.caller(request.path_params["token"])
        signal = _SIGNALS.get(request.path_params["signal"])
        if caller is None or signal is None:
            return Word.GONE
        address = self._doors.address(request)
        try:
            news = await _news(request)
        except Invalid as error:
            self._boot.malformed(*caller, signal, error, address)
            return Word.REFUSED
        return await self._hearing.ask(Call(*caller, signal, news, address))

    async def log(self, request: Request) -> Plain:
        try:
            caller = self._boot.caller(request.path_params["token"])
            name = request.path_params["name"]
            if caller is None or not _LOG_NAME.match(name):
                return not_found()
            content = await read_body(request, LOG_LIMIT)
            loop = asyncio.get_running_loop()
            kept = await loop.run_in_executor(self._writer, self._boot.put_log, *caller, name, content)
            return Plain("ok") if kept else not_found()
        except TooLarge:
            return Plain("refused", 413)
        except Unavailable:
            return Plain("wait", 503)
        except BaremetalError:
            return Plain("refused", 409)
        except Exception:
            log.exception("a log could not be kept")
            return Plain("wait", 503)


async def _news(request: Request) -> News:
    if request.method == "GET":
        return read_news(_pairs(request.url.query))
    body = await read_body(request, CALLBACK_LIMIT)
    return read_news(read_fields(request.headers.get("content-type", ""), body))


def read_fields(content_type: str, body: bytes) -> Mapping[str, Any]:
    """Read a call-back's body, JSON or form, whatever tool sent it. Raises Invalid."""
    if not body.strip():
        return {}
    if "json" in content_type.lower() or body.lstrip()[:1] == b"{":
        value = read_json(body)
        if not isinstance(value, dict):
            raise Invalid("the body is no JSON object")
        return value
    return _pairs(body.decode("utf-8", "replace"))


def _pairs(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS))
    except ValueError as error:
        raise Invalid("too many fields") from error
