"""Are the servers we stand on there? Really asked, each within a few seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from affinity.errors import BrokerUnavailable, Overloaded, StoreUnavailable
from dispatcher.services import Services

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 3.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Readiness:
    """``broker`` and ``store`` are what is wrong with each, or ``None``. ``warnings`` do not make it unready."""

    broker: Overloaded | None = None
    store: Overloaded | None = None
    warnings: tuple[str, ...] = ()

    @property
    def problem(self) -> Overloaded | None:
        """The first thing that is wrong."""
        return self.broker or self.store


async def ask(services: Services) -> Readiness:
    """Ask both servers."""
    broker, store = await asyncio.gather(
        _within(services.publisher.ping, BrokerUnavailable("RabbitMQ does not answer; is it overloaded?")),
        _within(services.check_store, StoreUnavailable("Redis does not answer; is it overloaded?")),
    )
    return Readiness(
        broker=broker if isinstance(broker, Overloaded) else None,
        store=store if isinstance(store, Overloaded) else None,
        warnings=() if isinstance(store, Overloaded) else tuple(store),
    )


async def _within(question: Callable[[], Awaitable[Answer]], otherwise: Overloaded) -> Answer | Overloaded:
    # Asked only here: the coroutine of a question that is cancelled before its turn would never be awaited.
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await question()
    except Overloaded as error:
        return error
    except TimeoutError:
        return otherwise


class Watch:
    """Logs when the servers go and when they come back, once each."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._said: Readiness | None = None

    async def look(self) -> None:
        """Ask, and log what is new."""
        now = await ask(self._services)
        said, self._said = self._said, now
        for server, problem in (("broker", now.broker), ("store", now.store)):
            before = getattr(said, server) if said else None
            if problem and not before:
                log.error(
                    "server.unavailable", server=server, reason=problem.message, retry="goes on trying; jobs get 503"
                )
            if before and not problem:
                log.info("server.available", server=server)
        for warning in now.warnings:
            if said is None or warning not in said.warnings:
                log.warning("store.unsafe", reason=warning)
