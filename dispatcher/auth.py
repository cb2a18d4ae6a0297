"""Keys. Where any are set, every route but health and metrics needs one, before the body is read."""

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from affinity.errors import Unauthorized
from dispatcher.problems import ProblemResponse
from dispatcher.settings import key_hash

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})

FINGERPRINT = 8
"""So many hexadecimal digits tell the keys of one installation apart, and say nothing of a key worth its name."""


class KeyGate:
    """Answers 401 to requests without a key whose SHA-256 is one of ``hashes``. Only hashes are kept."""

    def __init__(self, app: ASGIApp, hashes: Sequence[bytes]) -> None:
        self._app = app
        self._hashes = tuple(hashes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._known(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        refusal = Unauthorized(
            "send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; AFFINITY_API_KEYS has them"
        )
        await ProblemResponse.of(refusal)(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        offered = key_hash(_key_in(headers))
        # All are compared, and each in constant time: how long it takes says nothing about the keys.
        return sum(hmac.compare_digest(offered, known) for known in self._hashes) > 0


def caller_of(request: Request) -> str:
    """Who asks, for the events: the head of the hash of the key that was shown, else the address."""
    if key := _key_in(request.headers):
        return f"key {key_hash(key).hex()[:FINGERPRINT]}"
    return request.client.host if request.client else "unknown"


def _key_in(headers: Headers) -> str:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
