"""One Redis server behind our limits: pool, timeouts, scripts, and the one place where its errors become ours.

A single primary is expected: that of a URL, or the one that Sentinels name (a failover shows as ``StoreUnavailable``
until it is over). Redis Cluster does not work: scripts derive keys from stored fields.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any, cast

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from affinity.errors import AffinityError, InvariantBroken, StoreUnavailable
from affinity.io.redis_line import NoReplicas, closed_is_lost
from affinity.io.redis_sentinel import following
from affinity.io.redis_subscription import heard_on
from affinity.io.redis_wire import RedisWire
from affinity.io.server_urls import names_sentinels

Script = Callable[[Sequence[str], Sequence[str]], Awaitable[Any]]
"""A registered Lua script: ``await script(keys, args)``; replies are text, whole numbers and lists of them."""

BUG = "INVARIANT"
"""How a script of ours marks a reply that only a bug can cause."""

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses of whoever follows a subscription or a stream and has lost the server; the last one repeats."""

TRANSLATED = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    exceptions.ChildDeadlockedError,
    exceptions.IncorrectPolicyType,
    OSError,
)
"""Every root of what the client raises; ``OSError`` covers sockets and ``TimeoutError``."""

_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AuthenticationError, "check the user and password in REDIS_URL"),
    (exceptions.NoPermissionError, "give the user of REDIS_URL all commands and the keys of this namespace"),
    (exceptions.OutOfMemoryError, "raise its maxmemory (and keep maxmemory-policy at noeviction)"),
    (NoReplicas, "start its replicas, or lower its min-replicas-to-write"),
    (exceptions.ReadOnlyError, "it is a replica: point REDIS_URL to the primary"),
    (exceptions.BusyLoadingError, "it is still loading its data: wait"),
    (exceptions.MaxConnectionsError, "raise its maxclients or run fewer processes"),
)


SILENCE_S = 10.0
"""A subscription that hears nothing for this long asks whether anybody is there, and gives up after as long again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call may take, in seconds. ``deadline_s`` bounds it whatever the retries add up to."""

    connect_s: float
    answer_s: float
    deadline_s: float
    retries: int


REQUESTS = Patience(connect_s=1.0, answer_s=3.0, deadline_s=5.0, retries=2)
"""For everything a caller waits for."""

HEARTBEAT = Patience(connect_s=0.5, answer_s=1.0, deadline_s=2.0, retries=1)
"""For the client that renews leases: a black-holed server must not hold a heartbeat past its lease."""


class RedisLink:
    """A pool of connections to one server, or to whichever server is the primary. Makes none before its first call;
    close it at the end.
    """

    def __init__(self, url: str, patience: Patience = REQUESTS, connections: int = 32) -> None:
        """``url`` as ``redis://``, ``rediss://``, ``unix://``, or with ``+sentinel``; else ``ValueError``."""
        self._patience = patience
        said, self.address = following(url, patience.connect_s) if names_sentinels(url) else _told_by(url)
        options: dict[str, Any] = dict(
            max_connections=connections,
            # Shorter than the deadline: a call that got a connection in the very instant it is cancelled would lose the
            # cancellation (asyncio.wait_for before Python 3.12) and run for its timeouts once more.
            timeout=patience.answer_s,
            socket_connect_timeout=patience.connect_s,
            socket_timeout=patience.answer_s,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), patience.retries),
            # Without these a connection to a demoted primary would answer READONLY for ever.
            retry_on_error=[exceptions.ReadOnlyError, exceptions.BusyLoadingError],
            decode_responses=True,
            # A lone surrogate in somebody's error message must not make its job impossible to store.
            encoding_errors="replace",
            protocol=2,
            # A Unix socket knows none, and its connection refuses the option.
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        )
        pool = BlockingConnectionPool(**{**options, **said})
        self._client = Redis.from_pool(pool)
        # The wire has time-outs and retries of its own.
        bare = {**pool.connection_kwargs, "socket_timeout": None, "retry": Retry(ExponentialBackoff(), 0)}
        self._connection = partial(cast(Callable[..., AbstractConnection], pool.connection_class), **bare)
        self._wire = RedisWire(
            self._connection,
            connect_s=patience.connect_s,
            answer_s=patience.answer_s,
            deadline_s=patience.deadline_s,
            retries=patience.retries,
        )

    @asynccontextmanager
    async def guard(self, deadline: bool = True) -> AsyncIterator[Redis]:
        """The client: its calls end in time or raise ``StoreUnavailable``. ``deadline`` false for subscriptions."""
        try:
            with closed_is_lost():
                async with asyncio.timeout(self._patience.deadline_s if deadline else None):
                    yield self._client
        except TRANSLATED as error:
            raise translate(error, self.address) from error

    def script(self, *parts: str) -> Script:
        """The Lua script made of these texts, in order."""
        text = "\n".join(parts)
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

        async def run(keys: Sequence[str], args: Sequence[str]) -> Any:
            try:
                return await self.call("EVALSHA", digest, len(keys), *keys, *args)
            except exceptions.NoScriptError:
                return await self.call("EVAL", text, len(keys), *keys, *args)

        return run

    async def call(self, *command: str | int) -> Any:
        """One idempotent command on the shared connection: for what every job needs. ``StoreUnavailable`` as ever."""
        try:
            return await self._wire.call(*command)
        except exceptions.NoScriptError:
            raise
        except TRANSLATED as error:
            raise translate(error, self.address) from error

    async def messages(self, channel: str, silence_s: float) -> AsyncIterator[str | None]:
        """What is published on a channel, for ever, over a connection of its own.

        ``None`` whenever the subscription has begun, at first and after each reconnect: what was said before is lost.
        A connection silent for ``silence_s`` is asked whether it is there, and given up after as long again.
        """
        failures = 0
        while True:
            heard = heard_on(self._connection(), channel, self._patience.connect_s, silence_s)
            try:
                with closed_is_lost():
                    async for message in heard:
                        failures = 0
                        yield message
            except TRANSLATED:
                failures += 1
            finally:
                await heard.aclose()
            await asyncio.sleep(backoff_s(failures - 1))

    async def close(self) -> None:
        """Close all connections."""
        await self._wire.close()
        async with self.guard():
            await self._client.aclose()


def _told_by(url: str) -> tuple[dict[str, Any], str]:
    """What a URL says of its connections, and what to call the server in messages."""
    where: dict[str, Any] = dict(parse_url(url))
    return where, str(where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}")


def backoff_s(failures: int) -> float:
    """How long to wait after that many failures before. Spread out: a whole fleet loses the server at one instant."""
    return BACKOFF_S[min(failures, len(BACKOFF_S) - 1)] * random.uniform(0.5, 1.0)


def lua(name: str) -> str:
    """The text of one of our scripts."""
    return resources.files("affinity.io").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def translate(error: Exception, address: str) -> AffinityError:
    """What an error of the client means to us. The message names the server, never the password."""
    if isinstance(error, exceptions.ResponseError) and BUG in str(error):
        return InvariantBroken(f"Redis at {address} holds what it should not: {error}")
    advice = next((text for kind, text in _ADVICE if isinstance(error, kind)), None)
    advice = advice or "check that it runs and that REDIS_URL names it"
    reason = str(error) or "no answer in time"
    return StoreUnavailable(f"Redis at {address} failed: {type(error).__name__}: {reason}; {advice}")


async def check_store(link: RedisLink) -> list[str]:
    """Ask the server something; warnings about settings that lose jobs. ``StoreUnavailable`` if it does not answer."""
    async with link.guard() as client:
        await client.ping()
        facts = {**await client.info("persistence"), **await client.info("memory")}
    warnings = []
    if not facts.get("aof_enabled"):
        warnings.append(f"Redis at {link.address} has appendonly off: a crash loses job records; set appendonly yes")
    if (policy := facts.get("maxmemory_policy")) != "noeviction":
        warnings.append(
            f"Redis at {link.address} has maxmemory-policy {policy}: it may evict job records; set noeviction"
        )
    return warnings
