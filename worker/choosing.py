"""Which jobs a worker takes next: from the backlog of the models it serves, or what a consumer brought."""

from collections.abc import Sequence

from affinity.fleet import Demand, FleetView
from affinity.io.ports import Delivery
from affinity.policy import plan
from worker.draining import Draining
from worker.intray import Intray
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
    ) -> None:
        self.seen: Sequence[Demand] = ()
        self._services = services
        self._state = state
        self._learning = learning
        self._intray = intray
        self._course = course
        self._draining = draining

    def serving(self) -> list[str]:
        """Not what is to be evicted: served once more, it would be running when its turn is over, and so for ever."""
        victims, serves = self._course.victims, self._draining.serves
        return [model for model in self._state.ready_models() if model not in victims and serves(model)]

    def first_in_hand(self) -> str | None:
        """The model whose delivery has been in hand longest, of those that do not leave."""
        let_go = [model for model in self._state.residents if self._draining.gives_way(model)]
        return self._intray.first((*self._course.victims, *self._state.leaving_models(), *let_go))

    async def pick(self) -> tuple[str, list[Delivery]] | None:
        """What the plan serves here once nothing runs; a queue that turns out to be empty is passed over."""
        serving = self.serving()
        demand = {d.model: d for d in self.seen or await self._services.store.demand() if d.model in serving}
        self.seen = ()
        now = self._services.clock.now()
        view = FleetView.of([self._state.own_report(now).at_rest])
        while serve := plan(view, demand.values(), self._learning.facts, now).serve(self._services.identity.worker):
            if deliveries := await self._intray.gather(serve.model, serve.most):
                return serve.model, deliveries
            del demand[serve.model]
        return None
