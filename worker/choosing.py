"""Which jobs a worker takes next: from the backlog of the models it serves, or what a consumer brought."""

from collections.abc import Sequence
from dataclasses import replace

from affinity.fleet import Demand, FleetView
from affinity.io.ports import Delivery
from affinity.policy import Serve, plan
from affinity.policy.shares import fill, leading
from worker.draining import Draining
from worker.intray import Intray
from worker.lanes import Lanes
from worker.learning import Learning
from worker.load_course import LoadCourse
from worker.services import Services
from worker.state import GpuState


class Choosing:
    """``seen`` is the demand as it was seen a moment ago, so that it is not asked for twice."""

    def __init__(
        self,
        services: Services,
        state: GpuState,
        learning: Learning,
        intray: Intray,
        course: LoadCourse,
        draining: Draining,
        lanes: Lanes,
    ) -> None:
        self.seen: Sequence[Demand] = ()
        self._services = services
        self._state = state
        self._learning = learning
        self._intray = intray
        self._course = course
        self._draining = draining
        self._lanes = lanes

    def serving(self) -> list[str]:
        """Not what is to be evicted: served once more, it would be running when its turn is over, and so for ever."""
        victims, serves = self._course.victims, self._draining.serves
        return [model for model in self._state.ready_models() if model not in victims and serves(model)]

    def first_in_hand(self) -> str | None:
        """The model whose delivery has been in hand longest, of those that do not leave."""
        let_go = [model for model in self._state.residents if self._draining.gives_way(model)]
        return self._intray.first((*self._course.victims, *self._state.leaving_models(), *let_go))

    async def pick(self) -> tuple[str, list[Delivery]] | None:
        """What the plan serves here once nothing runs; a queue that turns out to be empty is passed over.

        While tenants' jobs wait, the model is that of the lane whose turn it is, and its batch is filled in turn.
        """
        serving = self.serving()
        seen = self.seen or await self._services.store.demand()
        self.seen = ()
        self._lanes.heed(seen, serving)
        demand = {d.model: d for d in seen if d.model in serving}
        now = self._services.clock.now()
        view = FleetView.of([self._state.own_report(now).at_rest])
        while demand:
            first = leading(demand.values())
            asked = demand.values() if first is None else [first]
            serve = plan(view, asked, self._learning.facts, now).serve(self._services.identity.worker)
            if serve is None:
                return None
            if deliveries := await self._fetch(serve, demand):
                return serve.model, deliveries
        return None

    async def _fetch(self, serve: Serve, demand: dict[str, Demand]) -> list[Delivery]:
        """The jobs of a batch. Lanes that turn out to be empty are taken out of the demand."""
        model = serve.model
        asked = demand[model]
        if not asked.lanes:
            deliveries = await self._intray.gather(model, serve.most)
            short = set[str]()
        else:
            facts = self._learning.facts[model]
            slot_s = facts.on(self._state.gpu).exec_s / facts.max_batch
            deliveries, short = await self._intray.gather_lanes(
                model, fill(asked.lanes, serve.most, slot_s), serve.most
            )
        left = tuple(one for one in asked.lanes if one.tenant not in short)
        if left:
            demand[model] = replace(asked, lanes=left)
        else:
            del demand[model]
        return deliveries

    def unheard(self, demand: Sequence[Demand]) -> bool:
        """True if jobs wait here that no consumer brings, since nobody has listened to their lanes yet."""
        return self._lanes.heed(demand, self.serving())
