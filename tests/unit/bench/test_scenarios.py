"""What the policy must show on the committed scenarios, by the simulator."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.baselines import scheduler
from bench.percentiles import percentile
from bench.simulator import Run, simulate
from bench.trace import TraceJob
from bench.workload import Workload, workloads
from bench.world import World
from tests.support.simulated import Watched


def watched(workload: Workload, policy: str = "affinity", seed: int = 0) -> tuple[Watched, Run]:
    """The run of a whole workload, and what was seen on the way."""
    jobs, models = workload.generate(seed)
    world = World(workload.shape, models)
    watching = Watched(scheduler(policy, world, jobs, seed), world)
    return watching, simulate(world, watching, jobs)


def mean_s(run: Run, jobs: Sequence[TraceJob] | None = None) -> float:
    """Mean latency of some jobs, or of all."""
    chosen = [run.latencies_s[job.number] for job in jobs] if jobs is not None else run.latencies_s
    return sum(chosen) / len(chosen)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_fleet_under_live_load_answers_within_a_second(seed: int) -> None:
    _, run = watched(workloads()["live16"], seed=seed)
    assert mean_s(run) <= 0.6
    assert percentile(sorted(run.latencies_s), 99) <= 3.0


def test_cold_models_in_turn_are_loaded_little_more_than_once_each() -> None:
    _, run = watched(workloads()["cold50"])
    assert run.loads <= 60


def test_a_sweep_over_all_models_costs_the_others_little() -> None:
    workload = replace(workloads()["sweep"], jobs=3200)
    _, with_sweep = watched(workload)
    _, without = watched(replace(workload, sweep_at_s=None))
    swept = {round(14_400.0 + 2.0 * number, 6) for number in range(workload.models)}
    usual = [job for job in with_sweep.jobs if job.arrival_s not in swept]
    assert len(usual) == len(without.jobs)
    # The swept jobs and their loads keep all GPUs busy for ten minutes; what was hot before is hot after it.
    assert with_sweep.loads <= without.loads + 1.3 * workload.models
    later = [job for job in usual if job.arrival_s > 14_400.0 + 1800.0]
    same = [job for job in without.jobs if job.arrival_s > 14_400.0 + 1800.0]
    assert mean_s(with_sweep, later) <= 1.15 * mean_s(without, same)


def test_where_every_model_fits_ours_is_as_good_as_least_work() -> None:
    workload = replace(workloads()["all-fit"], jobs=3000, utilisation=0.5)
    _, ours = watched(workload)
    _, theirs = watched(workload, "least-work-lru")
    assert mean_s(ours) <= 1.02 * mean_s(theirs)


def test_where_loads_are_light_ours_is_as_good_as_least_work() -> None:
    workload = replace(workloads()["light-loads"], jobs=2500)
    _, ours = watched(workload)
    _, theirs = watched(workload, "least-work-lru")
    assert mean_s(ours) <= 1.02 * mean_s(theirs)
