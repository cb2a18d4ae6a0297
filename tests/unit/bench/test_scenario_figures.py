"""The figures of the scenarios: counted right, and what the policy must show in them."""

import json
from dataclasses import replace

import pytest

from bench.__main__ import main
from bench.baselines import scheduler
from bench.observed import Observed
from bench.scenarios import FIGURES, hot_models, observed, sweep_periods
from bench.simulator import simulate
from bench.workload import workloads
from tests.support.simulated import a_model, a_world, jobs_of


def test_copies_and_cold_starts_are_those_computed_by_hand() -> None:
    world = a_world([a_model("a", 20.0), a_model("b", 20.0)])
    jobs = jobs_of((0.0, "a", 1.0), (1.0, "a", 1.0), (10.0, "b", 1.0), (20.0, "a", 1.0))
    seen = Observed(scheduler("round-robin-lru", world, jobs, 0), world)
    found = simulate(world, seen, jobs)
    assert [(each.at, each.job.model, each.cold) for each in seen.starts] == [
        (2.0, "a", True),
        (3.0, "a", False),
        (12.0, "b", True),
        (22.0, "a", True),
    ]
    assert seen.moves == [(0.0, "a", 1), (10.0, "a", -1), (10.0, "b", 1), (20.0, "b", -1), (20.0, "a", 1)]
    assert [seen.copies("a", *period) for period in ((0.0, 5.0), (5.0, 9.0), (5.0, 15.0), (11.0, 15.0))] == [
        *((0, 1), (1, 1), (0, 1), (0, 0))
    ]
    assert seen.hit_ratio(frozenset("a"), 0.0, 30.0) == pytest.approx(1 / 3)
    assert seen.hit_ratio(frozenset("b"), 0.0, 5.0) is None
    assert found.cold == sum(each.cold for each in seen.starts)


def test_watching_a_run_changes_nothing() -> None:
    workload = replace(workloads()["cold50"], jobs=200)
    jobs, models = workload.generate(0)
    for policy in ("affinity", "earliest-completion"):
        plain, seen = a_world(models.values(), 4), a_world(models.values(), 4)
        alone = simulate(plain, scheduler(policy, plain, jobs, 0), jobs)
        beside = simulate(seen, Observed(scheduler(policy, seen, jobs, 0), seen), jobs)
        assert list(alone.finished_at) == list(beside.finished_at)


def test_a_hot_model_gets_copies_and_loses_them_again() -> None:
    found, _ = observed(replace(workloads()["hot-spread"], jobs=4500), "affinity", 0)
    # It asks for 3.8 GPUs on average while it is hot, and for a tenth of one otherwise.
    assert found["copies_before"] <= 4
    assert found["copies_during"] >= 5
    assert found["copies_after"] <= 4


def test_a_sweep_over_all_models_does_not_flush_those_that_are_hot() -> None:
    workload = replace(workloads()["sweep"], jobs=3400)
    found, seen = observed(workload, "affinity", 0)
    _, during, after = sweep_periods(workload)
    assert seen.starts[-1].at >= after[2]
    assert found["hot_hit_during"] >= found["hot_hit_before"] - 0.1
    assert found["hot_hit_after"] >= found["hot_hit_before"] - 0.1
    # The sweep really happened: everything was asked for, most of it for the only time in an hour.
    swept = {each.job.model for each in seen.starts if during[1] <= each.at < during[2]}
    assert len(swept) >= 0.9 * workload.models
    assert len(hot_models(seen, 8)) == 8


@pytest.mark.parametrize("name", FIGURES)
def test_each_scenario_is_a_command_with_its_figure(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario", name, "--policy", "least-work-lru"], {}) == 0
    shown = capsys.readouterr().out
    expected = {
        "cold50": "loads_per_model",
        "hot-spread": "copies of the hot model",
        "sweep": "hit ratio of the hot set",
    }
    assert expected[name] in shown
    assert main(["scenario", name, "--policy", "least-work-lru", "--json"], {}) == 0
    assert json.loads(capsys.readouterr().out)["workload"] == name
