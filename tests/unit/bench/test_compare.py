"""A replay beside a simulation: the simulated fleet is the one that is there, or the comparison is refused."""

from typing import Any

import pytest
from rich.console import Console

from affinity.fleet import GIB
from bench.compare import COMPARED, beside, shape_of, table
from bench.models_file import BadInput
from bench.world import FleetShape, LoadMode
from tests.support.simulated import a_model, jobs_of


def a_worker(gib: float = 24, *residents: str) -> dict[str, Any]:
    return {"gpu": {"total_bytes": int(gib * GIB)}, "residents": [{"model": model} for model in residents]}


def test_the_simulated_fleet_is_as_large_and_loads_beside_execution() -> None:
    assert shape_of([a_worker(), a_worker()]) == FleetShape(2, 24 * GIB, LoadMode.OVERLAP)


def test_a_fleet_that_the_simulator_cannot_build_is_refused() -> None:
    with pytest.raises(BadInput, match="GPUs of one size, and these have 16, 24 GiB"):
        shape_of([a_worker(24), a_worker(16)])
    with pytest.raises(BadInput, match="holds nothing yet, and it holds a: start it anew"):
        shape_of([a_worker(24, "a")])


def test_what_is_compared_stands_side_by_side() -> None:
    jobs, models = jobs_of((0.0, "a", 1.0), (0.5, "a", 1.0)), {"a": a_model("a")}
    simulated = beside(jobs, models, FleetShape(1, 24 * GIB, LoadMode.OVERLAP))
    assert set(simulated) == {f"simulated_{name}" for name in COMPARED}
    assert (simulated["simulated_makespan_s"], simulated["simulated_hit_ratio"]) == (4.0, 0.5)
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table({**simulated, **dict.fromkeys(COMPARED, 5.0)}))
    makespan = next(line for line in shown.get().splitlines() if "makespan_s" in line)
    assert [cell.strip() for cell in makespan.split("│")[1:-1]] == ["makespan_s", "5", "4", "1.250"]
