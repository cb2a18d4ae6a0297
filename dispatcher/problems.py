"""Every error as RFC 9457 ``application/problem+json`` with a stable ``code``, those of the framework included."""

import math
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from affinity.errors import AffinityError, CallerError, InvalidInput, Overloaded, Unauthorized
from dispatcher.render import encode

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

Problem = dict[str, object]


class MalformedJson(CallerError):
    """The body is not JSON."""

    code = "malformed_json"
    status = 400


class RequestTimeout(CallerError):
    """The body did not come in time."""

    code = "request_timeout"
    status = 408


class Forbidden(CallerError):
    """The key is known, and not for this."""

    code = "forbidden"
    status = 403


class UnsupportedMediaType(CallerError):
    """The body is not said to be JSON. A web page of another site can send anything else without being asked first."""

    code = "unsupported_media_type"
    status = 415


def problem(status: int, code: str, detail: str, **more: object) -> Problem:
    """The members of a problem. ``more`` are extension members."""
    return {
        "type": f"urn:affinity:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        **more,
    }


def problem_of(error: AffinityError) -> Problem:
    """The problem an error of ours becomes; ``errors`` names the field where one is at fault."""
    if isinstance(error, InvalidInput) and error.field is not None:
        fault = {"field": error.field, "message": error.message.removeprefix(f"{error.field}: ")}
        return problem(error.status, error.code, error.message, errors=[fault])
    if isinstance(error, (CallerError, Overloaded)):
        return problem(error.status, error.code, error.message)
    # Anything else is about a job or about us, never about the request: its text may hold what is not the caller's.
    return problem(500, error.code, "the dispatcher failed; its log says why")


class ProblemResponse(Response):
    """A problem, with the headers that belong to its status."""

    media_type = MEDIA_TYPE

    def __init__(self, content: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(encode(content), int(str(content["status"])), headers)

    @classmethod
    def of(cls, error: AffinityError, **more: object) -> "ProblemResponse":
        """The answer to a request that ended in ``error``, with extension members."""
        headers: dict[str, str] = {}
        if isinstance(error, Overloaded):
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        return cls({**problem_of(error), **more}, headers)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with a problem."""
    app.add_exception_handler(AffinityError, ours)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, _unforeseen)


async def ours(request: Request, error: Exception) -> Response:
    """The answer to a request that raised an ``AffinityError``."""
    assert isinstance(error, AffinityError)
    if not isinstance(error, (CallerError, Overloaded)):
        log.error("request.failed", method=request.method, path=request.url.path, code=error.code, exc_info=error)
    return ProblemResponse.of(error)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != phrase else _ADVICE.get(error.status_code, phrase)
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request)
    return ProblemResponse(problem(error.status_code, code, detail), headers)


def _allowed(request: Request) -> str:
    """Every method of this path. The framework names those of the first route it comes to, and each has one."""
    asked = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    return ", ".join(m for m in asked if any(route.matches(asked[m])[0] is Match.FULL for route in routes))


_METHODS = ("DELETE", "GET", "HEAD", "POST")
"""All that any route has."""

_ADVICE = {
    404: "there is no such route; GET /openapi.json lists them",
    405: "this route does not take that method; the Allow header lists those it takes",
}


async def _parameters(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [{"field": ".".join(map(str, fault["loc"][1:])), "message": fault["msg"]} for fault in error.errors()]
    detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return ProblemResponse(problem(422, InvalidInput.code, detail, errors=faults))


async def gone(_: Request, __: Exception) -> Response:
    """What is left to say to a client that has gone away."""
    return ProblemResponse(problem(400, "client_disconnected", "the client went away before its request was whole"))


async def _unforeseen(request: Request, _: Exception) -> Response:
    # The server logs the traceback itself when the exception reaches it.
    log.error("request.failed", method=request.method, path=request.url.path, code="internal")
    return ProblemResponse(problem(500, "internal", "the dispatcher failed; its log says why"))
