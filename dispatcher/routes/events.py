"""Server-sent events: what happens to one job, and what happens in the whole fleet."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from affinity.errors import InvalidInput
from affinity.io.event_port import Event
from affinity.job import Job, JobSpec, JobState
from dispatcher.auth import caller_in, still_opens
from dispatcher.event_answer import EventAnswer
from dispatcher.event_frames import END, MEDIA_TYPE, job_now, opened, told
from dispatcher.following import Client, fleet_story, job_story
from dispatcher.openapi import headers, problems
from dispatcher.services import dispatcher_of

router = APIRouter(tags=["events"])

_HEADER = "Last-Event-ID"
_RESUME = "Id of the last event that was seen: the stream goes on after it. A browser sends it by itself."
_JOB = {"job": "my-job-1", "model": "minilm-l6-v2"}
_FLEET_EXAMPLE = (
    opened("1794000000123-0")
    + told(
        Event(
            "model.resident",
            1794000000.456,
            {"worker": "w1", "model": "minilm-l6-v2", "load_s": "0.41"},
            "1794000000456-0",
        )
    ).frame
)
_JOB_EXAMPLE = b"".join(
    (
        job_now(Job(JobSpec("my-job-1", "minilm-l6-v2", {}), JobState.QUEUED, 1794000000.1), "1794000000123-0"),
        told(
            Event("job.started", 1794000000.5, {**_JOB, "worker": "w1", "attempt": "1"}, "1794000000500-0"), True
        ).frame,
        told(Event("job.settled", 1794000000.8, {**_JOB, "state": "succeeded"}, "1794000000800-0"), True).frame,
    )
)

_RESUMABLE = r"^([0-9]{1,19}(-[0-9]{1,19})?(\.end)?)?$"
LastEventId = Annotated[
    str | None, Query(description="The same as the header, which wins.", json_schema_extra={"pattern": _RESUMABLE})
]

_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "pattern": r"^[a-z_.]{1,64}$"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string", "pattern": _RESUMABLE},
        "retry": {"type": "integer", "minimum": 0},
    },
}


def _stream(example: bytes) -> dict[str, Any]:
    # As OpenAPI 3.2 has it: the answer as a whole, and each event in it.
    content = {MEDIA_TYPE: {"schema": {"type": "string"}, "itemSchema": _EVENT, "example": example.decode()}}
    return {"description": "Events as they happen; `docs/http.md` lists them", "content": content}


@router.get(
    "/events",
    summary="Follow the fleet",
    response_class=Response,
    responses={200: _stream(_FLEET_EXAMPLE), **problems(401, 403, 422, 429, 503)},
    openapi_extra=headers(Last_Event_ID=(_RESUME, _RESUMABLE)),
)
async def fleet_events(request: Request, last_event_id: LastEventId = None) -> Response:
    """Every event of the stream as a server-sent event, for operators. It ends only with the dispatcher."""
    client, _ = _client(request, last_event_id)
    return EventAnswer(fleet_story(dispatcher_of(request).feed, client))


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: _stream(_JOB_EXAMPLE),
        204: {"description": "Its last event was seen already: do not come back"},
        **problems(401, 404, 422, 429, 503),
    },
    openapi_extra=headers(Last_Event_ID=(_RESUME, _RESUMABLE)),
)
async def job_events(request: Request, job_id: str, last_event_id: LastEventId = None) -> Response:
    """First the job as it stands (`job.now`), then what happens to it, until it is over. Its result is at the job."""
    dispatcher = dispatcher_of(request)
    client, saw_end = _client(request, last_event_id)
    if saw_end and (await dispatcher.services.store.get(job_id)).state.terminal:
        return Response(status_code=204)
    return EventAnswer(job_story(dispatcher.feed, client, dispatcher.services.store, job_id))


def _client(request: Request, asked: str | None) -> tuple[Client, bool]:
    """Who follows, and whether it has seen the end of its job."""
    sent = request.headers.get(_HEADER)
    if not all(re.fullmatch(_RESUMABLE, each or "") for each in (asked, sent)):
        raise InvalidInput("is not the id of an event: send one as it came, or none", "last_event_id")
    after = (asked if sent is None else sent) or None
    saw_end = after is not None and after.endswith(END)
    after = after and after.removesuffix(END)
    keys = dispatcher_of(request).keys
    return Client(lambda: still_opens(keys, request), caller_in(request).tenant, after), saw_end
