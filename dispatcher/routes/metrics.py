"""``/metrics``: counters from memory, gauges found out now. A server that is away costs its gauges, not the scrape."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from affinity.errors import Overloaded
from dispatcher.metrics import CONTENT_TYPE, BrokerGauges, StoreGauges
from dispatcher.services import Services, dispatcher_of

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
    store, broker = await asyncio.gather(_in_time(_ask_store(services)), _in_time(_ask_broker(services)))
    return Response(dispatcher.metrics.render(store, broker), media_type=CONTENT_TYPE)


async def _ask_store(services: Services) -> StoreGauges:
    demand, sighting, dead = await asyncio.gather(
        services.store.demand(), services.fleet.sighting(), services.store.letters.counts()
    )
    now = services.clock.now()
    names = [entry.name for entry in services.catalog]
    # Every model has its series, so that an empty queue is a 0 and not a gap.
    return StoreGauges(
        queued={**dict.fromkeys(names, 0), **{waiting.model: waiting.queued for waiting in demand}},
        oldest_wait_s={
            **dict.fromkeys(names, 0.0),
            **{waiting.model: waiting.oldest_wait_s(now) for waiting in demand},
        },
        workers_up={
            **{report.worker: False for report in sighting.lost},
            **dict.fromkeys(sighting.view.workers, True),
        },
        dead_letters=dead,
    )


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
