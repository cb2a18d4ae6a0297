"""Why a job waits, or ran where it ran: the workers' own decision code, asked from here."""

import asyncio

from fastapi import APIRouter, Request, Response

from affinity.job import Job, JobState
from affinity.policy.explain import explain
from affinity.policy.facts import with_rates
from dispatcher.explain import Json, answer_json, waiting_json
from dispatcher.explaining import Explaining
from dispatcher.fleet_glance import FleetGlance
from dispatcher.openapi import problems
from dispatcher.render import JsonResponse
from dispatcher.schemas import ExplainView
from dispatcher.services import Services, dispatcher_of

router = APIRouter(tags=["jobs"])


@router.get(
    "/jobs/{job_id}/explain",
    summary="Explain a job",
    responses={200: {"model": ExplainView}, **problems(401, 404, 503)},
)
async def explained(request: Request, job_id: str) -> Response:
    """Queued: what the plan does for it, every worker's standing, when it may start. Started: where its time went."""
    dispatcher = dispatcher_of(request)
    services = dispatcher.services
    job = await services.store.get(job_id)
    waiting = await _waiting(services, dispatcher.explaining, job) if job.state is JobState.QUEUED else None
    if waiting is None and job.state is JobState.QUEUED:  # It has left the queue in the meantime.
        job = await services.store.get(job_id)
    return JsonResponse(answer_json(job, waiting))


async def _waiting(services: Services, explaining: Explaining, job: Job) -> Json | None:
    """Why it waits; ``None`` if it does not any more."""
    model = job.spec.model
    glance, demand, rates, ahead = await asyncio.gather(
        FleetGlance(services.fleet, services.catalog, services.clock).look(),  # Not the shared one: it may be old.
        services.store.demand(),
        services.store.rates(),
        services.store.position(job.id, model),
    )
    mine = next((d for d in demand if d.model == model), None)
    if ahead is None or mine is None:
        return None
    now = services.clock.now()
    rated = with_rates(demand, rates, glance.view)
    found = await explaining.found(explain(model, ahead, job.created_at, glance.view, rated, glance.facts, now))
    return waiting_json(found, ahead, max(mine.queued, ahead + 1), max(0.0, now - job.created_at))
