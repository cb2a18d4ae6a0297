"""Dead letters: what gave up, and putting it back."""

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from affinity.errors import InvalidInput
from affinity.io.letters import Letter, LetterFilter
from affinity.job import check_model_name
from affinity.wire import rfc3339
from dispatcher.bodies import read_object, refuse_unknown
from dispatcher.dead_letters import DEFAULT_RATE, MAX_IDS, MAX_RATE, MIN_RATE
from dispatcher.openapi import body, problems
from dispatcher.render import JsonResponse
from dispatcher.schemas import MODEL_PATTERN
from dispatcher.schemas_dead_letters import (
    CODE_PATTERN,
    PLACE_PATTERN,
    DeadLetterPage,
    RedriveAnswer,
    RedriveRequest,
)
from dispatcher.services import dispatcher_of

PAGE_LIMIT = 500
_FIELDS = frozenset({"ids", "code", "model", "all", "rate"})


router = APIRouter(tags=["dead letters"])


@router.get(
    "/dead-letters",
    summary="What gave up",
    responses={200: {"model": DeadLetterPage}, **problems(401, 422, 503)},
)
async def dead_letters(
    request: Request,
    code: Annotated[str | None, Query(pattern=CODE_PATTERN)] = None,
    model: Annotated[str | None, Query(pattern=MODEL_PATTERN)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 50,
    # Only told: what the store says of a cursor that is none tells the caller more than "should match the pattern".
    cursor: Annotated[str | None, Query(json_schema_extra={"pattern": PLACE_PATTERN})] = None,
) -> Response:
    """Failed jobs, and messages that could not be read as jobs, newest first. They are kept for a week."""
    which = LetterFilter(code or "", check_model_name(model) if model else "")
    page = await dispatcher_of(request).services.store.letters.page(which, limit, cursor)
    return JsonResponse({"dead_letters": [letter_json(letter) for letter in page.letters], "cursor": page.cursor})


@router.post(
    "/dead-letters/redrive",
    summary="Put dead letters back",
    status_code=202,
    responses={202: {"model": RedriveAnswer}, **problems(400, 401, 413, 415, 422, 503)},
    openapi_extra=body(RedriveRequest),
)
async def redrive(request: Request) -> Response:
    """Have dead letters put back at a bounded rate. Jobs keep their id and their history; attempts count anew.

    It goes on whatever becomes of this dispatcher. To ask twice is safe: each is put back once.
    """
    fields = await read_object(request)
    refuse_unknown(fields, _FIELDS)
    ids, which, rate = _ids(fields), _which(fields), _rate(fields)
    redriven = await dispatcher_of(request).desk.redrive(ids, which, rate)
    ends_at = None if redriven.ends_at is None else rfc3339(redriven.ends_at)
    answer = {"scheduled": redriven.scheduled, "unknown": list(redriven.unknown), "ends_at": ends_at}
    return JsonResponse(answer, 202)


def letter_json(letter: Letter) -> dict[str, object]:
    """One dead letter."""
    return {
        "id": letter.id,
        "kind": "job" if letter.size_bytes is None else "message",
        "model": letter.model,
        "code": letter.code,
        "error": {"code": letter.error.code, "message": letter.error.message},
        "worker": letter.worker,
        "created_at": rfc3339(letter.created_at),
        "died_at": rfc3339(letter.died_at),
        "attempts": letter.attempts,
        "losses": letter.losses,
        "deaths": letter.deaths,
        "life": letter.life,
        "tenant": letter.tenant or None,
        "size_bytes": letter.size_bytes,
        "excerpt": letter.excerpt,
    }


def _ids(fields: Mapping[str, object]) -> list[str] | None:
    ids = fields.get("ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids) or not 1 <= len(ids) <= MAX_IDS:
        raise InvalidInput(f"must be a list of 1 to {MAX_IDS} ids", "ids")
    for name in ("code", "model", "all"):
        if fields.get(name) is not None:
            raise InvalidInput("goes without ids: say which, or all of a kind", name)
    return ids


def _which(fields: Mapping[str, object]) -> LetterFilter:
    code, model, everything = fields.get("code"), fields.get("model"), fields.get("all")
    if code is not None and (not isinstance(code, str) or not code):
        raise InvalidInput("must be a code, as GET /dead-letters shows them", "code")
    if model is not None and not isinstance(model, str):
        raise InvalidInput("must be the name of a model", "model")
    if everything is not None and everything is not True:  # 1 is as good as True to "in".
        raise InvalidInput("must be true, or left out", "all")
    if everything and (code or model):
        raise InvalidInput("goes without code and model", "all")
    if not (fields.get("ids") or code or model or everything):
        raise InvalidInput('say which: "ids", "code", "model", or "all": true')
    return LetterFilter(_checked_code(code or ""), check_model_name(model) if model is not None else "")


def _checked_code(code: str) -> str:
    if code and not re.fullmatch(CODE_PATTERN, code):
        raise InvalidInput("must be a code, as GET /dead-letters shows them", "code")
    return code


def _rate(fields: Mapping[str, object]) -> float:
    rate = fields.get("rate", DEFAULT_RATE)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidInput(f"must be {MIN_RATE:g} to {MAX_RATE:g} jobs per second", "rate")
    return float(rate)
