"""What every answer tells a browser: run nothing that is not ours, be shown in no frame, keep nothing."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

DOCS = frozenset({"/docs", "/redoc", "/docs/oauth2-redirect"})

_DOCS_FROM = "https://cdn.jsdelivr.net"
"""Where FastAPI's documentation pages have their script and style from. Nothing else of ours leaves this origin."""

_COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cache-control", b"no-store"),
]
_FENCE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

PAGE_POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; {_FENCE}"
"""Of the console and of every answer in JSON: only files of this origin, no script in a page, no eval."""

DOCS_POLICY = (
    f"default-src 'none'; script-src 'unsafe-inline' {_DOCS_FROM}; style-src 'unsafe-inline' {_DOCS_FROM}; "
    f"img-src data: https://fastapi.tiangolo.com; connect-src 'self'; worker-src blob:; {_FENCE}"
)


class SecureHeaders:
    """Plain ASGI: adds the headers that a route has not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._page = [*_COMMON, (b"content-security-policy", PAGE_POLICY.encode())]
        self._docs = [*_COMMON, (b"content-security-policy", DOCS_POLICY.encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ours = self._docs if scope["path"] in DOCS else self._page

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                theirs = message["headers"]
                set_already = {name for name, _ in theirs}
                message["headers"] = [*theirs, *(header for header in ours if header[0] not in set_already)]
            await send(message)

        await self._app(scope, receive, sending)
