"""A replay beside a simulation of the same trace on the same fleet: how far the simulator can be believed."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from affinity.fleet import GIB
from bench.measures import Measures
from bench.models_file import BadInput, BenchModel
from bench.simulate import simulated
from bench.trace import TraceJob
from bench.world import FleetShape, LoadMode

COMPARED = ("mean_s", "p50_s", "p95_s", "p99_s", "max_wait_s", "loads", "hit_ratio", "load_share", "makespan_s")
PREFIX = "simulated_"


def shape_of(workers: Sequence[Mapping[str, Any]]) -> FleetShape:
    """The fleet that ``GET /workers`` shows, as the simulator can build it. Raises ``BadInput`` where it cannot.

    Live workers serve their residents while they load.
    """
    sizes = {int(worker["gpu"]["total_bytes"]) for worker in workers}
    if len(sizes) > 1:
        shown = ", ".join(f"{size / GIB:g}" for size in sorted(sizes))
        raise BadInput(f"--compare needs GPUs of one size, and these have {shown} GiB")
    if held := sorted({resident["model"] for worker in workers for resident in worker["residents"]}):
        raise BadInput(f"--compare needs a fleet that holds nothing yet, and it holds {held[0]}: start it anew")
    return FleetShape(len(workers), sizes.pop(), LoadMode.OVERLAP)


def beside(jobs: Sequence[TraceJob], models: Mapping[str, BenchModel], shape: FleetShape) -> Measures:
    """What the simulator says, under names of its own. Raises ``BadInput`` and ``PolicyFault``."""
    found = simulated(jobs, models, shape, "affinity", 0)
    return {f"{PREFIX}{name}": found[name] for name in COMPARED}


def table(found: Measures) -> Table:
    """Live and simulated, a row per measure, and the one over the other."""
    made = Table("measure", title="live beside simulated", title_justify="left")
    for heading in ("live", "simulated", "live over simulated"):
        made.add_column(heading, justify="right")
    for name in COMPARED:
        live, other = _number(found[name]), _number(found[f"{PREFIX}{name}"])
        made.add_row(name, f"{live:.4g}", f"{other:.4g}", f"{live / other:.3f}" if other else "-")
    return made


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
