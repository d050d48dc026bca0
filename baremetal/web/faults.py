"""How an error of ours looks over HTTP: one body, and a status by its class."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from baremetal import errors
from baremetal.errors import BaremetalError, BmcError, BmcErrorKind, StorageErrorKind
from baremetal.telemetry import logger, redact_text

log = logger(__name__)

_STATUS: tuple[tuple[type[BaremetalError], int], ...] = (
    (errors.Refused, 409),  # and Conflict
    (errors.Superseded, 409),
    (errors.Unknown, 404),
    (errors.Invalid, 422),
    (errors.MediaMissing, 422),
    (errors.Unavailable, 503),
    (errors.TimedOut, 504),
    (errors.LoginError, 502),
)
_LATE = {BmcErrorKind.UNREACHABLE, BmcErrorKind.DEADLINE, BmcErrorKind.BREAKER}

_STORAGE = {
    StorageErrorKind.UNREACHABLE: 504,
    StorageErrorKind.CLASH: 409,
    StorageErrorKind.SETTINGS: 409,
    StorageErrorKind.IN_USE: 409,
}


def status_of(error: BaremetalError) -> int:
    """Return the HTTP status that this error is answered with."""
    if isinstance(error, BmcError):
        return 504 if error.kind in _LATE else 502
    if isinstance(error, errors.StorageError):
        return _STORAGE.get(error.kind, 502)
    if isinstance(error, errors.NotAuthorised):
        return 403 if error.code == "BM603" else 401
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def reply(error: BaremetalError) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if status_of(error) == 401 else None
    return JSONResponse(error.as_dict(), status_of(error), headers)


def handle(app: FastAPI) -> None:
    """Teach the app to answer every failure in the one error shape, without a traceback."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BaremetalError)
        return reply(error)

    async def body(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return reply(_invalid(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "BM504", 405: "BM505"}.get(error.status_code, "BM505")
        what = {404: "there is nothing at this address", 405: "this address does not take that method"}
        fault = BaremetalError(what.get(error.status_code, str(error.detail)), code=code)
        return JSONResponse(fault.as_dict(), error.status_code, error.headers)

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", path=request.url.path, exc_info=error)
        fault = BaremetalError(
            f"an error that was not foreseen ({type(error).__name__})",
            fix="the service's log has the details; please report it",
        )
        return JSONResponse(fault.as_dict(), 500)

    app.add_exception_handler(BaremetalError, ours)
    app.add_exception_handler(RequestValidationError, body)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def _invalid(error: RequestValidationError) -> errors.Invalid:
    """Name the places that are wrong; never quote the input, which may hold a password."""
    places: list[dict[str, Any]] = list(error.errors())
    first = places[0] if places else {"loc": (), "msg": "malformed"}
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    what = f"{where or 'the body'}: {redact_text(str(first['msg']))}"
    if len(places) > 1:
        what += f" (and {len(places) - 1} more)"
    return errors.Invalid(what, variable=where or None)
