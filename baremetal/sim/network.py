"""What lies between a simulated machine and the boot app: real HTTP, or calls in memory with faults in between."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

TIMEOUT_S = 10.0


class NoAnswer(Exception):
    """The request or its reply was lost, or nobody listens."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: str


class Network(Protocol):
    """A machine's way to the boot app. Raises NoAnswer."""

    def get(self, url: str) -> Reply: ...

    def post(self, url: str, fields: Mapping[str, object]) -> Reply: ...


class HttpNetwork:
    """Real HTTP, for a simulated machine in front of a real service."""

    def get(self, url: str) -> Reply:
        return self._send(urllib.request.Request(url))

    def post(self, url: str, fields: Mapping[str, object]) -> Reply:
        body = json.dumps(dict(fields)).encode()
        return self._send(urllib.request.Request(url, body, {"Content-Type": "application/json"}))

    def _send(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return Reply(answer.status, answer.read(1 << 20).decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read(1 << 16).decode(errors="replace"))
        except OSError as error:
            raise NoAnswer(str(error)) from error
