"""From what the catalogue declares and what was measured to what placement knows of models and their demand."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from affinity.fleet import GIB, Demand, FleetView, Measurement, ModelFacts

UNKNOWN_FOOTPRINT_BYTES = GIB
"""A model that declares no size and has never run: a guess that its first load corrects."""

LOAD_BANDWIDTH_BYTES_S = 2 * GIB
"""Assumed until a load was measured: what the disk of a GPU server reads per second."""

UNKNOWN_EXEC_S = 0.1


class Declared(Protocol):
    """What a catalogue entry says that matters here."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def vram_bytes(self) -> int | None:
        """First guess at its footprint."""

    @property
    def max_batch(self) -> int:
        """Most jobs in one batch."""

    @property
    def pinned(self) -> bool:
        """Never a victim."""


def facts_of(entries: Iterable[Declared], learned: Mapping[tuple[str, str], Measurement]) -> Mapping[str, ModelFacts]:
    """Facts by model name. ``learned`` is keyed by ``(model, GPU type)``."""
    measured: defaultdict[str, dict[str, Measurement]] = defaultdict(dict)
    for (model, gpu), measurement in learned.items():
        measured[model][gpu] = measurement
    return MappingProxyType(
        {
            entry.name: ModelFacts(
                model=entry.name,
                declared=_guess(entry.vram_bytes),
                max_batch=entry.max_batch,
                pinned=entry.pinned,
                measured=MappingProxyType(measured[entry.name]),
            )
            for entry in entries
        }
    )


def _guess(vram_bytes: int | None) -> Measurement:
    footprint_bytes = UNKNOWN_FOOTPRINT_BYTES if vram_bytes is None else vram_bytes
    return Measurement(footprint_bytes, footprint_bytes / LOAD_BANDWIDTH_BYTES_S, UNKNOWN_EXEC_S)


def with_rates(demand: Iterable[Demand], rates: Mapping[str, float], fleet: FleetView) -> tuple[Demand, ...]:
    """The demand with arrival rates: of what is queued, and of what is resident somewhere and might be evicted."""
    queued = {d.model: replace(d, rate=rates.get(d.model, 0.0)) for d in demand}
    resident = {r.model for worker in fleet.workers.values() for r in worker.residents} - queued.keys()
    idle = (Demand(model, 0, 0.0, 0.0, rates[model]) for model in sorted(resident & rates.keys()))
    return (*queued.values(), *idle)
