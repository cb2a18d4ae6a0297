"""The primary of a Redis that fails over: asked of the Sentinels whenever a connection is opened.

Nothing about the primary is remembered. A connection that is lost, or answers that its server is a replica by now, is
opened anew by whoever uses it, and with that the question is asked again.
"""

import asyncio
from typing import Any

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from affinity.io.server_urls import SentinelUrl, sentinel_url


class Sentinels:
    """Those of one URL. No question takes longer than ``timeout_s``."""

    def __init__(self, url: SentinelUrl, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        tls = {name: value for name, value in parse_url(url.server_url).items() if name.startswith("ssl_")}
        self._asking: dict[str, Any] = {
            **({"ssl": True, **tls} if url.server_url.startswith("rediss:") else {}),
            "username": url.username or None,
            "password": url.password or None,
            "socket_connect_timeout": timeout_s,
            "socket_timeout": timeout_s,
            "protocol": 2,
            # Another Sentinel is asked at the same time: that is the second try.
            "retry": Retry(NoBackoff(), 0),
        }

    @property
    def names(self) -> str:
        """Hosts and ports, for messages."""
        return ", ".join(f"{host}:{port}" for host, port in self._url.hosts)

    async def primary(self) -> tuple[str, int]:
        """Host and port, of whichever Sentinel answers first. The client's ``ConnectionError`` where none knows it."""
        asking = [asyncio.ensure_future(self._ask(host, port)) for host, port in self._url.hosts]
        said: list[str] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                for answer in asyncio.as_completed(asking):
                    try:
                        return await answer
                    except (exceptions.RedisError, OSError) as error:
                        said.append(str(error) or type(error).__name__)
        except TimeoutError:
            said.append("no answer in time")
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        raise exceptions.ConnectionError(f"no Sentinel of {self.names} names a primary: {'; '.join(said)}")

    async def _ask(self, host: str, port: int) -> tuple[str, int]:
        # A connection of its own for each question: one that is kept is dead when it is needed, after hours.
        asked = Sentinel([(host, port)], sentinel_kwargs=self._asking)  # type: ignore[no-untyped-call]
        try:
            address, primary_port = await asked.discover_master(self._url.service)
            return str(address), int(primary_port)
        finally:
            await asked.sentinels[0].aclose()


class FollowingConnection(Connection):
    """Leads to whoever is the primary when it is opened."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**options)

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.primary()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Shake hands, and make sure that it is a primary: a Sentinel that was away names the old one for a while."""
        await super().on_connect_check_health(check_health)
        await self.send_command("INFO", "replication", check_health=False)
        if "role:master" not in str(await self.read_response()):
            raise exceptions.ConnectionError(f"{self.host}:{self.port} is a replica by now")


class FollowingTlsConnection(FollowingConnection, SSLConnection):
    """The same with TLS; the certificate must be for the host that the Sentinels name."""


def following(url: str, timeout_s: float) -> tuple[dict[str, Any], str]:
    """What connections to the primary are made with, and what to call it in messages. ``ValueError`` as ever."""
    parts = sentinel_url(url)
    sentinels = Sentinels(parts, timeout_s)
    options: dict[str, Any] = dict(parse_url(parts.server_url))
    tls = options.pop("connection_class", None) is SSLConnection
    options |= {"sentinels": sentinels, "connection_class": FollowingTlsConnection if tls else FollowingConnection}
    return options, f"{parts.service} (Sentinels {sentinels.names})"
