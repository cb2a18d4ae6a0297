"""The bounds by hand, and against every policy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity.fleet import GIB
from bench.baselines import POLICIES
from bench.bounds import lower_bound_mean_s, zero_load_mean_s
from bench.models_file import BenchModel
from bench.trace import TraceJob, of_arrivals
from bench.world import LoadMode
from tests.support.simulated import a_model, a_world, jobs_of, run

models = st.fixed_dictionaries(
    {
        name: st.builds(
            BenchModel,
            name=st.just(name),
            vram_bytes=st.integers(1, 16).map(lambda gib: gib * GIB),
            load_s=st.sampled_from([0.125, 0.5, 4.0]),
            max_batch=st.sampled_from([1, 1, 2, 4]),
        )
        for name in "abc"
    }
)
traces = st.lists(
    st.tuples(
        st.integers(0, 80).map(lambda eighths: eighths / 8), st.sampled_from("abc"), st.sampled_from([0.0, 0.25, 2.0])
    ),
    min_size=1,
    max_size=20,
).map(lambda arrivals: list(of_arrivals(arrivals)))


def test_a_lone_job_waits_for_its_load_and_runs() -> None:
    model = a_model("a", load_s=2.0)
    jobs = jobs_of((1.0, "a", 3.0))
    # Worked on by a machine three times as fast over [3, 4]: mean 3.5, and half of 3 s more.
    assert lower_bound_mean_s(jobs, {"a": model}, 3) == pytest.approx(3.5 + 1.5 - 1.0)
    assert lower_bound_mean_s(jobs, {"a": model}, 1) == pytest.approx(5.0)
    assert zero_load_mean_s(jobs, {"a": model}, 1) == 3.0


def test_a_short_job_interrupts_a_long_one_in_the_bound() -> None:
    known = {"a": a_model("a", load_s=0.0)}
    jobs = jobs_of((0.0, "a", 4.0), (1.0, "a", 1.0))
    # Long: [0, 1] and [2, 5], mean busy time (0.5 + 3 * 3.5) / 4 = 2.75; short: 1.5.
    expected = ((2.75 + 2.0 - 0.0) + (1.5 + 0.5 - 1.0)) / 2
    assert lower_bound_mean_s(jobs, known, 1) == pytest.approx(expected)


def test_the_bound_is_at_least_the_mean_execution_time() -> None:
    known = {"a": a_model("a", load_s=0.0)}
    assert lower_bound_mean_s(jobs_of((0.0, "a", 4.0)), known, 100) == 4.0


def test_without_loads_jobs_go_first_in_first_out_to_the_first_gpu_that_is_free() -> None:
    known = {"a": a_model("a"), "b": a_model("b")}
    jobs = jobs_of((0.0, "a", 4.0), (0.0, "b", 1.0), (0.5, "a", 1.0), (0.5, "b", 1.0))
    # Ends at 4, 1, 2 and 3.
    assert zero_load_mean_s(jobs, known, 2) == pytest.approx((4.0 + 1.0 + 1.5 + 2.5) / 4)


def test_without_loads_a_batch_takes_what_waits_of_its_model() -> None:
    known = {"a": a_model("a", max_batch=2), "b": a_model("b")}
    jobs = jobs_of((0.0, "b", 1.0), (0.0, "a", 1.0), (0.0, "b", 1.0), (0.5, "a", 2.0))
    # b ends at 1, both a at 3, the second b at 4.
    assert zero_load_mean_s(jobs, known, 1) == pytest.approx((1.0 + 3.0 + 4.0 + 2.5) / 4)


@settings(max_examples=100, deadline=None)
@given(models, traces, st.integers(1, 3), st.sampled_from(LoadMode))
def test_no_policy_is_better_than_the_bound(
    known: dict[str, BenchModel], jobs: list[TraceJob], workers: int, load: LoadMode
) -> None:
    bound_s = lower_bound_mean_s(jobs, known, workers)
    for policy in POLICIES:
        latencies = run(policy, a_world(known.values(), workers, load=load), jobs).latencies_s
        assert bound_s <= sum(latencies) / len(jobs) + 1e-9
