"""What this worker learns of models on its type of GPU: footprint, load time, execution time."""

from collections.abc import Mapping
from dataclasses import replace

from affinity.fleet import Measurement, ModelFacts
from affinity.policy.facts import facts_of
from models.catalog import Catalog

EWMA_WEIGHT = 0.2
"""Share of the newest value in a running mean."""

OUT_OF_VRAM_GROWTH = 1.25
"""A footprint that turned out too small grows by this much before the model is tried again."""

WORTH_TELLING = 0.1
"""Relative change of an execution time below which others need not hear of it."""


class Learning:
    """Facts for the plan: the catalogue's, corrected by what the fleet has measured and by what we measure."""

    def __init__(self, catalog: Catalog, gpu_name: str) -> None:
        self._catalog = catalog
        self._gpu_name = gpu_name
        self._known: dict[tuple[str, str], Measurement] = {}
        self._untold: set[str] = set()
        self._facts: Mapping[str, ModelFacts] | None = None

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        """Facts by model."""
        if self._facts is None:
            self._facts = facts_of(self._catalog, self._known)
        return self._facts

    def adopt(self, learned: Mapping[tuple[str, str], Measurement]) -> None:
        """Take over what others measured; what we have not told yet stays ours."""
        merged = {**learned, **{key: self._known[key] for m in self._untold if (key := (m, self._gpu_name))}}
        if merged != self._known:
            self._known = merged
            self._facts = None

    def loaded(self, model: str, footprint_bytes: int, load_s: float) -> None:
        """A load ended; the newest footprint counts, times are averaged."""
        known = self._known.get((model, self._gpu_name))
        seconds = load_s if known is None else _mean(known.load_s, load_s)
        self._learn(model, replace(self._here(model), footprint_bytes=footprint_bytes, load_s=seconds))

    def ran(self, model: str, exec_s: float, footprint_bytes: int) -> None:
        """A batch ended. The first one after a load may have grown the model's share of memory."""
        here = self._here(model)
        measured = (model, self._gpu_name) in self._known
        seconds = _mean(here.exec_s, exec_s) if measured else exec_s
        alike = footprint_bytes == here.footprint_bytes and abs(seconds - here.exec_s) <= WORTH_TELLING * here.exec_s
        self._learn(model, replace(here, exec_s=seconds, footprint_bytes=footprint_bytes), tell=not alike)

    def out_of_vram(self, model: str) -> None:
        """The footprint was too small."""
        here = self._here(model)
        self._learn(model, replace(here, footprint_bytes=int(here.footprint_bytes * OUT_OF_VRAM_GROWTH)))

    def untold(self) -> Mapping[str, Measurement]:
        """What others should hear of."""
        return {model: self._known[model, self._gpu_name] for model in sorted(self._untold)}

    def told(self, model: str) -> None:
        """Others know."""
        self._untold.discard(model)

    def _here(self, model: str) -> Measurement:
        facts = self.facts[model]
        return facts.measured.get(self._gpu_name, facts.declared)

    def _learn(self, model: str, measurement: Measurement, tell: bool = True) -> None:
        self._known[model, self._gpu_name] = measurement
        self._facts = None
        if tell:
            self._untold.add(model)


def _mean(before: float, value: float) -> float:
    return before + EWMA_WEIGHT * (value - before)
