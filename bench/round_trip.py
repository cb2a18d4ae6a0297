"""The two round trips that ``overhead`` compares, each as small as it can be made.

``BareRoundTrip`` is the only place outside ``affinity.io`` that speaks to RabbitMQ: it has to measure what the client
library and the broker cost without anything of ours.
"""

import asyncio
import json
import secrets
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import aio_pika

QUEUE_EXPIRES_MS = 600_000
"""A benchmark that was killed leaves its queue behind: the broker removes it after this."""

CONNECT_TIMEOUT_S = 10.0
STEP_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 75.0


class CannotMeasure(Exception):
    """The message says what is missing or did not behave as it must for the numbers to mean anything."""


class BareRoundTrip:
    """Publish with confirm and consume on a quorum queue of its own: one connection, a channel for each direction.

    Persistent, mandatory, by the default exchange, prefetch 1: what Affinity's own publishes and consumers ask for.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._queue = f"affinity-bench-{secrets.token_hex(6)}"
        self._arrived: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()

    async def open(self, url: str) -> None:
        """Connect, declare, consume. Raises ``CannotMeasure``."""
        try:
            self._connection = await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError, aio_pika.exceptions.AMQPError) as error:
            raise CannotMeasure(f"no RabbitMQ answers at RABBITMQ_URL: {error or type(error).__name__}") from error
        self._publishing = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._consuming = await self._connection.channel(publisher_confirms=False)
        await self._consuming.set_qos(prefetch_count=1)
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-expires": QUEUE_EXPIRES_MS}
        self._source = await self._consuming.declare_queue(self._queue, durable=True, arguments=arguments)
        self._tag = await self._source.consume(self._arrived.put)

    async def times_s(self, count: int) -> list[float]:
        """Seconds of ``count`` round trips, one after the other: publish to confirm and delivery, the later one."""
        times = []
        async with asyncio.timeout(STEP_TIMEOUT_S + count):
            for _ in range(count):
                message = aio_pika.Message(self._body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                began_s = time.perf_counter()
                await self._publishing.default_exchange.publish(message, self._queue, mandatory=True)
                delivered = await self._arrived.get()
                times.append(time.perf_counter() - began_s)
                await delivered.ack()
        return times

    async def close(self) -> None:
        """Remove the queue, disconnect."""
        await self._source.cancel(self._tag)
        # The default asks for a conditional delete, which closes the connection on a quorum queue.
        await self._source.delete(if_unused=False, if_empty=False)
        await self._connection.close()


class WarmJob:
    """``POST /jobs`` with ``Prefer: wait`` on one kept connection, without delayed sends.

    Over a plain socket, with the request's bytes made beforehand: the standard library's client alone takes 0.2 ms of
    every round trip, which is not the dispatcher's.
    """

    def __init__(self, url: str, body: bytes, api_key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise CannotMeasure(f"--url {url}: must be http://HOST:PORT")
        self._address = (parts.hostname, parts.port or 80)
        head = [
            "POST /jobs HTTP/1.1",
            f"Host: {parts.hostname}:{self._address[1]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Prefer: wait=60",
            *([f"Authorization: Bearer {api_key}"] if api_key else []),
        ]
        self._request = "\r\n".join([*head, "", ""]).encode() + body
        self._socket: socket.socket | None = None

    def warm_up(self, count: int) -> None:
        """Have the model loaded and every lazy thing done once. Raises ``CannotMeasure``."""
        for _ in range(count):
            self._one()

    def times_s(self, count: int) -> list[float]:
        """Seconds of ``count`` warm jobs, one after the other. Raises ``CannotMeasure`` if one was not warm."""
        # The server closes connections that were idle for some seconds, as ours is while the broker is measured.
        self.close()
        self._one()
        times = []
        for _ in range(count):
            began_s = time.perf_counter()
            job = self._one()
            times.append(time.perf_counter() - began_s)
            if job.get("start") != "warm":
                raise CannotMeasure(f"job {job.get('id')} started {job.get('start')}: something else uses this system")
        return times

    def close(self) -> None:
        """Disconnect."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _one(self) -> dict[str, Any]:
        try:
            status, body = self._exchange()
        except OSError as error:
            raise CannotMeasure(f"no dispatcher answers at {self._address}: {error or type(error).__name__}") from error
        if status != 200:
            raise CannotMeasure(f"an echo job was answered {status}: {body[:500]!r}")
        job: dict[str, Any] = json.loads(body)
        if job["state"] != "succeeded":
            raise CannotMeasure(f"an echo job is {job['state']}: {job['error']}")
        return job

    def _exchange(self) -> tuple[int, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=ANSWER_TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self._request)
        received = b""
        while True:
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError("it closed the connection in the middle of an answer")
            received += piece
            head, end, body = received.partition(b"\r\n\r\n")
            if end and len(body) >= _content_length(head):
                return int(head[9:12]), body


def _content_length(head: bytes) -> int:
    """Of an answer's head. The dispatcher gives one with every answer."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise CannotMeasure("what answers is no dispatcher: its answer has no length")
