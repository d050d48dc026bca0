"""Thousands of malformed requests to both apps: no 500, no hang, no secret, and the service is as before (P12)."""

from __future__ import annotations

import json
import random
import string
from urllib.parse import urlsplit

import httpx2
import pytest

from baremetal.lifecycle.model import Signal
from tests.integration.conftest import Service

SIGNALS = (*Signal, "wipe-started", "x")
FIELDS = (
    *("boot_id", "macs", "uuid", "serial", "disks", "disk", "stage", "percent"),
    *("message", "log", "ssh_host_keys", "addresses", "run"),
)
PATHS = (
    *("/boot.ipxe", "/ipxe", "/boot/mac-{}.ipxe", "/ipxe/cfg/mac-{}.ipxe.cfg"),
    *("/{}.ipxe", "/media/{}", "/{}", "/answer/{}/{}"),
)
NASTY = [
    *(
        "\x00",
        "\r\n",
        "../",
        "%2e%2e/",
        "{{7*7}}",
        "${uuid}",
        "'; DROP TABLE servers; --",
        "\ud7ff",
        "\u202e",
    ),
    *("a" * 5000, "-1", "[]", "{}"),
]


def word(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(NASTY)
    return "".join(rng.choice(string.printable) for _ in range(rng.randrange(0, 24)))


def value(rng: random.Random, depth: int = 0) -> object:
    kind = rng.randrange(8 if depth < 4 else 5)
    if kind < 3:
        return word(rng)
    if kind == 3:
        return rng.choice([None, True, -1, 10**30, 1.5, float("1e308")])
    if kind == 4:
        return rng.randrange(-(2**70), 2**70)
    if kind < 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {word(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def boot_request(rng: random.Random, client: httpx2.Client, callback: str, answer: str) -> httpx2.Response:
    kind = rng.random()
    if kind < 0.5:
        fields = {rng.choice(FIELDS): value(rng) for _ in range(rng.randrange(6))}
        url = f"{callback}/{rng.choice(SIGNALS)}"
        if rng.random() < 0.4:
            return client.post(
                url, content=json.dumps(fields).encode(), headers={"content-type": "application/json"}
            )
        if rng.random() < 0.5:
            return client.post(url, data={key: str(item) for key, item in fields.items()})
        return client.post(url, content=rng.randbytes(rng.randrange(200)))
    if kind < 0.6:
        return client.put(f"{callback}/log/{httpx2.QueryParams({'n': word(rng)})}", content=rng.randbytes(50))
    method = rng.choice(["GET", "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"])
    path = rng.choice(PATHS)
    quoted = str(httpx2.QueryParams({"": word(rng)}))[1:]
    path = path.replace("{}", quoted or "x")
    if rng.random() < 0.1:
        path = urlsplit(answer).path + quoted
    params = {rng.choice(["mac", "uuid", "serial", "arch", "x"]): word(rng) for _ in range(rng.randrange(4))}
    return client.request(
        method, path, params=params, headers={"x-forwarded-for": f"10.0.{rng.randrange(200)}.7"}
    )


def control_request(
    rng: random.Random, client: httpx2.Client, paths: list[tuple[str, str]]
) -> httpx2.Response:
    method, path = rng.choice(paths)
    quoted = str(httpx2.QueryParams({"": word(rng)}))[1:].replace("+", "%20") or "x"
    name = rng.choice(["r1", quoted])
    path = path.replace("{name}", name).replace("{verb}", rng.choice(["deploy", "abort", quoted]))
    if method == "get":
        return client.get(
            path, params={rng.choice(["after", "limit", "state", "tag", "run", "profile"]): word(rng)}
        )
    return client.request(method.upper(), path, content=json.dumps(value(rng)).encode())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("many", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_nothing_malformed_breaks_the_boot_app(service: Service, many: int) -> None:
    service.enrol()
    service.deploy_until_window()
    answer, callback = service.tokens(service.script())
    rng = random.Random(20260101)
    token = urlsplit(callback).path.split("/")[2]
    for number in range(many):
        try:
            reply = boot_request(rng, service.machine, callback, answer)
        except httpx2.InvalidURL:
            continue
        assert reply.status_code in (200, 206, 404, 405, 409, 413, 416, 429, 400), (
            number,
            reply.request,
            reply.text,
        )
        if reply.request.url.path.startswith("/callback"):
            assert token not in reply.text
    assert service.get("/healthz") == {"status": "ok"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("many", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_nothing_malformed_breaks_the_control_app(service: Service, many: int) -> None:
    service.enrol()
    rng = random.Random(20260102)
    schema = service.get("/openapi.json")
    skip = {"/v1/events/stream", "/v1/doctor", "/v1/secrets/rotate-key"}
    paths = [
        (method, path) for path, methods in schema["paths"].items() if path not in skip for method in methods
    ]
    for number in range(many):
        try:
            reply = control_request(rng, service.api, paths)
        except httpx2.InvalidURL:
            continue
        assert reply.status_code < 500 or reply.status_code in (502, 504), (number, reply.request, reply.text)
        if reply.status_code >= 400:
            assert reply.json()["code"].startswith("BM"), (number, reply.request, reply.text)
    assert service.get("/healthz") == {"status": "ok"}
