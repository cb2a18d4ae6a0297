"""The committed workloads are what their parameters say, and the same for the same seed."""

import statistics
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from affinity.fleet import GIB
from bench.arrivals import ARRIVALS, HOUR_S, Sampler, lognormal
from bench.workload import workloads
from bench.world import LoadMode

SMALL = 3000


@pytest.mark.parametrize("name", sorted(workloads()))
def test_a_workload_is_the_same_for_the_same_seed_and_another_for_another(name: str) -> None:
    workload = replace(workloads()[name], jobs=300)
    assert workload.generate(1) == workload.generate(1)
    if name != "cold50":
        assert workload.generate(1)[0] != workload.generate(2)[0]


@pytest.mark.parametrize("name", sorted(workloads()))
def test_a_workload_is_in_order_of_time_and_every_model_fits_its_fleet(name: str) -> None:
    workload = replace(workloads()[name], jobs=300)
    jobs, models = workload.generate(0)
    assert [job.number for job in jobs] == list(range(len(jobs)))
    assert all(earlier.arrival_s <= later.arrival_s for earlier, later in pairwise(jobs))
    assert {job.model for job in jobs} <= set(models)
    assert len(models) == workload.models
    assert all(model.vram_bytes <= workload.shape.vram_bytes for model in models.values())


@pytest.mark.parametrize("name", ["studio", "community", "marketplace", "adapters", "live16", "all-fit"])
def test_the_load_is_the_one_asked_for(name: str) -> None:
    workload = replace(workloads()[name], jobs=SMALL)
    jobs, _ = workload.generate(3)
    offered = sum(job.exec_s for job in jobs) / (jobs[-1].arrival_s * workload.workers)
    assert offered == pytest.approx(workload.utilisation, rel=0.08)


@pytest.mark.parametrize(("arrivals", "cv"), [("poisson", 1.0), ("gamma-cv3", 3.0), ("gamma-cv10", 10.0)])
def test_gaps_vary_as_much_as_they_should(arrivals: str, cv: float) -> None:
    at = [0.0, *ARRIVALS[arrivals](2.0, 200_000, Random(1))]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    mean = statistics.fmean(gaps)
    assert mean == pytest.approx(0.5, rel=0.1)
    assert statistics.pstdev(gaps) / mean == pytest.approx(cv, rel=0.1)


def test_each_hour_has_a_peak_of_four_to_nine_times_the_mean() -> None:
    at = list(ARRIVALS["peaks"](1.0, 50_000, Random(2)))
    assert len(at) == 50_000
    hours = int(at[-1] // HOUR_S)
    assert 50_000 / at[-1] == pytest.approx(1.0, rel=0.05)
    for hour in range(hours):
        minutes = Counter(int(each // 60) for each in at if each // HOUR_S == hour)
        assert 3 <= statistics.fmean(sorted(minutes.values())[-4:]) / 60 <= 11


def test_popularity_falls_as_zipf_says() -> None:
    sampler = Sampler([f"m{n}" for n in range(50)], 1.0, 0.0, Random(3))
    drawn = Counter(sampler.draw(0.0) for _ in range(60_000))
    assert drawn["m0"] / drawn["m4"] == pytest.approx(5, rel=0.15)
    assert drawn["m0"] / drawn["m9"] == pytest.approx(10, rel=0.15)


def test_popularity_drifts_as_often_as_asked() -> None:
    names = [f"m{n}" for n in range(100)]
    sampler = Sampler(names, 1.4, 0.08, Random(4))
    days = 200
    before, swaps = list(names), 0
    for hour in range(days * 24):
        sampler.draw(hour * 3600.0)
        swaps += sum(1 for old, new in zip(before[:20], sampler._places[:20], strict=True) if old != new)
        before = list(sampler._places)
    assert swaps / days == pytest.approx(1.6, rel=0.2)


def test_lognormal_draws_have_the_mean_and_the_spread_asked_for() -> None:
    rng = Random(5)
    drawn = [lognormal(29.0, 0.72, rng) for _ in range(100_000)]
    assert statistics.fmean(drawn) == pytest.approx(29.0, rel=0.02)
    assert statistics.pstdev(drawn) / statistics.fmean(drawn) == pytest.approx(0.72, rel=0.04)
    assert lognormal(5.0, 0.0, rng) == 5.0


def test_load_times_are_bimodal_with_the_mean_of_the_design() -> None:
    _, models = workloads()["marketplace"].generate(0)
    loads = [model.load_s for model in models.values()]
    short = [load for load in loads if load < 4.0]
    assert len(short) / len(loads) == pytest.approx(0.36, abs=0.02)
    assert statistics.fmean(short) == pytest.approx(2.9, rel=0.02)
    assert statistics.fmean(loads) == pytest.approx(0.36 * 2.9 + 0.64 * 32.0, rel=0.03)


def test_the_live_comparison_is_the_one_of_the_issue() -> None:
    workload = workloads()["live16"]
    jobs, models = workload.generate(0)
    assert sum(model.vram_bytes for model in models.values()) == 116 * GIB
    assert min(m.vram_bytes for m in models.values()) == 4 * GIB
    assert max(m.vram_bytes for m in models.values()) == 16 * GIB
    assert all(m.load_s == pytest.approx(0.1 * m.vram_bytes / GIB) for m in models.values())
    assert len(jobs) == 1500
    assert {job.exec_s for job in jobs} == {0.04}
    assert workload.rate == pytest.approx(60.0)
    assert (workload.workers, workload.worker_vram_gib, workload.load_mode) == (4, 24.0, LoadMode.OVERLAP)


def test_cold_models_are_asked_for_in_turn() -> None:
    jobs, models = workloads()["cold50"].generate(0)
    assert [job.model for job in jobs] == list(models) * 20


def test_the_sweep_asks_for_every_model_once_more() -> None:
    workload = workloads()["sweep"]
    jobs, models = workload.generate(0)
    without, _ = replace(workload, sweep_at_s=None).generate(0)
    assert len(jobs) == len(without) + len(models)
    more = Counter(job.model for job in jobs) - Counter(job.model for job in without)
    assert more == Counter(dict.fromkeys(models, 1))


def test_one_model_is_hot_for_an_hour() -> None:
    workload = workloads()["hot-spread"]
    jobs, models = workload.generate(0)
    hot = next(iter(models))

    def share(from_s: float, until_s: float) -> float:
        within = [job.model for job in jobs if from_s <= job.arrival_s < until_s]
        return within.count(hot) / len(within)

    assert share(0.0, workload.hot_from_s) < 0.25
    assert share(workload.hot_from_s, workload.hot_until_s) > 0.75
    assert share(workload.hot_until_s, jobs[-1].arrival_s) < 0.25


def test_where_affinity_cannot_help_it_really_cannot() -> None:
    light, fits = workloads()["light-loads"], workloads()["all-fit"]
    assert light.load == pytest.approx(0.05 * light.exec_mean_s)
    assert fits.models * fits.vram_gib[0] <= fits.worker_vram_gib
