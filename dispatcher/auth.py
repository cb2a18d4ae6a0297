"""Who asks, and may they. Where keys are set, every route but health, metrics and the console's files needs one, before
the body is read.
"""

from typing import cast

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from affinity.errors import AffinityError, QueueFull, Unauthorized
from affinity.io.ports import Clock
from dispatcher.keys import ANYBODY, Caller, KeyRing, Role
from dispatcher.problems import Forbidden, ProblemResponse

OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/health/ready", "/metrics"})

OPEN_BELOW = "/console/"
"""The console page is the same for everybody; what it shows comes by other routes, with the key of who looks."""

TENANT_PATHS = frozenset({"/jobs", "/jobs/batch", "/produce", "/batch-produce"})
"""Where tenants may do whatever a route does; and below ``/jobs/``, where each sees its own jobs only."""

TENANT_READS = frozenset({"/models", "/workers", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""What tenants may only look at. All that is in neither list is for operators: a new route is closed until listed."""

_CALLER = "affinity.caller"


class KeyGate:
    """Answers 401 without a key of the ring, 403 where its role may not, and 429 above its rate."""

    def __init__(self, app: ASGIApp, ring: KeyRing, clock: Clock) -> None:
        self._app = app
        self._ring = ring
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        caller = self._ring.find(_key_in(Headers(scope=scope)))
        refusal = self._refusal(caller, scope)
        if refusal is not None:
            await ProblemResponse.of(refusal)(scope, receive, send)
            return
        scope[_CALLER] = caller
        await self._app(scope, receive, send)

    def _refusal(self, caller: Caller | None, scope: Scope) -> AffinityError | None:
        if caller is None:
            return Unauthorized("send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; your operator gives it")
        if caller.role is not Role.OPERATOR and not tenant_may(scope["method"], scope["path"]):
            return Forbidden("this is for operators; a tenant's key is for its own jobs, /models and /workers")
        if wait_s := self._ring.wait_s(caller, self._clock.monotonic()):
            return QueueFull(f"tenant {caller.tenant} asks more often than it may: wait, or send batches", wait_s)
        return None


def is_open(path: str) -> bool:
    """Whether it needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_BELOW)


def tenant_may(method: str, path: str) -> bool:
    """Whether a tenant's key opens this at all."""
    return path in TENANT_PATHS or path.startswith("/jobs/") or (method in ("GET", "HEAD") and path in TENANT_READS)


def caller_in(request: Request) -> Caller:
    """Who asks; anybody, with every right, where no keys are set."""
    return cast(Caller, request.scope.get(_CALLER, ANYBODY))


def still_opens(ring: KeyRing, request: Request) -> bool:
    """Whether the key of a request that goes on and on is still one, and the same caller's."""
    return not ring.asked_for or ring.find(_key_in(request.headers)) == caller_in(request)


def caller_of(request: Request) -> str:
    """Who asks, for the events: name and head of the hash of the key that was shown, else the address."""
    caller = caller_in(request)
    if caller.fingerprint:
        return f"{caller.name} key {caller.fingerprint}".strip()
    return request.client.host if request.client else "unknown"


def _key_in(headers: Headers) -> str:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
