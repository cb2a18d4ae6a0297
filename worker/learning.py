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
"""Relative change of a time below which others need not hear of it."""


class Learning:
    """Facts for the plan: the catalogue's, corrected by what the fleet has measured and by what we measure."""

    def __init__(self, catalog: Catalog, gpu_name: str) -> None:
        self._catalog = catalog
        self._gpu_name = gpu_name
        self._theirs: Mapping[tuple[str, str], Measurement] = {}
        self._ours: dict[str, Measurement] = {}
        self._told: dict[str, Measurement] = {}
        self._facts = dict(facts_of(catalog, {}))

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        """Facts by model. What we measured ourselves counts before what others did."""
        return self._facts

    def adopt(self, learned: Mapping[tuple[str, str], Measurement]) -> None:
        """Take over what others measured."""
        if learned != self._theirs:
            self._theirs = dict(learned)
            ours = {(model, self._gpu_name): found for model, found in self._ours.items()}
            self._facts = dict(facts_of(self._catalog, {**learned, **ours}))

    def loaded(self, model: str, footprint_bytes: int, load_s: float) -> None:
        """A load ended; the newest footprint counts, times are averaged."""
        here = self._here(model)
        seconds = _mean(here.load_s, load_s) if self._measured(model) else load_s
        self._learn(model, replace(here, footprint_bytes=footprint_bytes, load_s=seconds))

    def ran(self, model: str, exec_s: float, footprint_bytes: int) -> None:
        """A batch ended. The first one after a load may have grown the model's share of memory."""
        here = self._here(model)
        seconds = _mean(here.exec_s, exec_s) if self._measured(model) else exec_s
        self._learn(model, replace(here, exec_s=seconds, footprint_bytes=footprint_bytes))

    def out_of_vram(self, model: str) -> None:
        """The footprint was too small."""
        here = self._here(model)
        self._learn(model, replace(here, footprint_bytes=int(here.footprint_bytes * OUT_OF_VRAM_GROWTH)))

    def untold(self) -> Mapping[str, Measurement]:
        """What others should hear of: all that has changed by more than a little since we told it."""
        return {model: ours for model, ours in sorted(self._ours.items()) if not _alike(ours, self._told.get(model))}

    def told(self, model: str, measurement: Measurement) -> None:
        """Others know this of a model."""
        self._told[model] = measurement

    def _here(self, model: str) -> Measurement:
        facts = self.facts[model]
        return facts.measured.get(self._gpu_name, facts.declared)

    def _measured(self, model: str) -> bool:
        return self._gpu_name in self.facts[model].measured

    def _learn(self, model: str, measurement: Measurement) -> None:
        self._ours[model] = measurement
        facts = self._facts[model]
        # One entry only: this happens after every batch, and catalogues have thousands.
        self._facts[model] = replace(facts, measured={**facts.measured, self._gpu_name: measurement})


def _alike(ours: Measurement, told: Measurement | None) -> bool:
    if told is None or ours.footprint_bytes != told.footprint_bytes:
        return False
    pairs = ((ours.load_s, told.load_s), (ours.exec_s, told.exec_s))
    return all(abs(new - old) <= WORTH_TELLING * old for new, old in pairs)


def _mean(before: float, value: float) -> float:
    return before + EWMA_WEIGHT * (value - before)
