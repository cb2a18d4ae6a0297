"""Fleets and demand made by hand for the tests of the policy: sizes in GiB, instants as seconds before ``NOW``."""

from typing import Any

from affinity.fleet import GIB, Demand, Gpu, Measurement, ModelFacts, Residency, ResidencyState, WorkerReport
from affinity.policy.tuning import Tuning

NOW = 1_000_000.0
LOAD_S = 4.0
TYPE = "Fake"
"""The type of every GPU."""

RULES = Tuning(
    first_rent=2.0,
    rent=2.0,
    scarce=10.0,
    beside=4.0,
    memory_s=60.0,
    young_loads=1.0,
    overdue_loads=15.0,
    amortised_loads=10.0,
    misfit_s=60.0,
)
"""Numbers of the tests' own: what the policy is tuned to changes no rule."""


def resident(
    model: str,
    gib: float = 4.0,
    state: ResidencyState = ResidencyState.READY,
    *,
    used_s: float = 0.0,
    loaded_s: float = 1000.0,
    running: int = 0,
    pinned: bool = False,
) -> Residency:
    """Resident that was used and loaded so long ago."""
    return Residency(model, state, int(gib * GIB), NOW - loaded_s, NOW - used_s, running, pinned)


def worker(name: str, *residents: Residency, gib: float = 8.0, **more: Any) -> WorkerReport:
    """A worker with a GPU of that size. ``more``: other fields of its report."""
    gpu = Gpu(f"GPU-{name}", 0, TYPE, int(gib * GIB))
    return WorkerReport(name, "node", 1, 1, NOW, gpu, residents, **more)


def waiting(model: str, *waits_s: float, rate: float = 0.0) -> Demand:
    """Jobs that have waited so long."""
    return Demand(model, len(waits_s), NOW - max(waits_s), sum(NOW - waited_s for waited_s in waits_s), rate)


def asked(model: str, rate: float) -> Demand:
    """Asked for so often, with nothing queued."""
    return Demand(model, 0, 0.0, 0.0, rate)


def known(load_s: float = LOAD_S, exec_s: float = 1.0, max_batch: int = 4, **gib: float) -> dict[str, ModelFacts]:
    """Models of a size each, measured on the one type of GPU."""
    measured = {name: Measurement(int(size * GIB), load_s, exec_s) for name, size in gib.items()}
    return {name: ModelFacts(name, each, max_batch, measured={TYPE: each}) for name, each in measured.items()}
