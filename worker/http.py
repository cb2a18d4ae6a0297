"""Serves a worker process's metrics and health: three GET routes, on the worker's own event loop.

On the same loop on purpose: if that is stuck, ``/health/live`` does not answer, and who restarts workers learns of it.
Where the loop turns and a worker still does not get on, it answers 503.
"""

import asyncio
import errno
import json
import socket
from collections.abc import Callable
from contextlib import suppress

from worker.metrics import CONTENT_TYPE, WorkerMetrics

REQUEST_TIMEOUT_S = 5.0
MAX_HEAD_BYTES = 16 * 1024

_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"
}  # fmt: skip

Health = Callable[[], tuple[bool, dict[str, object]]]
"""Whether the process is ready to serve jobs, and what to show with that."""

Stuck = Callable[[], dict[str, str]]
"""The workers that do not get on any more, and why."""


class CannotListen(OSError):
    """The address cannot be had; the message names the settings to change."""


_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


class MetricsServer:
    """``/metrics``, ``/health/live`` (503 where one is ``stuck``) and ``/health/ready`` (``health`` says so; else 503).

    ``port`` 0 takes any free one. Between ``start`` and ``stop``, ``url`` says where it listens.
    """

    def __init__(self, metrics: WorkerMetrics, host: str, port: int, health: Health, stuck: Stuck = dict) -> None:
        self._metrics = metrics
        self._host = host
        self._port = port
        self._health = health
        self._stuck = stuck
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where others find it, as ``http://host:port``; with the port asked for while it does not listen."""
        port = self._server.sockets[0].getsockname()[1] if self._server else self._port
        host = socket.gethostname() if self._host in _EVERYWHERE else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Listen. Raises ``CannotListen``."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            where = f"WORKER_METRICS_HOST={self._host}, WORKER_METRICS_PORT={self._port}"
            if error.errno == errno.EADDRINUSE:
                raise CannotListen(f"{where}: the port is taken; choose another, or 0 for any free one") from error
            raise CannotListen(f"{where}: cannot listen there: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on one connection: a scraper asks once in many seconds."""
        # A client may hang up, dawdle or send nonsense: none of that is worth a traceback in the log.
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(head))
                    await writer.drain()
        finally:
            writer.close()

    def _response(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _json(400, {"error": "not an HTTP/1 request"})
        method, path = words[0], words[1].partition("?")[0]
        if method not in {"GET", "HEAD"}:
            return _json(405, {"error": "only GET and HEAD"}, "Allow: GET, HEAD\r\n")
        response = self._answer(path)
        return response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else response

    def _answer(self, path: str) -> bytes:
        match path:
            case "/metrics":
                return _message(200, CONTENT_TYPE, self._metrics.exposition())
            case "/health/live":
                stuck = self._stuck()
                return _json(503, {"status": "stuck", "workers": stuck}) if stuck else _json(200, {"status": "alive"})
            case "/health/ready":
                ready, shown = self._health()
                return _json(200 if ready else 503, {"status": "ready" if ready else "not ready", **shown})
        return _json(404, {"error": "there are /metrics, /health/live and /health/ready"})


def _json(status: int, shown: dict[str, object], headers: str = "") -> bytes:
    return _message(status, "application/json", json.dumps(shown).encode(), headers)


def _message(status: int, content_type: str, body: bytes, headers: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{headers}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
