"""Keys. Where any are set, every route but health and metrics needs one, before the body is read."""

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from affinity.errors import Unauthorized
from dispatcher.problems import ProblemResponse
from dispatcher.settings import key_hash

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})


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
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
        offered = key_hash(key)
        # All are compared, and each in constant time: how long it takes says nothing about the keys.
        return sum(hmac.compare_digest(offered, known) for known in self._hashes) > 0
