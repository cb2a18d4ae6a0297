"""Jobs: submit, submit many, look, list, cancel."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from affinity.errors import AffinityError, InvalidInput, NotCancellable, UnknownJob
from affinity.job import Job, JobSpec, JobState, check_job_id
from affinity.wire import job_to_json
from dispatcher.auth import caller_in
from dispatcher.bodies import IDEMPOTENCY_KEY, KEY_PATTERN, as_object, items_of, job_spec, read_object
from dispatcher.openapi import body, headers, problems
from dispatcher.prefer import wait_preference
from dispatcher.problems import ProblemResponse, problem_of
from dispatcher.render import JsonResponse
from dispatcher.schemas import (
    MODEL_PATTERN,
    BatchAnswer,
    BatchRequest,
    JobPage,
    JobRequest,
    JobView,
    NotCancellableView,
)
from dispatcher.services import dispatcher_of
from dispatcher.submit import Submission

router = APIRouter(tags=["jobs"])

PAGE_LIMIT = 500
_WAIT = "`wait=N`: answer when the job is over, at the latest after N seconds (60 at most)."


@router.post(
    "/jobs",
    summary="Submit a job",
    status_code=202,
    responses={
        200: {"model": JobView, "description": "Finished within `Prefer: wait`, or known already under this id"},
        202: {"model": JobView, "description": "Accepted: the broker has it on disk. `Location` is the job"},
        **problems(400, 401, 404, 409, 413, 415, 422, 429, 503),
    },
    openapi_extra={
        **body(JobRequest),
        **headers(Prefer=_WAIT, Idempotency_Key=("The same as `id` in the body.", KEY_PATTERN)),
    },
)
async def submit(request: Request) -> Response:
    """Check a job against the catalogue, record it and publish it.

    Nothing of a refused job is kept. Sending a job again under the same `id` is always safe.
    """
    dispatcher = dispatcher_of(request)
    spec = job_spec(await read_object(request), request.headers.get(IDEMPOTENCY_KEY), caller_in(request).tenant)
    wait_s = wait_preference(request.headers.getlist("prefer"))
    if not wait_s:
        submission = await dispatcher.submitter.submit_and_mark(spec)
        return _answer(submission.job, 202 if submission.fresh else 200)
    with dispatcher.settlements.expecting(spec.id) as hint:
        submission = await dispatcher.submitter.submit(spec)
        dispatcher.submitter.mark_later(submission)
        job = await dispatcher.settlements.finished(submission.job, hint, wait_s)
    if job.state.terminal:
        dispatcher.submitter.ended(job.id)
    return _answer(job, 200 if job.state.terminal else 202, wait_s)


@router.post(
    "/jobs/batch",
    summary="Submit many jobs",
    responses={200: {"model": BatchAnswer}, **problems(400, 401, 413, 415, 422)},
    openapi_extra=body(BatchRequest),
)
async def submit_batch(request: Request) -> Response:
    """Each job is accepted or refused by itself; the answer has a job or a problem for each, in order."""
    dispatcher = dispatcher_of(request)
    items = items_of(await read_object(request), "jobs", dispatcher.services.settings.dispatcher_max_batch)
    tenant = caller_in(request).tenant
    answers = await dispatcher.submitter.submit_all([_spec_or_error(item, tenant) for item in items])
    refused = sum(isinstance(answer, AffinityError) for answer in answers)
    jobs = [job_to_json(a.job) if isinstance(a, Submission) else problem_of(a) for a in answers]
    return JsonResponse({"accepted": len(answers) - refused, "refused": refused, "jobs": jobs})


@router.get(
    "/jobs",
    summary="List jobs",
    responses={200: {"model": JobPage}, **problems(401, 422, 503)},
)
async def page(
    request: Request,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    model: Annotated[str | None, Query(description="Only jobs of this model.", pattern=MODEL_PATTERN)] = None,
    limit: Annotated[int, Query(description="Most jobs on the page.", ge=1, le=PAGE_LIMIT)] = 50,
    cursor: Annotated[str | None, Query(description="From the page before.", max_length=512)] = None,
) -> Response:
    """A page of jobs, newest first. Pages end early where results are large; only a null `cursor` is the end."""
    found = await dispatcher_of(request).services.store.page(state, model, limit, cursor)
    return JsonResponse({"jobs": [job_to_json(job) for job in found.jobs], "cursor": found.cursor})


@router.get(
    "/jobs/{job_id}",
    summary="Look at a job",
    responses={200: {"model": JobView}, **problems(401, 404, 503)},
    openapi_extra=headers(Prefer=_WAIT),
)
async def look(request: Request, job_id: str) -> Response:
    """The job as it stands; with `Prefer: wait=N`, when it is over or N seconds have passed."""
    dispatcher = dispatcher_of(request)
    wait_s = wait_preference(request.headers.getlist("prefer"))
    with dispatcher.settlements.expecting(_known_form(job_id)) as hint:
        job = await dispatcher.services.store.get(job_id)
        if wait_s:
            job = await dispatcher.settlements.finished(job, hint, wait_s)
    return _answer(job, 200, wait_s)


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel a job",
    responses={200: {"model": JobView}, **problems(401, 404, 503), **problems(409, view=NotCancellableView)},
)
async def cancel(request: Request, job_id: str) -> Response:
    """A queued job never runs. A running one is stopped: its result, if there is one yet to come, is dropped.

    Where the job has ended already the answer is `409`, with the job as `job`.
    """
    dispatcher = dispatcher_of(request)
    services = dispatcher.services
    try:
        job = await services.store.cancel(_known_form(job_id), services.clock.now())
    except NotCancellable as error:
        return ProblemResponse.of(error, job=job_to_json(await services.store.get(job_id)))
    dispatcher.metrics.cancelled(job.spec.model, "queued" if job.started_at is None else "running")
    return _answer(job, 200)


def _known_form(job_id: str) -> str:
    """The id from a path; what cannot be an id is no job's."""
    try:
        return check_job_id(job_id)
    except InvalidInput:
        raise UnknownJob("there is no job of that id: ids are 1 to 128 letters, digits or . _ : -") from None


def _spec_or_error(item: object, tenant: str) -> JobSpec | AffinityError:
    try:
        return job_spec(as_object(item), tenant=tenant)
    except AffinityError as error:
        return error


def _answer(job: Job, status: int, waited_s: int = 0) -> Response:
    response = JsonResponse(job_to_json(job), status)
    response.headers["Location"] = f"/jobs/{job.id}"
    if waited_s:
        response.headers["Preference-Applied"] = f"wait={waited_s}"
    return response
