"""The operator's hand: models are loaded, unloaded and pinned, and workers drained, because
somebody wants them to be."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from affinity.errors import InvalidInput
from affinity.orders import Order, Pins
from affinity.policy import Decision
from affinity.wire import rfc3339
from dispatcher.auth import caller_of
from dispatcher.bodies import read_object, refuse_unknown
from dispatcher.by_hand import Asked, ByHand
from dispatcher.explain import decision_json
from dispatcher.openapi import body, problems
from dispatcher.render import JsonResponse
from dispatcher.schemas import AskedView, OrderRequest, OrderView, PinView
from dispatcher.schemas_drain import DrainRequest, DrainView
from dispatcher.services import dispatcher_of
from models.entry import ModelEntry

router = APIRouter(tags=["by hand"])

_REFUSALS = problems(400, 401, 404, 409, 413, 415, 422, 503)
_BODY = body(OrderRequest, required=False)
_NO_BODY = body(DrainRequest, required=False)
_ORDERED: dict[int | str, dict[str, Any]] = {
    200: {"model": AskedView, "description": "Nothing to do: it is so already"},
    202: {"model": AskedView, "description": "Will be carried out; `GET /orders/{order_id}` says how far it is"},
    **_REFUSALS,
}
_PINNED: dict[int | str, dict[str, Any]] = {200: {"model": PinView}, **_REFUSALS}
_DRAINED: dict[int | str, dict[str, Any]] = {200: {"model": DrainView}, **problems(400, 401, 404, 413, 415, 422, 503)}


# A model's name may have slashes in it: the last word of the path is the verb, all before it the name.
@router.post("/models/{name:path}/load", summary="Load a model", responses=_ORDERED, openapi_extra=_BODY)
async def load(request: Request, name: str) -> Response:
    """Have a model resident on a worker, or on whichever can have it at least cost, evicting others if need be."""
    return _asked(await _hand(request).load(name, await _worker(request), caller_of(request)))


@router.post("/models/{name:path}/unload", summary="Unload a model", responses=_ORDERED, openapi_extra=_BODY)
async def unload(request: Request, name: str) -> Response:
    """Have a model leave a worker, or all that hold it, once none of its jobs runs there."""
    return _asked(await _hand(request).unload(name, await _worker(request), caller_of(request)))


@router.post("/models/{name:path}/pin", summary="Pin a model", responses=_PINNED, openapi_extra=_BODY)
async def pin(request: Request, name: str) -> Response:
    """Never evict a model from a worker, or from any, once it is resident there. Does not load it."""
    pins = await _hand(request).pin(name, await _worker(request), caller_of(request))
    return JsonResponse(pin_json(dispatcher_of(request).services.catalog.get(name), pins))


@router.post("/models/{name:path}/unpin", summary="Unpin a model", responses=_PINNED, openapi_extra=_BODY)
async def unpin(request: Request, name: str) -> Response:
    """Take a pin back: that of one worker, or all that were set by hand. The catalogue's stay."""
    pins = await _hand(request).unpin(name, await _worker(request), caller_of(request))
    return JsonResponse(pin_json(dispatcher_of(request).services.catalog.get(name), pins))


@router.post("/workers/{worker_id}/drain", summary="Drain a worker", responses=_DRAINED, openapi_extra=_NO_BODY)
async def drain(request: Request, worker_id: str) -> Response:
    """Have a worker take no more work, also after a restart: it ends what runs, lets others have its models, and leaves
    its GPU empty. `GET /workers` says how far it is."""
    await _no_fields(request)
    detail = await _hand(request).drain(worker_id, caller_of(request))
    return JsonResponse({"worker": worker_id, "drain": True, "detail": detail})


@router.post("/workers/{worker_id}/undrain", summary="Undrain a worker", responses=_DRAINED, openapi_extra=_NO_BODY)
async def undrain(request: Request, worker_id: str) -> Response:
    """Have a drained worker take work again."""
    await _no_fields(request)
    detail = await _hand(request).undrain(worker_id, caller_of(request))
    return JsonResponse({"worker": worker_id, "drain": False, "detail": detail})


@router.get(
    "/orders/{order_id}",
    summary="An order",
    responses={200: {"model": OrderView}, **problems(401, 404, 503)},
)
async def order(request: Request, order_id: str) -> Response:
    """How far an order to load or unload is: what the plan does for it, or how it ended."""
    return JsonResponse(order_json(*await _hand(request).order(order_id)))


def order_json(order: Order, outlook: Decision | None = None) -> dict[str, object]:
    """One order. ``outlook``: what the plan does for it."""
    return {
        "id": order.id,
        "action": str(order.action),
        "model": order.model,
        "worker": order.worker,
        "state": str(order.state),
        "asked_at": rfc3339(order.asked_at),
        "asked_by": order.by,
        "expires_at": rfc3339(order.expires_at),
        "ended_at": None if order.ended_at is None else rfc3339(order.ended_at),
        "reason": order.reason or None,
        "outlook": outlook and decision_json(outlook),
    }


def pin_json(entry: ModelEntry, pins: Pins) -> dict[str, object]:
    """Where a model is pinned, and by whom."""
    everywhere = pins.everywhere(entry.name)
    return {
        "model": entry.name,
        "pinned": entry.pinned or everywhere,
        "pinned_by": "catalogue" if entry.pinned else "hand" if everywhere else None,
        "pinned_on": list(pins.workers(entry.name)),
    }


def _hand(request: Request) -> ByHand:
    services = dispatcher_of(request).services
    return ByHand(services.fleet, services.catalog, services.clock)


def _asked(asked: Asked) -> Response:
    orders = [order_json(order, outlook) for order, outlook in asked.orders]
    headers = {"Location": f"/orders/{orders[0]['id']}"} if len(orders) == 1 else None
    return JsonResponse({"detail": asked.detail, "orders": orders}, 202 if orders else 200, headers)


async def _worker(request: Request) -> str | None:
    """The worker in the body; none without one, or without a body."""
    worker = (await _fields(request, frozenset({"worker"}))).get("worker")
    if worker is not None and (not isinstance(worker, str) or not worker):
        raise InvalidInput("must be the id of a worker; leave it out for any", "worker")
    return worker


async def _no_fields(request: Request) -> None:
    """Refuse a body that says anything."""
    await _fields(request, frozenset())


async def _fields(request: Request, allowed: frozenset[str]) -> Mapping[str, object]:
    """The body; nothing without one.

    A browser must say that it sends JSON even then: any web page could have it send a POST without a body.
    """
    if "origin" not in request.headers and not await request.body():
        return {}
    fields = await read_object(request)
    refuse_unknown(fields, allowed)
    return fields
