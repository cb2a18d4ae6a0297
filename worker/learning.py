"""What this worker learns of models on its type of GPU: footprint, load time, execution time."""

from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from math import ceil

from affinity.errors import StoreUnavailable
from affinity.fleet import Measurement, ModelFacts
from affinity.io.ports import FleetStore
from affinity.policy.facts import facts_of
from models.catalog import Catalog
from worker.host_cache import Tier
from worker.services import Services

EWMA_WEIGHT = 0.2
"""Share of the newest value in a running mean."""

OUT_OF_VRAM_GROWTH = 1.25
"""A footprint that turned out too small grows by this much before the model is tried again."""

DID_NOT_FIT_GROWTH = 1.5
"""The same for one that did not even load. Twice in a row makes up for a size declared at half of what it is: the third
failure in a row counts as hopeless."""

DID_NOT_FIT_MORE = 1.1
"""It takes more than the room it was given; by how much nobody knows."""

RECENT_LOADS = 20
LOW_SHARE, HIGH_SHARE = 0.2, 0.9
"""Load times vary tenfold, with a busy disk or a cold page cache. The estimate stays within the middle of the last
ones, so that one that took very long does not make the model look dear for a long time."""

WORTH_TELLING = 0.1
"""Relative change of a time below which others need not hear of it."""


class Learning:
    """Facts for the plan: the catalogue's, corrected by what the fleet has measured and by what we measure.

    ``rates`` are arrivals per second by model, as of the last heartbeat.
    """

    def __init__(self, catalog: Catalog, gpu_name: str) -> None:
        self.rates: Mapping[str, float] = {}
        self._catalog = catalog
        self._gpu_name = gpu_name
        self._theirs: Mapping[tuple[str, str], Measurement] = {}
        self._ours: dict[str, Measurement] = {}
        self._told: dict[str, Measurement] = {}
        self._recent_s: defaultdict[tuple[str, Tier], deque[float]] = defaultdict(lambda: deque(maxlen=RECENT_LOADS))
        self._facts = dict(facts_of(catalog, {}))

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        """Facts by model. What we measured ourselves counts before what others did."""
        return self._facts

    def adopt(self, learned: Mapping[tuple[str, str], Measurement]) -> None:
        """Take over what others measured."""
        if learned != self._theirs:
            self._theirs = dict(learned)
            ours = {
                key: _completed(found, learned.get(key))
                for model, found in self._ours.items()
                if (key := (model, self._gpu_name))
            }
            self._facts = dict(facts_of(self._catalog, {**learned, **ours}))

    def footprint_bytes(self, model: str) -> int:
        """What the model takes here, as far as is known."""
        return self._here(model).footprint_bytes

    def loaded(self, model: str, footprint_bytes: int, load_s: float, tier: Tier) -> None:
        """A load ended. Its time counts for its tier alone, and is averaged.

        Of a model that has run somewhere, loading shows only a part of the footprint: the rest is not forgotten. What
        is too much is corrected by the first batch.
        """
        here = self._here(model)
        if self._measured(model):
            footprint_bytes = max(footprint_bytes, here.footprint_bytes)
        if tier is Tier.HOST:
            seconds = self._typical_s(model, tier, here.reload_s, load_s)
            self._learn(model, replace(here, footprint_bytes=footprint_bytes, reload_s=seconds))
        else:
            seconds = self._typical_s(model, tier, here.load_s if self._measured(model) else None, load_s)
            self._learn(model, replace(here, footprint_bytes=footprint_bytes, load_s=seconds))

    def ran(self, model: str, exec_s: float, footprint_bytes: int) -> None:
        """A batch ended. The first one after a load may have grown the model's share of memory."""
        here = self._here(model)
        # A load alone has measured no execution: the first one replaces the guess, it is not averaged into it.
        guessed = here.exec_s == self.facts[model].declared.exec_s
        seconds = exec_s if guessed else _mean(here.exec_s, exec_s)
        self._learn(model, replace(here, exec_s=seconds, footprint_bytes=footprint_bytes))

    def out_of_vram(self, model: str, free_bytes: int, usable_bytes: int) -> None:
        """A job of a loaded model ran out of memory, though ``free_bytes`` were free beside it.

        Its footprint is never taken for larger than the whole GPU: one job that fits nowhere would otherwise have its
        model refused as one that fits nowhere.
        """
        here = self._here(model)
        had_bytes = here.footprint_bytes + max(0, free_bytes)
        grown = int(max(here.footprint_bytes * OUT_OF_VRAM_GROWTH, had_bytes * DID_NOT_FIT_MORE))
        self._learn(model, replace(here, footprint_bytes=max(here.footprint_bytes, min(grown, usable_bytes))))

    async def keep_up(self, services: Services) -> None:
        """``exchange``, and ask for the rates. Where the store is away, at the next heartbeat."""
        with suppress(StoreUnavailable):
            await self.exchange(services.fleet)
            self.rates = await services.store.rates()

    async def exchange(self, fleet: FleetStore) -> None:
        """Take over what others measured, and tell them what we did. Raises ``StoreUnavailable``."""
        self.adopt(await fleet.learned())
        for model, measurement in self.untold().items():
            await fleet.learn(model, self._gpu_name, measurement)
            self.told(model, measurement)

    def did_not_fit(self, model: str, free_bytes: int, usable_bytes: int) -> None:
        """It did not load into ``free_bytes``. Not taken for larger than the whole GPU before it had all of that."""
        here = self._here(model)
        grown = int(max(here.footprint_bytes * DID_NOT_FIT_GROWTH, free_bytes * DID_NOT_FIT_MORE))
        if free_bytes < usable_bytes:
            grown = max(here.footprint_bytes, min(grown, usable_bytes))
        self._learn(model, replace(here, footprint_bytes=grown))

    def untold(self) -> Mapping[str, Measurement]:
        """What others should hear of: all that has changed by more than a little since we told it."""
        return {model: ours for model, ours in sorted(self._ours.items()) if not _alike(ours, self._told.get(model))}

    def told(self, model: str, measurement: Measurement) -> None:
        """Others know this of a model."""
        self._told[model] = measurement

    def _here(self, model: str) -> Measurement:
        facts = self.facts[model]
        return facts.measured.get(self._gpu_name, facts.declared)

    def _typical_s(self, model: str, tier: Tier, before_s: float | None, load_s: float) -> float:
        """The running mean of load times from a tier, held between the low and the high ones of the last loads."""
        recent_s = self._recent_s[model, tier]
        if before_s is not None and not recent_s:
            recent_s.append(before_s)  # What others measured.
        recent_s.append(load_s)
        mean_s = load_s if before_s is None else _mean(before_s, load_s)
        return min(max(mean_s, _quantile(recent_s, LOW_SHARE)), _quantile(recent_s, HIGH_SHARE))

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
    if ours.reload_s is not None and told.reload_s is None:
        return False
    pairs = ((ours.load_s, told.load_s), (ours.exec_s, told.exec_s), (ours.reload_s or 0.0, told.reload_s or 0.0))
    return all(abs(new - old) <= WORTH_TELLING * old for new, old in pairs)


def _completed(ours: Measurement, theirs: Measurement | None) -> Measurement:
    """What we measured, and a load from the host's memory as others measured it where we have not."""
    return ours if theirs is None or ours.reload_s is not None else replace(ours, reload_s=theirs.reload_s)


def _quantile(values: Collection[float], share: float) -> float:
    return sorted(values)[ceil(share * len(values)) - 1]


def _mean(before: float, value: float) -> float:
    return before + EWMA_WEIGHT * (value - before)
