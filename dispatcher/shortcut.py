"""The one route that has to be quick, answered before the framework looks at it.

FastAPI's stack takes a twentieth of a quick job's whole time to find out that there is nothing to inject, close or
translate. Its own route for the same endpoint stays, for the documentation and for every other method.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from affinity.errors import AffinityError
from dispatcher import problems

Endpoint = Callable[[Request], Awaitable[Response]]


class Shortcut:
    """Plain ASGI: answers ``POST path`` by ``endpoint`` and leaves everything else to ``app``."""

    def __init__(self, app: ASGIApp, path: str, endpoint: Endpoint) -> None:
        self.path = path
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self  # As routes of the framework do: requests are timed under their path.
        request = Request(scope, receive, send)
        try:
            response = await self._endpoint(request)
        except AffinityError as error:
            response = await problems.ours(request, error)
        except ClientDisconnect as error:
            response = await problems.gone(request, error)
        await response(scope, receive, send)
