"""The demand the policy sees is, at every instant, what the queued jobs add up to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.demand import Queues
from bench.trace import TraceJob
from tests.support.simulated import jobs_of


@given(
    st.lists(st.tuples(st.integers(0, 80).map(lambda e: e / 8), st.sampled_from("ab"), st.just(1.0)), max_size=20),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3)), max_size=8),
)
def test_demand_is_the_sum_of_what_waits(
    arrivals: list[tuple[float, str, float]], takes: list[tuple[str, int]]
) -> None:
    queues = Queues(600.0)
    waiting: dict[str, list[TraceJob]] = {"a": [], "b": []}
    for job in jobs_of(*arrivals):
        queues.put(job)
        waiting[job.model].append(job)
    for model, most in takes:
        taken = queues.take(model, most, 10.0)
        assert list(taken) == waiting[model][:most]
        del waiting[model][:most]
    for model, jobs in waiting.items():
        demand = queues.demand.get(model)
        assert (demand.queued if demand else 0) == len(jobs)
        if jobs:
            assert demand is not None
            assert demand.oldest_at == jobs[0].arrival_s
            assert demand.summed_arrival_s == pytest.approx(sum(job.arrival_s for job in jobs))


def test_a_rate_rises_with_each_arrival_and_decays() -> None:
    queues = Queues(100.0)
    for job in jobs_of((0.0, "a", 1.0), (50.0, "a", 1.0)):
        queues.put(job)
    mean = (math.exp(-0.5) + 1) / 100
    assert queues.demand["a"].rate == pytest.approx(mean / (1 - math.exp(-0.5))), "seen for half a time constant only"
    queues.take("a", 2, 50.0)
    assert queues.demand["a"].queued == 0
    queues.decay(150.0)
    assert queues.demand["a"].rate == pytest.approx(mean * math.exp(-1) / (1 - math.exp(-1.5)))


def test_a_steady_stream_has_its_own_rate() -> None:
    queues = Queues(600.0)
    for job in jobs_of(*((number / 4, "a", 1.0) for number in range(20_000))):
        queues.put(job)
    assert queues.demand["a"].rate == pytest.approx(4.0, rel=0.01)


def test_a_model_that_is_asked_for_no_more_is_forgotten() -> None:
    queues = Queues(100.0)
    queues.put(jobs_of((0.0, "a", 1.0))[0])
    queues.decay(10_000.0)
    assert queues.demand["a"].queued == 1
    queues.take("a", 1, 10_000.0)
    assert "a" not in queues.demand
