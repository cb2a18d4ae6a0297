"""The older producer's two calls, for clients that must not change: new jobs under the old names.

Errors are problems like everywhere else (so ``status`` is a number there), and a message with an ``id`` is idempotent.
"""

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response

from affinity.errors import AffinityError, InvalidInput
from affinity.job import JobSpec
from affinity.wire import rfc3339, spec_from_json
from dispatcher.auth import caller_in
from dispatcher.bodies import as_object, items_of, new_id, read_object
from dispatcher.openapi import body, problems
from dispatcher.problems import ProblemResponse
from dispatcher.render import JsonResponse
from dispatcher.schemas import (
    MAX_NUMBER,
    BatchProduceAnswer,
    BatchProduceProblemView,
    BatchProduceRequest,
    ProduceAnswer,
    ProduceRequest,
)
from dispatcher.services import dispatcher_of

router = APIRouter(tags=["older producer"])

ECHO = "echo"


@router.post(
    "/produce",
    summary="Submit a message",
    responses={200: {"model": ProduceAnswer}, **problems(400, 401, 404, 409, 413, 415, 422, 429, 503)},
    openapi_extra=body(ProduceRequest),
)
async def produce(request: Request) -> Response:
    """A job for `model` (`echo` if not said) with `payload` as its input."""
    dispatcher = dispatcher_of(request)
    spec = produced_spec(await read_object(request), caller_in(request).tenant)
    submission = await dispatcher.submitter.submit_and_mark(spec)
    now = dispatcher.services.clock.now()
    return JsonResponse({"status": "success", "message_id": submission.job.id, "timestamp": rfc3339(now)})


@router.post(
    "/batch-produce",
    summary="Submit many messages",
    responses={
        200: {"model": BatchProduceAnswer},
        **problems(400, 401, 404, 409, 413, 415, 422, 429, 503, view=BatchProduceProblemView),
    },
    openapi_extra=body(BatchProduceRequest),
)
async def batch_produce(request: Request) -> Response:
    """All are checked before the first is taken. If one fails later on, the problem's `messages_produced` says how many
    were taken; with an `id` in each message the whole batch can be sent again.
    """
    dispatcher = dispatcher_of(request)
    items = items_of(await read_object(request), "messages", dispatcher.services.settings.dispatcher_max_batch)
    tenant = caller_in(request).tenant
    specs = [_spec_of_item(number, item, tenant) for number, item in enumerate(items)]
    await asyncio.gather(*(dispatcher.submitter.check(spec) for spec in specs))
    answers = await dispatcher.submitter.submit_all(specs)
    errors = [answer for answer in answers if isinstance(answer, AffinityError)]
    produced = len(answers) - len(errors)
    if errors:
        return ProblemResponse.of(errors[0], messages_produced=produced)
    return JsonResponse({"status": "success", "messages_produced": produced})


def produced_spec(message: Mapping[str, object], tenant: str = "") -> JobSpec:
    """The job a message stands for. Fields we do not know are ignored, as the older producer did."""
    if "payload" not in message:
        raise InvalidInput("is missing", "payload")
    model, payload, seconds = message.get("model", ECHO), message["payload"], message.get("processing_time")
    content: object = payload
    if model == ECHO:
        content = {"payload": payload, **({} if seconds is None else {"processing_time": seconds})}
    return spec_from_json({"id": _id(message.get("id")), "model": model, "input": content, "tenant": tenant})


def _spec_of_item(number: int, item: object, tenant: str) -> JobSpec:
    try:
        return produced_spec(as_object(item), tenant)
    except InvalidInput as error:
        place = f"messages[{number}]" if error.field is None else f"messages[{number}].{error.field}"
        raise InvalidInput(error.message.removeprefix(f"{error.field}: "), place) from None


def _id(given: object) -> object:
    """Older clients number their messages."""
    if given is None:
        return new_id()
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        return given
    if abs(given) >= MAX_NUMBER:
        raise InvalidInput(f"must be below {MAX_NUMBER} where it is a number: send it as a string", "id")
    return str(given)
