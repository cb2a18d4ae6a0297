"""May a model be asked for at all? Only if some live GPU could hold it when empty (law L9)."""

from collections.abc import Iterable

from affinity.errors import NeverFits
from affinity.fleet import GIB, FleetView, Gpu, ModelFacts


def fits_somewhere(facts: ModelFacts, fleet: FleetView) -> bool:
    """True if a live GPU could hold the model when empty, or nobody is there who could tell."""
    return not fleet.workers or fits_one_of(facts, (worker.gpu for worker in fleet.workers.values()))


def fits_one_of(facts: ModelFacts, gpus: Iterable[Gpu]) -> bool:
    """True if one of these GPUs could hold the model when empty."""
    return any(facts.on(gpu).footprint_bytes <= gpu.usable_bytes for gpu in gpus)


def check_fits(facts: ModelFacts, fleet: FleetView) -> None:
    """Raise ``NeverFits``, which names the model's size and the largest GPU, unless the model fits somewhere."""
    if fits_somewhere(facts, fleet):
        return
    largest = max(fleet.workers.values(), key=lambda w: (w.gpu.usable_bytes, w.worker))
    raise NeverFits(
        f"model {facts.model} takes {facts.on(largest.gpu).footprint_bytes / GIB:.1f} GiB and the largest GPU "
        f"({largest.gpu.name} of worker {largest.worker}) offers {largest.gpu.usable_bytes / GIB:.1f} GiB: "
        "add a larger GPU or use a smaller model"
    )
