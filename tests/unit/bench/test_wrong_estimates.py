"""The policy with wrong ideas of what models cost: it costs time, and never turns into standing still or thrashing."""

from dataclasses import replace
from random import Random

import pytest

from affinity.fleet import GIB
from bench.baselines import scheduler
from bench.models_file import BenchModel
from bench.simulator import Run, simulate
from bench.trace import TraceJob
from tests.support.simulated import a_world, jobs_of
from tests.support.simulated import run as run_of

WORKERS = 3
MODELS = [BenchModel(f"m{n}", 8 * GIB, 3.0) for n in range(12)]
"""A GPU of 24 GiB holds three of them: nine of twelve fit at once."""


def jobs(seed: int = 1, count: int = 600) -> list[TraceJob]:
    """Zipf-like demand at about half of what the fleet can run."""
    random = Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(MODELS))]
    at, arrivals = 0.0, []
    for _ in range(count):
        at += random.expovariate(1.5)
        (model,) = random.choices(MODELS, weights)
        arrivals.append((at, model.name, 1.0))
    return jobs_of(*arrivals)


def believing(load_factor: float = 1.0, size_factor: float = 1.0, true: list[BenchModel] | None = None) -> Run:
    """The run in the true world of a policy that believes in another one."""
    true = true or MODELS
    believed = [replace(m, load_s=m.load_s * load_factor, vram_bytes=int(m.vram_bytes * size_factor)) for m in MODELS]
    trace = jobs()
    decides = scheduler("affinity", a_world(believed, WORKERS), trace, 0)
    return simulate(a_world(true, WORKERS), decides, trace)


def mean_s(run: Run) -> float:
    return sum(run.latencies_s) / len(run.latencies_s)


@pytest.fixture(scope="module")
def knowing() -> Run:
    """The run of a policy that knows everything."""
    return believing()


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_load_times_believed_ten_times_too_short_or_too_long_cost_less_than_having_no_policy(
    knowing: Run, factor: float
) -> None:
    blind = mean_s(run_of("round-robin-lru", a_world(MODELS, WORKERS), jobs()))
    wrong = believing(load_factor=factor)
    assert min(wrong.finished_at) >= 0
    assert mean_s(wrong) < min(4 * mean_s(knowing), blind / 4)


def test_load_times_that_vary_tenfold_around_what_is_believed_are_lived_with(knowing: Run) -> None:
    random = Random(3)
    spread = [replace(m, load_s=m.load_s * 10 ** random.uniform(-0.5, 0.5)) for m in MODELS]
    assert mean_s(believing(true=spread)) < 3 * mean_s(knowing)


def test_models_believed_twice_as_large_are_served_from_less_room(knowing: Run) -> None:
    wrong = believing(size_factor=2.0)
    assert min(wrong.finished_at) >= 0
    assert mean_s(wrong) < 3 * mean_s(knowing)
