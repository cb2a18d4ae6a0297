"""``/metrics``: counters from memory, gauges found out now. A server that is away costs its gauges, not the scrape."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from affinity.errors import Overloaded
from affinity.fleet import FleetView, ModelFacts, WorkerReport
from affinity.policy.admission import fits_one_of
from dispatcher.metrics import CONTENT_TYPE, BrokerGauges, StoreGauges
from dispatcher.services import Dispatcher, Services, dispatcher_of

router = APIRouter(tags=["health"])

ANSWER_WITHIN_S = 3.0

Found = TypeVar("Found")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
)
async def metrics(request: Request) -> Response:
    """All series of this dispatcher, in the Prometheus text format."""
    dispatcher = dispatcher_of(request)
    services = dispatcher.services
    store, broker = await asyncio.gather(_in_time(_ask_store(dispatcher)), _in_time(_ask_broker(services)))
    return Response(dispatcher.metrics.render(store, broker), media_type=CONTENT_TYPE)


async def _ask_store(dispatcher: Dispatcher) -> StoreGauges:
    services = dispatcher.services
    demand, sighting, seen, dead, warnings, used = await asyncio.gather(
        services.store.demand(),
        services.fleet.sighting(),
        dispatcher.submitter.glance.look(),
        services.store.letters.counts(),
        services.check_store(),
        _used(dispatcher),
    )
    now, view = services.clock.now(), sighting.view
    waiting = [one for one in demand if one.queued]
    names = [entry.name for entry in services.catalog]
    nothing = dict.fromkeys(names, 0)  # Every model has its series, so that an empty queue is a 0 and not a gap.
    return StoreGauges(
        queued={**nothing, **{one.model: one.queued for one in demand}},
        oldest_wait_s={**nothing, **{one.model: one.oldest_wait_s(now) for one in waiting}},
        holders={**nothing, **holders_of(view)},
        unplaceable={
            **dict.fromkeys(names, False),
            **{one.model: unplaceable(one.model, view, seen.facts, now) for one in waiting},
        },
        workers_up={**{report.worker: False for report in sighting.lost}, **dict.fromkeys(view.workers, True)},
        dead_letters=dead,
        warnings=len(warnings),
        gpu_s=used,
    )


async def _used(dispatcher: Dispatcher) -> Mapping[str, float]:
    """GPU seconds charged to each tenant of the keys file: whoever publishes to the broker can name any other."""
    tenants = dispatcher.keys.tenants
    used = await dispatcher.services.store.gpu_seconds() if tenants else {}
    return {tenant: used.get(tenant, 0.0) for tenant in sorted(tenants)}


def holders_of(view: FleetView) -> dict[str, int]:
    """How many GPUs have each model ready or loading."""
    held = (r.model for report in view.workers.values() for r in report.residents if report.holds(r.model))
    return dict(Counter(held))


def unplaceable(model: str, view: FleetView, facts: Mapping[str, ModelFacts], now: float) -> bool:
    """True if workers are there and each is too small for the model or has given up on loading it."""
    known = facts.get(model)
    if known is None or not view.workers:
        return False

    def cannot(report: WorkerReport) -> bool:
        refusal = report.refuses(model, now)
        return not fits_one_of(known, [report.gpu]) or (refusal is not None and refusal.hopeless)

    return all(cannot(report) for report in view.workers.values())


async def _ask_broker(services: Services) -> BrokerGauges:
    names = services.topology
    fallback, dead = await asyncio.gather(
        services.publisher.depth(names.fallback), services.publisher.depth(names.dead)
    )
    return BrokerGauges(fallback, dead)


async def _in_time(question: Awaitable[Found]) -> Found | None:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await question
    except (Overloaded, TimeoutError):
        return None
