"""The OpenAPI document: the request bodies and the problems that routes declare here instead of by parameters."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dispatcher import schemas, schemas_dead_letters, schemas_drain
from dispatcher.auth import OPEN_PATHS
from dispatcher.problems import MEDIA_TYPE

REF = "#/components/schemas/{model}"

_BY_HAND: tuple[type[BaseModel], ...] = (
    schemas.JobRequest,
    schemas.BatchRequest,
    schemas.ProduceRequest,
    schemas.BatchProduceRequest,
    schemas.OrderRequest,
    schemas_dead_letters.RedriveRequest,
    schemas_drain.DrainRequest,
    schemas.ProblemView,
    schemas.NotCancellableView,
    schemas.BatchProduceProblemView,
)

_STATUSES = {
    400: "The body is not JSON (`malformed_json`)",
    401: "No known key (`unauthorized`)",
    403: "The key is not for this (`forbidden`)",
    404: "There is no such model, job, worker or order (`unknown_model` and so on)",
    408: "The body did not come in time (`request_timeout`)",
    409: "It cannot be done as things stand (`id_conflict`, `not_cancellable`, `cannot_load`, `pinned`, ...)",
    413: "Body or batch over its limit (`payload_too_large`)",
    415: "The body is not said to be JSON (`unsupported_media_type`)",
    422: "A field is wrong (`invalid_input`), or no GPU is large enough (`never_fits`)",
    429: "A queue is full, or you ask or follow too much (`overloaded`); `Retry-After` says when to come back",
    503: "Broker or store are away (`broker_unavailable`, `store_unavailable`); `Retry-After` says when to come back",
}

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int, view: type[schemas.ProblemView] = schemas.ProblemView) -> Responses:
    """The problem answers of a route, for its ``responses``. Whoever may get too large a body may get a slow one."""
    content = {MEDIA_TYPE: {"schema": {"$ref": REF.format(model=view.__name__)}}}
    told = sorted({*statuses, *((408,) if 413 in statuses else ())})
    return {status: {"description": _STATUSES[status], "content": content} for status in told}


def body(model: type[BaseModel], required: bool = True) -> dict[str, Any]:
    """The request body of a route, for its ``openapi_extra``."""
    content = {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}
    return {"requestBody": {"required": required, "content": content}}


def headers(**described: str | tuple[str, str]) -> dict[str, Any]:
    """Request headers that a route reads itself, for its ``openapi_extra``: what each is for, and the pattern of those
    that have one. Underscores become dashes.
    """
    told = {name: text if isinstance(text, tuple) else (text, "") for name, text in described.items()}
    return {
        "parameters": [
            {
                "name": name.replace("_", "-"),
                "in": "header",
                "description": text,
                "schema": {"type": "string", **({"pattern": pattern} if pattern else {})},
            }
            for name, (text, pattern) in told.items()
        ]
    }


def install(app: FastAPI, with_keys: bool) -> None:
    """Give ``app`` its document. ``with_keys``: it asks for a key, which /docs can then be told."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, with_keys)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # the way FastAPI's own documentation gives


def _document(app: FastAPI, with_keys: bool) -> dict[str, Any]:
    made: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    _, written = models_json_schema([(model, "validation") for model in _BY_HAND], ref_template=REF)
    components = made.setdefault("components", {})
    components["schemas"] = {**written["$defs"], **components.get("schemas", {})}
    _drop_framework_errors(made)
    if with_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
        _add_refusals(made)
    return made


def _add_refusals(made: dict[str, Any]) -> None:
    """What the gate before the routes may answer. What is open to all never has it, and says that it needs no key."""
    for path, operations in made["paths"].items():
        if path in OPEN_PATHS:
            for operation in operations.values():
                operation["security"] = []
            continue
        for operation in operations.values():
            for status, answer in problems(401, 403, 429).items():
                operation["responses"].setdefault(str(status), answer)


def _drop_framework_errors(made: dict[str, Any]) -> None:
    """FastAPI adds its own 422 wherever there is a path parameter; ours is a problem, and said where it can happen."""
    for path in made["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)
