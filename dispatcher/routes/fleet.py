"""The fleet and the catalogue, as they stand."""

import asyncio
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request, Response

from affinity.errors import BrokerUnavailable
from affinity.fleet import Demand, FleetView, Measurement, Residency, WorkerReport
from affinity.io.ports import Publisher
from affinity.orders import Pins
from affinity.topology import Topology, lane, model_in
from affinity.wire import rfc3339
from dispatcher.openapi import problems
from dispatcher.render import JsonResponse
from dispatcher.routes.orders import order_json, pin_json
from dispatcher.schemas import Models, Workers
from dispatcher.services import dispatcher_of
from models.catalog import ModelEntry

router = APIRouter(tags=["fleet"])

DEPTHS_AT_ONCE = 8
DEPTHS_WITHIN_S = 3.0


@router.get("/workers", summary="The workers", responses={200: {"model": Workers}, **problems(401, 503)})
async def workers(request: Request) -> Response:
    """Every live worker: its GPU's memory, what is resident there, how old its last report is."""
    services = dispatcher_of(request).services
    view = (await services.fleet.sighting()).view
    now = services.clock.now()
    return JsonResponse({"workers": [worker_json(view.workers[name], now, view.pins) for name in sorted(view.workers)]})


@router.get("/models", summary="The catalogue", responses={200: {"model": Models}, **problems(401, 503)})
async def models(request: Request) -> Response:
    """Every model: who holds it, what waits for it, what was measured of it."""
    services = dispatcher_of(request).services
    names = [entry.name for entry in services.catalog]
    sighting, learned, demand, depths = await asyncio.gather(
        services.fleet.sighting(),
        services.fleet.learned(),
        services.store.demand(),
        _depths(services.publisher, services.topology, names),
    )
    by_model = {waiting.model: waiting for waiting in demand}
    lanes = [lane(each.model, one.tenant) for each in demand for one in each.lanes if one.tenant]
    of_lanes = await _depths(services.publisher, services.topology, lanes) if lanes else {}
    now = services.clock.now()
    rows = [
        {
            **_entry_json(entry, sighting.view, learned),
            **_demand_json(by_model.get(entry.name), now),
            "depth": _in_all(entry.name, depths, of_lanes),
        }
        for entry in services.catalog
    ]
    return JsonResponse({"models": rows})


def worker_json(report: WorkerReport, now: float, pins: Pins) -> dict[str, object]:
    """One worker. ``now`` in epoch seconds; a clock ahead of ours gives an age of 0."""
    gpu = report.gpu
    return {
        "id": report.worker,
        "node": report.node,
        "lease_age_s": max(0.0, now - report.as_of),
        "as_of": rfc3339(report.as_of),
        "draining": report.draining,
        "busy": report.busy,
        "gpu": {
            "uuid": gpu.uuid,
            "index": gpu.index,
            "name": gpu.name,
            "total_bytes": gpu.total_bytes,
            "used_bytes": gpu.used_bytes,
            "free_bytes": gpu.free_bytes,
            "foreign_bytes": gpu.foreign_bytes,
            "utilization": gpu.utilization,
        },
        "residents": [
            # A pin counts from the moment it was asked for, though the worker reports it a moment later.
            _resident_json(resident, resident.pinned or pins.cover(resident.model, report.worker))
            for resident in report.residents
        ],
        "cached": sorted(report.cached),
        "metrics_url": report.metrics_url,
    }


def _resident_json(resident: Residency, pinned: bool) -> dict[str, object]:
    return {
        "model": resident.model,
        "bytes": resident.footprint_bytes,
        "state": str(resident.state),
        "running": resident.running,
        "pinned": pinned,
        "loaded_at": rfc3339(resident.loaded_at),
        "last_used_at": rfc3339(resident.last_used_at),
    }


def _entry_json(
    entry: ModelEntry, view: FleetView, learned: Mapping[tuple[str, str], Measurement]
) -> dict[str, object]:
    pinned = pin_json(entry, view.pins)
    return {
        "name": pinned.pop("model"),
        **pinned,
        "runtime": entry.runtime,
        "max_batch": entry.max_batch,
        "timeout_s": entry.timeout_s,
        "orders": [order_json(order) for order in view.orders if order.model == entry.name],
        "declared_bytes": entry.vram_bytes,
        "holders": [holder.worker for holder in view.holders(entry.name)],
        "measured": [
            {"gpu": gpu, "footprint_bytes": m.footprint_bytes, "load_s": m.load_s, "exec_s": m.exec_s}
            for (model, gpu), m in sorted(learned.items())
            if model == entry.name
        ],
    }


def _demand_json(demand: Demand | None, now: float) -> dict[str, object]:
    if demand is None:
        return {"queued": 0, "oldest_wait_s": None}
    return {"queued": demand.queued, "oldest_wait_s": demand.oldest_wait_s(now)}


def _in_all(model: str, depths: Mapping[str, int | None], of_lanes: Mapping[str, int | None]) -> int | None:
    """Messages in a model's queue and its tenants' lanes; ``None`` where there is none of these, or nobody said."""
    found = [depths.get(model), *(depth for name, depth in of_lanes.items() if model_in(name) == model)]
    known = [depth for depth in found if depth is not None]
    return sum(known) if known else None


async def _depths(publisher: Publisher, topology: Topology, models: Sequence[str]) -> Mapping[str, int | None]:
    """Depth of each model's queue; without those the broker could not say in time."""
    slots = asyncio.Semaphore(DEPTHS_AT_ONCE)
    found: dict[str, int | None] = {}

    async def one(model: str) -> None:
        async with slots:
            found[model] = await publisher.depth(topology.model_queue(model))

    try:
        async with asyncio.timeout(DEPTHS_WITHIN_S), asyncio.TaskGroup() as tasks:
            for model in models:
                tasks.create_task(one(model))
    except* (BrokerUnavailable, TimeoutError):
        pass  # the catalogue and the store still have their say
    return found
