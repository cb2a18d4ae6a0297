"""From the bytes of a request to checked values. Everything a client can get wrong has its own error here."""

import uuid
from collections.abc import Mapping
from typing import cast

from fastapi import Request

from affinity.errors import InvalidInput, PayloadTooLarge
from affinity.job import JobSpec
from affinity.wire import MESSAGE_FIELDS, loads, spec_from_json
from dispatcher.problems import MalformedJson, UnsupportedMediaType

JOB_FIELDS = MESSAGE_FIELDS - {"v", "created_at", "tenant"}
"""What a job may say of itself over HTTP."""

IDEMPOTENCY_KEY = "idempotency-key"
KEY_PATTERN = r'^([A-Za-z0-9._:\-]{1,128}|"[A-Za-z0-9._:\-]{1,128}")$'
"""An id; or one in quotes, as a structured field has its strings."""


async def read_object(request: Request) -> Mapping[str, object]:
    """The JSON object in the body.

    Raises ``UnsupportedMediaType``, ``PayloadTooLarge``, ``MalformedJson`` or ``InvalidInput``.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
    try:
        body = loads(await request.body())
    except ValueError as error:
        raise MalformedJson(f"the body is not JSON: {error}") from error
    return as_object(body)


def as_object(value: object) -> Mapping[str, object]:
    """The value, or ``InvalidInput`` where it is not a JSON object."""
    if not isinstance(value, dict):
        raise InvalidInput("must be a JSON object")
    return cast(dict[str, object], value)


def items_of(fields: Mapping[str, object], name: str, most: int) -> list[object]:
    """The list in a body that holds nothing else. ``PayloadTooLarge`` above ``most`` items."""
    refuse_unknown(fields, frozenset({name}))
    items = fields.get(name)
    if not isinstance(items, list):
        raise InvalidInput("must be a list", name)
    if len(items) > most:
        raise PayloadTooLarge(f"{name} has {len(items)} items and may have {most}: send them in several requests")
    return items


def job_spec(fields: Mapping[str, object], header_id: str | None = None, tenant: str = "") -> JobSpec:
    """The job that a client of this tenant asks for. Its id: ``id``, else the ``Idempotency-Key`` header, else new."""
    refuse_unknown(fields, JOB_FIELDS)
    if "input" not in fields:
        raise InvalidInput("is missing", "input")
    return spec_from_json({**fields, "id": _id(fields.get("id"), header_id), "tenant": tenant})


def new_id() -> str:
    """An id nobody else makes."""
    return uuid.uuid4().hex


def refuse_unknown(fields: Mapping[str, object], known: frozenset[str]) -> None:
    """Raise ``InvalidInput`` for a field we do not know: more likely misspelt than meant to be ignored."""
    for name in fields:
        if name not in known:
            raise InvalidInput(f"is not known; there are {', '.join(sorted(known))}", name[:128])


def _id(body_id: object, header_id: str | None) -> object:
    if header_id is None:
        return new_id() if body_id is None else body_id
    key = header_id.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':  # the header is a structured field, whose strings are quoted
        key = key[1:-1]
    if body_id is not None and body_id != key:
        raise InvalidInput("is not what the header Idempotency-Key says: send one of them, or the same in both", "id")
    return key
