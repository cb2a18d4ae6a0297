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
    """Raise ``NeverFits`` unless the model fits somewhere."""
    if not fits_somewhere(facts, fleet):
        raise never_fits(facts, fleet)


def never_fits(facts: ModelFacts, fleet: FleetView) -> NeverFits:
    """What is to be said of a model that fits none of these GPUs, of which there is at least one.

    It names the model's size and where that comes from, the largest GPU, and what to change.
    """
    largest = max(fleet.workers.values(), key=lambda w: (w.gpu.usable_bytes, w.worker))
    gpu, gib = largest.gpu, facts.on(largest.gpu).footprint_bytes / GIB
    remedy = "add a larger GPU or use a smaller model"
    if gpu.name in facts.measured:
        takes = f"takes {gib:.1f} GiB as measured on that type of GPU (where vram_gib no longer counts)"
    else:
        takes = f"takes {gib:.1f} GiB by the catalogue (vram_gib of its entry, else the size of its weights)"
        remedy = f"correct vram_gib if that is too much; else {remedy}"
    return NeverFits(
        f"model {facts.model} {takes}, and the largest GPU ({gpu.name} of worker {largest.worker}) offers "
        f"{gpu.usable_bytes / GIB:.1f} GiB: {remedy}"
    )
