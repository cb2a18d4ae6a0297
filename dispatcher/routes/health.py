"""Is it alive, can it work."""

from fastapi import APIRouter, Request, Response

from affinity.wire import rfc3339
from dispatcher import readiness
from dispatcher.openapi import problems
from dispatcher.problems import ProblemResponse
from dispatcher.render import JsonResponse
from dispatcher.schemas import Health, Ready
from dispatcher.services import dispatcher_of

router = APIRouter(tags=["health"])


@router.get("/health", summary="The process serves", responses={200: {"model": Health}})
@router.get("/health/live", summary="The process serves", responses={200: {"model": Health}})
async def live(request: Request) -> Response:
    """Always healthy when it answers. It asks nobody: a broker that is away is no reason to restart this process."""
    now = dispatcher_of(request).services.clock.now()
    return JsonResponse({"status": "healthy", "timestamp": rfc3339(now)})


@router.get("/health/ready", summary="Jobs are taken", responses={200: {"model": Ready}, **problems(503)})
async def ready(request: Request) -> Response:
    """Asks broker and store. Not ready: a problem that says which is down; `errors` has each."""
    found = await readiness.ask(dispatcher_of(request).services)
    if found.problem is None:
        return JsonResponse({"status": "ready", "broker": "ok", "store": "ok", "warnings": found.warnings})
    down = {"broker": found.broker, "store": found.store}
    faults = [{"field": name, "message": error.message} for name, error in down.items() if error]
    return ProblemResponse.of(found.problem, errors=faults)
