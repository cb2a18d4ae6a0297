"""Deliveries in hand that no batch has started yet, and the consumers that bring them."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog

from affinity.errors import BrokerUnavailable
from affinity.io.ports import Arrival, Delivery
from affinity.topology import OF, is_tenants, lane, model_in
from worker.events import Arrived, WorkerEvent
from worker.services import Services

log = structlog.get_logger(__name__)


class Intray:
    """At most one unstarted delivery per resident, and per lane of it that is bound. Where the broker is away, wishes
    are kept and applied later.
    """

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

    @property
    def shared(self) -> bool:
        """True while consumers run on tenants' lanes."""
        return any(map(is_tenants, self._armed))

    def expects(self, lane_name: str) -> bool:
        """True while a consumer runs on that lane's queue."""
        return lane_name in self._armed

    def unheard(self, models: Iterable[str]) -> list[str]:
        """Those of these whose jobs no consumer brings, or not those of each lane that is bound."""
        return [model for model in models if not self._armed.issuperset(self._lanes_of(model))]

    def put(self, lane_name: str, delivery: Delivery) -> None:
        """Keep a delivery that a consumer brought."""
        self._in_hand.setdefault(model_in(lane_name), deque()).append(delivery)

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

    async def gather_lanes(
        self, model: str, wanted: Sequence[tuple[str, int]], most: int
    ) -> tuple[list[Delivery], set[str]]:
        """So many of each of these tenants' lanes, in that order, in hand or from the backlog; and the tenants who had
        fewer. What those lack is looked for in the model's own queue, up to ``most`` in all: there lie jobs that came
        without HTTP and name a tenant.
        """
        taken: list[Delivery] = []
        short: set[str] = set()
        try:
            for tenant, count in wanted:
                got = await self._gather_lane(lane(model, tenant), count, taken)
                if got < count:
                    short.add(tenant)
            if short and "" not in short and len(taken) < most:
                await self._gather_lane(model, most - len(taken), taken)
        except BrokerUnavailable as error:
            if not taken:
                raise
            log.warning("backlog.unasked", model=model, error=error.message)
        return taken, short

    async def _gather_lane(self, lane_name: str, most: int, into: list[Delivery]) -> int:
        before = len(into)
        into.extend(self._pop_lane(lane_name, most))
        if (lacking := before + most - len(into)) > 0:
            into.extend(await self._services.intake.take(lane_name, lacking))
        return len(into) - before

    def _pop_lane(self, lane_name: str, most: int) -> list[Delivery]:
        lane_of, model = self._services.topology.lane_of, model_in(lane_name)
        held = self._in_hand.get(model, deque())
        taken = [delivery for delivery in held if lane_of(delivery.routing_key) == lane_name][:most]
        for delivery in taken:
            held.remove(delivery)
        if not held:
            self._in_hand.pop(model, None)
        return taken

    async def arm(self, models: Iterable[str]) -> None:
        """Run a consumer on the queue of each of these, and on those of its lanes that are bound."""
        for name in (name for model in models for name in self._lanes_of(model)):
            if name in self._armed:
                continue
            self._armed.add(name)
            try:
                await self._services.intake.arm(name, 1, self._arrival(name))
            except BrokerUnavailable as error:
                log.warning("arm.later", model=name, error=error.message)

    async def disarm(self) -> None:
        """Stop all consumers and hand back what they brought."""
        for model in sorted({*map(model_in, self._armed), *self._in_hand}):
            await self.retire(model)

    async def hand_back(self, model: str) -> None:
        """Give what is in hand for a model to whoever else has it."""
        if held := self._in_hand.pop(model, deque()):
            self._services.metrics.handed_back(self._services.identity.worker, len(held))
        for delivery in held:
            await delivery.requeue()

    def dropped(self, model: str) -> None:
        """Its consumers are about to be stopped: what they still bring is not for us."""
        self._armed = {name for name in self._armed if name != model and not name.startswith(model + OF)}

    async def retire(self, model: str) -> None:
        """Stop its consumers, then hand back what they brought: the other way round it would be brought again."""
        self.dropped(model)
        try:
            await self._services.intake.disarm(model)
        except BrokerUnavailable as error:
            log.warning("disarm.incomplete", model=model, error=error.message)
        await self.hand_back(model)

    def _lanes_of(self, model: str) -> list[str]:
        """The model itself, and its lanes that are bound."""
        lanes = self._services.intake.lanes
        return [model, *sorted(name for name in lanes if name.startswith(model + OF))] if lanes else [model]

    def _arrival(self, lane_name: str) -> Arrival:
        async def arrived(delivery: Delivery) -> None:
            self._post(Arrived(lane_name, delivery))

        return arrived
