"""Deliveries in hand that no batch has started yet, and the consumers that bring them."""

from collections import deque
from collections.abc import Callable, Collection, Iterable

import structlog

from affinity.errors import BrokerUnavailable
from affinity.io.ports import Arrival, Delivery
from worker.events import Arrived, WorkerEvent
from worker.services import Services

log = structlog.get_logger(__name__)


class Intray:
    """At most one unstarted delivery per resident. Where the broker is away, wishes are kept and applied later."""

    def __init__(self, services: Services, post: Callable[[WorkerEvent], None]) -> None:
        self._services = services
        self._post = post
        self._armed: set[str] = set()
        self._in_hand: dict[str, deque[Delivery]] = {}

    @property
    def armed(self) -> bool:
        """True while any consumer runs."""
        return bool(self._armed)

    @property
    def holding(self) -> bool:
        """True while any consumer runs or any delivery is in hand."""
        return bool(self._armed or self._in_hand)

    @property
    def unstarted(self) -> int:
        """Deliveries in hand."""
        return sum(map(len, self._in_hand.values()))

    def expects(self, model: str) -> bool:
        """True while a consumer runs on that model's queue."""
        return model in self._armed

    def unheard(self, models: Iterable[str]) -> list[str]:
        """Those of these whose jobs no consumer brings."""
        return [model for model in models if model not in self._armed]

    def put(self, model: str, delivery: Delivery) -> None:
        """Keep a delivery that a consumer brought."""
        self._in_hand.setdefault(model, deque()).append(delivery)

    def first(self, but: Collection[str] = ()) -> str | None:
        """The model whose delivery has been in hand longest, but none of these."""
        return next((model for model in self._in_hand if model not in but), None)

    def pop(self, model: str, most: int) -> list[Delivery]:
        """Up to ``most`` deliveries in hand."""
        held = self._in_hand.pop(model, deque())
        taken = [held.popleft() for _ in range(min(most, len(held)))]
        if held:
            self._in_hand[model] = held
        return taken

    async def gather(self, model: str, most: int) -> list[Delivery]:
        """Up to ``most``: those in hand, then from the backlog."""
        taken = self.pop(model, most)
        if len(taken) < most:
            try:
                taken.extend(await self._services.intake.take(model, most - len(taken)))
            except BrokerUnavailable as error:
                if not taken:
                    raise
                log.warning("backlog.unasked", model=model, error=error.message)
        return taken

    async def arm(self, models: Iterable[str]) -> None:
        """Run a consumer on each of these."""
        for model in models:
            if model in self._armed:
                continue
            self._armed.add(model)
            try:
                await self._services.intake.arm(model, 1, self._arrival(model))
            except BrokerUnavailable as error:
                log.warning("arm.later", model=model, error=error.message)

    async def disarm(self) -> None:
        """Stop all consumers and hand back what they brought."""
        for model in sorted(self._armed | self._in_hand.keys()):
            await self.retire(model)

    async def hand_back(self, model: str) -> None:
        """Give what is in hand for a model to whoever else has it."""
        if held := self._in_hand.pop(model, deque()):
            self._services.metrics.handed_back(self._services.identity.worker, len(held))
        for delivery in held:
            await delivery.requeue()

    def dropped(self, model: str) -> None:
        """Its consumer is about to be stopped: what it still brings is not for us."""
        self._armed.discard(model)

    async def retire(self, model: str) -> None:
        """Stop its consumer, then hand back what it brought: the other way round it would be brought again."""
        self.dropped(model)
        try:
            await self._services.intake.disarm(model)
        except BrokerUnavailable as error:
            log.warning("disarm.incomplete", model=model, error=error.message)
        await self.hand_back(model)

    def _arrival(self, model: str) -> Arrival:
        async def arrived(delivery: Delivery) -> None:
            self._post(Arrived(model, delivery))

        return arrived
