"""Each baseline does what gives it its name."""

from collections import Counter
from math import ceil

import pytest

from bench.baselines import POLICIES, scheduler
from bench.baselines.bound import EarlyBound, lru_victims
from bench.baselines.hashed import BOUND, BoundedHash, StickyHash
from bench.models_file import BadInput
from bench.trace import TraceJob
from tests.support.simulated import a_model, a_world, jobs_of, run


def bindings(policy: str, jobs: list[TraceJob], workers: int = 3, gib: float = 10.0) -> list[str]:
    """Where an early-bound policy sends each job, all of them queued at once."""
    world = a_world([a_model(name, gib) for name in sorted({job.model for job in jobs})], workers)
    made = scheduler(policy, world, jobs, 7)
    assert isinstance(made, EarlyBound)
    bound = []
    for job in jobs:
        bound.append(made.bind(job, job.arrival_s))
        made.give(job, bound[-1])
    return bound


def test_every_policy_of_the_design_is_there() -> None:
    assert set(POLICIES) == {
        *("affinity", "no-hold", "lru-eviction", "unamortised-guard"),
        *("round-robin-lru", "random-lru", "least-work-lru", "fifo-warm-lru", "sticky-hash", "bounded-hash"),
        *("earliest-completion", "timeout-multiplex", "static-pinning"),
    }


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match="there is no policy 'best'; use one of affinity, "):
        scheduler("best", a_world([a_model("a")]), jobs_of((0.0, "a", 1.0)), 0)


def test_round_robin_goes_in_turn_whatever_the_model() -> None:
    assert bindings("round-robin-lru", jobs_of(*((0.0, "a", 1.0) for _ in range(5)))) == ["w0", "w1", "w2", "w0", "w1"]


def test_random_depends_on_the_seed_alone_and_reaches_every_worker() -> None:
    jobs = jobs_of(*((0.0, "a", 1.0) for _ in range(60)))
    assert bindings("random-lru", jobs) == bindings("random-lru", jobs)
    assert set(bindings("random-lru", jobs)) == {"w0", "w1", "w2"}


def test_least_work_counts_seconds_and_not_jobs_or_loads() -> None:
    jobs = jobs_of((0.0, "a", 9.0), (0.0, "a", 1.0), (0.0, "a", 1.0), (0.0, "a", 1.0), (0.0, "a", 1.0))
    assert bindings("least-work-lru", jobs) == ["w0", "w1", "w2", "w1", "w2"]


def test_least_work_sees_how_far_a_running_job_has_come() -> None:
    world = a_world([a_model("a", load_s=0.5)], 2)
    # At 9 the first has half a second left, the second three: the third goes to the first worker.
    jobs = jobs_of((0.0, "a", 9.0), (0.0, "a", 11.5), (9.0, "a", 1.0))
    assert list(run("least-work-lru", world, jobs).finished_at) == [9.5, 12.0, 10.5]


def test_a_sticky_model_has_one_worker_and_models_are_spread() -> None:
    names = [f"m{number}" for number in range(40)]
    jobs = jobs_of(*((0.0, name, 1.0) for name in names * 3))
    where = bindings("sticky-hash", jobs)
    assert where == where[:40] * 3
    assert set(Counter(where[:40])) == {"w0", "w1", "w2"}


def test_one_more_worker_moves_few_models() -> None:
    names = [f"m{number}" for number in range(200)]
    jobs = jobs_of(*((0.0, name, 1.0) for name in names))
    before, after = bindings("sticky-hash", jobs, 4), bindings("sticky-hash", jobs, 5)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert 0 < len(moved) < 100
    assert {new for _, new in moved} == {"w4"}


def test_a_bounded_hash_is_sticky_until_its_worker_is_full() -> None:
    jobs = jobs_of(*((0.0, "a", 1.0) for _ in range(8)))
    world = a_world([a_model("a")], 4)
    made = BoundedHash(world, jobs, 0)
    order = StickyHash(world, jobs, 0).order("a")
    for count, job in enumerate(jobs, start=1):
        worker = made.bind(job, 0.0)
        most = ceil(BOUND * count / 4)
        assert worker == next(name for name in order if made.outstanding[name] < most)
        made.give(job, worker)
        assert max(made.outstanding.values()) <= most


def test_earliest_completion_prefers_a_short_queue_to_a_load_but_not_a_long_one() -> None:
    world = a_world([a_model("a", load_s=5.0)], 2)
    jobs = jobs_of((0.0, "a", 2.0), (0.0, "a", 2.0), (0.0, "a", 2.0), (0.0, "a", 2.0))
    # The first two end at 7 and 9 on one worker; the third would end at 11 there and at 7 on the other.
    found = run("earliest-completion", world, jobs)
    assert sorted(found.finished_at) == [7.0, 7.0, 9.0, 9.0]
    assert found.loads == 2


def test_earliest_completion_foresees_what_its_queues_evict() -> None:
    jobs = jobs_of((0.0, "a", 1.0), (0.0, "b", 1.0), (0.0, "a", 1.0))
    world = a_world([a_model("a", 20.0), a_model("b", 20.0)], 1)
    made = POLICIES["earliest-completion"](world, jobs, 0)
    for job in jobs:
        made.arrived(job)
    # Three loads of 2 s, since a must come back.
    assert made._free_at == {"w0": 9.0}


def test_warm_fifo_takes_the_oldest_job_to_a_worker_that_holds_its_model() -> None:
    world = a_world([a_model("a", 20.0), a_model("b", 20.0)], 2)
    jobs = jobs_of((0.0, "a", 1.0), (0.0, "b", 1.0), (10.0, "b", 1.0), (10.0, "a", 1.0))
    found = run("fifo-warm-lru", world, jobs)
    assert found.loads == 2
    assert list(found.finished_at) == [3.0, 3.0, 11.0, 11.0]


def test_warm_fifo_loads_on_an_idle_worker_at_once_even_where_a_busy_one_is_warm() -> None:
    world = a_world([a_model("a", load_s=5.0)], 2)
    found = run("fifo-warm-lru", world, jobs_of((0.0, "a", 10.0), (6.0, "a", 1.0)))
    assert found.loads == 2
    assert list(found.finished_at) == [15.0, 12.0]


def test_multiplexing_waits_a_second_and_a_half_for_a_full_worker_and_then_goes_elsewhere() -> None:
    world = a_world([a_model("a", load_s=2.0)], 2)
    jobs = jobs_of((0.0, "a", 100.0), (0.0, "a", 1.0), (10.0, "a", 1.0))
    # Two fill the first worker. The third gives up at 11.5 and loads on the second.
    found = run("timeout-multiplex", world, jobs)
    assert found.finished_at[2] == 11.5 + 2.0 + 1.0
    assert found.loads == 2


def test_multiplexing_sends_a_model_nobody_holds_to_the_worker_with_fewest_models() -> None:
    world = a_world([a_model(name, 5.0) for name in "abc"], 2)
    jobs = jobs_of((0.0, "a", 1.0), (5.0, "b", 1.0), (10.0, "c", 1.0))
    run("timeout-multiplex", world, jobs)
    assert sorted(len(node.residents) for node in world.nodes.values()) == [1, 2]


def test_static_pinning_divides_the_work_and_keeps_the_models_with_most_of_it() -> None:
    models = [a_model(name, 10.0) for name in "abcdef"]
    work = {"a": 50, "b": 40, "c": 30, "d": 20, "e": 10, "f": 5}
    jobs = jobs_of(*((0.0, name, float(seconds)) for name, seconds in work.items()))
    world = a_world(models, 2)
    made = POLICIES["static-pinning"](world, jobs, 0)
    assert isinstance(made, EarlyBound)
    assert [made.bind(job, 0.0) for job in jobs] == ["w0", "w1", "w1", "w0", "w0", "w1"]
    # One slot of two stays free for all others.
    assert (made.kept("w0"), made.kept("w1")) == (frozenset("a"), frozenset("b"))
    node = world.nodes["w0"]
    for name in "ad":
        node.load(name, (), 0.0)
        node.loaded(float(name == "d"))
    assert lru_victims(node, world.models["e"], made.kept("w0")) == ["d"]
    assert lru_victims(node, world.models["e"]) == ["a"]


def test_lru_evicts_what_was_used_longest_ago_and_no_more_than_it_must() -> None:
    world = a_world([a_model(name, 8.0, 0.0) for name in "abc"] + [a_model("d", 8.0), a_model("e", 16.0)])
    node = world.nodes["w0"]
    for at, name in enumerate("bca"):
        node.load(name, (), float(at))
        node.loaded(float(at))
    assert lru_victims(node, world.models["d"]) == ["b"]
    assert lru_victims(node, world.models["e"]) == ["b", "c"]
    node.start(jobs_of((5.0, "b", 1.0)), 5.0)
    assert lru_victims(node, world.models["e"]) == ["c", "a"]
    assert lru_victims(node, a_model("f", 24.0)) is None
