"""The simulator against results computed by hand, and what holds for every policy on any instance."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity.errors import InvariantBroken
from affinity.fleet import GIB, Demand, FleetView, ResidencyState
from affinity.policy import Load, Plan, Serve
from bench.baselines import POLICIES, scheduler
from bench.bounds import zero_load_mean_s
from bench.measures import bounds_of, measures
from bench.models_file import BadInput, BenchModel
from bench.planned import Planned
from bench.scheduler import Bring, PolicyFault, Step
from bench.simulator import Run, simulate
from bench.trace import TraceJob, of_arrivals
from bench.world import LoadMode, World
from tests.support.simulated import Deciding, Watched, a_model, a_world, jobs_of, run

names = st.sampled_from("abcd")
models = st.fixed_dictionaries(
    {
        name: st.builds(
            BenchModel,
            name=st.just(name),
            vram_bytes=st.integers(1, 20).map(lambda gib: gib * GIB),
            load_s=st.sampled_from([0.25, 3.0, 20.0]),
            reload_s=st.sampled_from([None, 0.125]),
            max_batch=st.sampled_from([1, 1, 3]),
        )
        for name in "abcd"
    }
)
traces = st.lists(
    st.tuples(st.integers(0, 240).map(lambda eighths: eighths / 8), names, st.sampled_from([0.125, 1.0, 9.0])),
    min_size=1,
    max_size=25,
).map(lambda arrivals: list(of_arrivals(arrivals)))


def everything_resident(world: World) -> World:
    """Every model ready on every GPU before the first job."""
    for node in world.nodes.values():
        for model in world.models:
            node.load(model, (), 0.0)
            node.loaded(0.0)
            node.loads = 0
    return world


def test_one_model_is_loaded_once_and_its_jobs_follow_each_other() -> None:
    jobs = jobs_of((0.0, "a", 1.0), (0.5, "a", 1.0))
    found = run("affinity", a_world([a_model("a")]), jobs)
    assert list(found.finished_at) == [3.0, 4.0]
    assert found.latencies_s == [3.0, 3.5]
    assert (found.loads, found.cold, found.load_seconds, found.makespan_s) == (1, 1, 2.0, 4.0)


def test_the_numbers_of_a_run_are_those_computed_by_hand() -> None:
    jobs = jobs_of((0.0, "a", 1.0), (0.5, "a", 1.0))
    world = a_world([a_model("a")])
    found = measures(run("affinity", world, jobs), world.shape, bounds_of(jobs, world.models, 1))
    assert found["mean_s"] == 3.25
    assert found["p50_s"] == 3.0
    assert found["p99_s"] == 3.5
    assert found["max_wait_s"] == 2.5
    assert found["hit_ratio"] == 0.5
    assert found["load_share"] == 0.5
    assert found["makespan_s"] == 4.0
    # Both released at 2: busy over [2, 3] and [3, 4], so ends at 3 and 4, less the arrivals 0 and 0.5.
    assert found["lower_bound_mean_s"] == 3.25
    assert found["zero_load_mean_s"] == 1.25


def test_a_batch_takes_what_waits_and_costs_its_longest_job() -> None:
    jobs = jobs_of((0.0, "a", 1.0), (0.5, "a", 3.0), (1.0, "a", 1.0))
    found = run("affinity", a_world([a_model("a", max_batch=2)]), jobs)
    assert list(found.finished_at) == [5.0, 5.0, 6.0]


@pytest.mark.parametrize(("load", "ends_at"), [(LoadMode.BLOCKING, 5.0), (LoadMode.OVERLAP, 4.0)])
def test_a_gpu_that_loads_serves_its_residents_only_in_overlap_mode(load: LoadMode, ends_at: float) -> None:
    jobs = jobs_of((0.0, "a", 1.0), (3.0, "b", 1.0), (3.0, "a", 1.0))
    world = a_world([a_model("a", load_s=1.0), a_model("b", load_s=1.0)], load=load)

    def loads_first(fleet: FleetView, demand: Iterable[Demand], *_: object, **__: object) -> Plan:
        """Load whatever is asked for, at once, and serve what is there."""
        residents = fleet.workers["w0"].residents
        asked = {each.model for each in demand if each.queued}
        loads = [Load("w0", model, 1, (), 0, "") for model in sorted(asked - {r.model for r in residents})]
        ready = [r.model for r in residents if r.state is ResidencyState.READY and r.model in asked]
        return Plan((*loads, *(Serve("w0", model, 1, "") for model in ready)))

    found = simulate(world, Planned(world, planner=Deciding.by(loads_first)), jobs)
    by_model = {job.model: end for job, end in zip(jobs, found.finished_at, strict=True) if job.arrival_s == 3.0}
    assert by_model["a"] == ends_at


def test_what_was_evicted_comes_back_from_the_hosts_memory() -> None:
    world = a_world([a_model("a", 20.0, 5.0, reload_s=0.5), a_model("b", 20.0, 5.0, reload_s=0.5)], cache_gib=20.0)
    jobs = jobs_of((0.0, "a", 1.0), (100.0, "b", 1.0), (200.0, "a", 1.0))
    assert run("round-robin-lru", world, jobs).latencies_s == [6.0, 6.0, 1.5]


def test_the_hosts_memory_is_bounded_and_forgets_what_was_evicted_first() -> None:
    three = [a_model(name, 20.0, 5.0, reload_s=0.5) for name in "abc"]
    world = a_world(three, cache_gib=39.0)
    jobs = jobs_of((0.0, "a", 1.0), (100.0, "b", 1.0), (200.0, "c", 1.0), (300.0, "a", 1.0))
    assert run("round-robin-lru", world, jobs).latencies_s == [6.0, 6.0, 6.0, 6.0]


def test_a_policy_that_never_loads_is_told_apart_from_one_that_waits() -> None:
    world = a_world([a_model("a")])
    idle = Planned(world, name="idle", planner=Deciding.by(lambda *_, **__: Plan(())))
    with pytest.raises(PolicyFault, match="idle leaves 1 jobs waiting, and nothing more will happen"):
        simulate(world, idle, jobs_of((0.0, "a", 1.0)))


def test_a_policy_that_wants_to_be_asked_again_at_once_is_stopped() -> None:
    world = a_world([a_model("a")])
    restless = Planned(world, name="restless", planner=Deciding.by(lambda *args, **_: Plan((), args[3])))
    with pytest.raises(PolicyFault, match="restless wants to be asked again"):
        simulate(world, restless, jobs_of((0.0, "a", 1.0)))


class Swapping:
    """Never serves, always loads what is not there."""

    name = "swapping"
    wake_at = None
    decisions_ns: Sequence[int] = ()

    def arrived(self, job: TraceJob) -> None: ...

    def changed(self, node: str) -> None: ...

    def ran(self, jobs: Sequence[TraceJob], took_s: float) -> None: ...

    def steps(self, world: World, now: float) -> Iterable[Step]:
        node = world.nodes["w0"]
        if node.may_load:
            yield Bring("w0", "b" if "a" in node.residents else "a", tuple(node.residents))


def test_a_policy_that_swaps_models_in_no_time_for_ever_is_stopped() -> None:
    world = a_world([a_model("a", 20.0, load_s=0.0), a_model("b", 20.0, load_s=0.0)])
    with pytest.raises(PolicyFault, match=r"swapping goes round in circles at 0\.0 s"):
        simulate(world, Swapping(), jobs_of((0.0, "a", 1.0)))


def test_a_policy_that_overfills_a_gpu_is_stopped() -> None:
    world = a_world([a_model("a", 20.0), a_model("b", 20.0)])
    greedy = Planned(world, planner=Deciding.by(lambda *_, **__: Plan((Load("w0", "b", 1, (), 0, ""),))))
    world.nodes["w0"].load("a", (), 0.0)
    world.nodes["w0"].loaded(0.0)
    with pytest.raises(InvariantBroken, match="4294967296 are free"):
        simulate(world, greedy, jobs_of((0.0, "b", 1.0)))


def test_a_model_that_fits_no_gpu_is_refused_with_both_sizes() -> None:
    with pytest.raises(BadInput, match=r"model b takes 30\.0 GiB and every GPU has 24\.0 GiB"):
        a_world([a_model("a"), a_model("b", 30.0)])


def test_a_wake_up_is_kept_to_the_instant() -> None:
    asked_at: list[float] = []
    world = a_world([a_model("a")])

    def late(_fleet: object, _demand: object, _facts: object, now: float, **_: object) -> Plan:
        asked_at.append(now)
        if now < 7.25:
            return Plan((), 7.25)
        return Plan((Load("w0", "a", 1, (), 0, ""),) if not world.nodes["w0"].residents else (Serve("w0", "a", 1, ""),))

    found = simulate(world, Planned(world, planner=Deciding.by(late)), jobs_of((0.0, "a", 1.0)))
    assert 7.25 in asked_at
    assert list(found.finished_at) == [10.25]


@settings(max_examples=60, deadline=None)
@given(models, traces, st.integers(1, 3), st.sampled_from(LoadMode), st.sampled_from([0.0, 12.0]))
def test_every_job_ends_once_and_no_gpu_ever_holds_more_than_it_has(
    known: dict[str, BenchModel], jobs: list[TraceJob], workers: int, load: LoadMode, cache_gib: float
) -> None:
    for policy in POLICIES:
        world = a_world(known.values(), workers, load=load, cache_gib=cache_gib)
        watched = Watched(scheduler(policy, world, jobs, 0), world)
        found = simulate(world, watched, jobs)
        assert watched.looks
        assert len(found.finished_at) == len(jobs)
        for job, end in zip(jobs, found.finished_at, strict=True):
            assert end >= job.arrival_s + job.exec_s
        assert not any(node.running for node in world.nodes.values())


@settings(max_examples=60, deadline=None)
@given(models, traces, st.integers(1, 3), st.sampled_from(LoadMode))
def test_the_same_run_gives_the_same_numbers(
    known: dict[str, BenchModel], jobs: list[TraceJob], workers: int, load: LoadMode
) -> None:
    def numbers(policy: str) -> tuple[object, ...]:
        found: Run = run(policy, a_world(known.values(), workers, load=load), jobs, seed=5)
        return (list(found.finished_at), found.loads, found.cold, found.load_seconds)

    for policy in POLICIES:
        assert numbers(policy) == numbers(policy)


@settings(max_examples=60, deadline=None)
@given(traces.filter(lambda jobs: len({job.arrival_s for job in jobs}) == len(jobs)), st.integers(1, 4))
def test_with_every_model_resident_everywhere_ours_is_plain_fifo(jobs: list[TraceJob], workers: int) -> None:
    """L11."""
    world = everything_resident(a_world([a_model(name, 5.0) for name in "abcd"], workers))
    found = run("affinity", world, jobs)
    assert found.loads == 0
    mean_s = sum(found.latencies_s) / len(jobs)
    assert mean_s == pytest.approx(zero_load_mean_s(jobs, world.models, workers))
    starts = [end - job.exec_s for job, end in zip(jobs, found.finished_at, strict=True)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(starts))


def test_a_policy_that_loads_for_ever_and_serves_nothing_is_stopped() -> None:
    world = a_world([a_model("a", 20.0), a_model("b", 20.0)])

    def swap(fleet: FleetView, *_: object, **__: object) -> Plan:
        """Never serve; evict what has been loaded."""
        (worker,) = fleet.workers.values()
        there = tuple(resident.model for resident in worker.residents)
        return Plan(() if worker.loading else (Load("w0", "b" if there == ("a",) else "a", 1, there, 0, ""),))

    with pytest.raises(PolicyFault, match="affinity has loaded 51 times since a job last ended"):
        simulate(world, Planned(world, planner=Deciding.by(swap)), jobs_of((0.0, "a", 1.0)))
