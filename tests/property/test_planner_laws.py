"""A planner that is told of changes overlooks nothing that one who sees everything anew would do."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from affinity.fleet import FleetView, ModelFacts
from affinity.policy import GiveUp, Load, Plan, Planner, Serve, Wait, plan
from affinity.policy.tuning import Tuning
from bench.planned import Planned
from bench.simulator import simulate
from bench.trace import TraceJob
from bench.world import LoadMode
from tests.support.simulated import a_model, a_world, jobs_of

models = st.lists(
    st.tuples(st.sampled_from([4.0, 8.0, 11.0, 20.0]), st.sampled_from([0.5, 3.0, 20.0]), st.sampled_from([1, 1, 3])),
    min_size=2,
    max_size=8,
)
jobs = st.lists(
    st.tuples(st.integers(0, 64).map(lambda n: n / 8), st.integers(0, 7), st.sampled_from([0.25, 1.0, 9.0])),
    min_size=1,
    max_size=60,
)


class Compared(Planner):
    """After each plan, looks at what a fresh plan of the same fleet asks for."""

    def __init__(self, facts: Mapping[str, ModelFacts], tuning: Tuning) -> None:
        super().__init__(facts, tuning)
        self.quiet = 0
        self._rules = tuning

    def plan(self, now: float) -> Plan:
        made = super().plan(now)
        self.quiet += not any(isinstance(each, Load | Serve | GiveUp) for each in made.decisions)
        self._compare(made, now)
        return made

    def _compare(self, made: Plan, now: float) -> None:
        board = self.board
        fresh = plan(FleetView.of(board.workers.values()), board.demand.values(), board.facts, now, self._rules)
        served = {each.model for each in made.decisions if isinstance(each, Serve)}
        for each in fresh.decisions:
            if isinstance(each, Serve) and each.model in served:
                pass  # By as many workers as its queue keeps busy: the fresh plan names all that could.
            elif isinstance(each, Load) and (each.copies > 0 or each.victims) and each not in made.decisions:
                # It may have become cheaper by time alone, as victims' rates decay: it is due at an alarm soon.
                assert made.wake_at is not None
            elif not isinstance(each, Wait):
                assert each in made.decisions


@settings(max_examples=60, deadline=None)
@given(made=models, arrivals=jobs, workers=st.integers(1, 4), load=st.sampled_from(LoadMode))
def test_a_planner_told_of_changes_overlooks_nothing(
    made: list[tuple[float, float, int]], arrivals: list[tuple[float, int, float]], workers: int, load: LoadMode
) -> None:
    """What a fresh plan serves, gives up or loads for a model without a copy, one told of changes has decided, too."""
    known = [a_model(f"m{n}", gib, load_s, max_batch=batch) for n, (gib, load_s, batch) in enumerate(made)]
    at, trace = 0.0, []
    for pause_s, number, exec_s in arrivals:
        at += pause_s
        trace.append((at, f"m{number % len(known)}", exec_s))
    world = a_world(known, workers=workers, load=load)
    asked: list[Compared] = []

    def compared(facts: Mapping[str, ModelFacts], tuning: Tuning) -> Compared:
        asked.append(Compared(facts, tuning))
        return asked[-1]

    queued: list[TraceJob] = jobs_of(*trace)
    assert min(simulate(world, Planned(world, planner=compared), queued).finished_at) > 0
    assert asked[0].quiet
