"""The board: the fleet and its demand, indexed for planning and kept up to date change by change.

It decides nothing. Whatever a decision asks is answered without going through all workers or all models: that is what
lets a thousand workers and ten thousand models be planned for.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping

from affinity.fleet import Demand, Gpu, ModelFacts, ResidencyState, WorkerReport

NOBODY: Mapping[str, WorkerReport] = {}


class Board:
    """What is known at ``now``. ``demand`` has every model that is asked for, ``waiting`` those with queued jobs.

    ``facts`` is looked up anew each time: its owner may change it. ``overlap``: a GPU that loads can serve meanwhile.
    """

    def __init__(self, facts: Mapping[str, ModelFacts], overlap: bool = True) -> None:
        self.facts = facts
        self.overlap = overlap
        self.now = 0.0
        self.workers: dict[str, WorkerReport] = {}
        self.claims: Mapping[str, str] = {}
        self.demand: dict[str, Demand] = {}
        self.waiting: dict[str, Demand] = {}
        self._holders: dict[str, dict[str, WorkerReport]] = {}
        self._free: dict[str, set[str]] = {}
        self._loaders: dict[str, set[str]] = {}
        self._cachers: dict[str, set[str]] = {}
        self._refusers: dict[str, set[str]] = {}
        self._gpus: dict[tuple[str, int], Gpu] = {}
        self._counts: Counter[tuple[str, int]] = Counter()

    def report(self, report: WorkerReport) -> None:
        """Take in what a worker says of itself; it replaces what it said before."""
        if (before := self.workers.get(report.worker)) is not None:
            self._forget(before)
        self.workers[report.worker] = report
        free = self.can_serve(report)
        for resident in report.residents:
            if resident.state is not ResidencyState.DRAINING:
                self._holders.setdefault(resident.model, {})[report.worker] = report
            if resident.state is ResidencyState.LOADING:
                self._loaders.setdefault(resident.model, set()).add(report.worker)
            elif free and resident.state is ResidencyState.READY:
                self._free.setdefault(resident.model, set()).add(report.worker)
        for model in report.cached:
            self._cachers.setdefault(model, set()).add(report.worker)
        for refusal in report.refusals:
            self._refusers.setdefault(refusal.model, set()).add(report.worker)
        if before is None or before.gpu is not report.gpu:
            self._count(report.gpu)
            if before is not None:
                self._discount(before.gpu)

    def lose(self, worker: str) -> None:
        """That worker is gone."""
        report = self.workers.pop(worker)
        self._forget(report)
        self._discount(report.gpu)

    def ask(self, demand: Demand) -> None:
        """Take in the demand for a model; it replaces what was known of it."""
        self.demand[demand.model] = demand
        if demand.queued > 0:
            self.waiting[demand.model] = demand
        else:
            self.waiting.pop(demand.model, None)

    def drop(self, model: str) -> None:
        """Nobody asks for that model any more."""
        self.demand.pop(model, None)
        self.waiting.pop(model, None)

    def can_serve(self, report: WorkerReport) -> bool:
        """True if the worker could start a batch now."""
        return not (report.busy or report.draining or (report.loading and not self.overlap))

    @property
    def held(self) -> KeysView[str]:
        """Models that are ready or loading somewhere."""
        return self._holders.keys()

    def holders(self, model: str) -> Mapping[str, WorkerReport]:
        """Workers on which the model is ready or loading, by id, in no order."""
        return self._holders.get(model, NOBODY)

    def free_holders(self, model: str) -> Collection[str]:
        """Workers that could serve the model at once, in no order."""
        return self._free.get(model, ())

    def loaders(self, model: str) -> Collection[str]:
        """Workers that are loading the model, in no order."""
        return self._loaders.get(model, ())

    def cachers(self, model: str) -> Iterable[str]:
        """Workers whose host keeps the model's weights, in no order."""
        return self._cachers.get(model, ())

    def refused(self, model: str) -> bool:
        """True if some worker's last load of it failed not long ago."""
        return model in self._refusers

    def gpus(self) -> Iterator[Gpu]:
        """One GPU of each kind there is: of each type and usable size."""
        return iter(self._gpus.values())

    def _forget(self, report: WorkerReport) -> None:
        name = report.worker
        for resident in report.residents:
            if (holders := self._holders.get(resident.model)) is not None:
                holders.pop(name, None)
                if not holders:
                    del self._holders[resident.model]
            _without(self._free, resident.model, name)
            _without(self._loaders, resident.model, name)
        for model in report.cached:
            _without(self._cachers, model, name)
        for refusal in report.refusals:
            _without(self._refusers, refusal.model, name)

    def _count(self, gpu: Gpu) -> None:
        kind = (gpu.name, gpu.usable_bytes)
        self._gpus[kind] = gpu
        self._counts[kind] += 1

    def _discount(self, gpu: Gpu) -> None:
        kind = (gpu.name, gpu.usable_bytes)
        self._counts[kind] -= 1
        if not self._counts[kind]:
            del self._counts[kind], self._gpus[kind]


def _without(index: dict[str, set[str]], model: str, worker: str) -> None:
    """Take a worker out of one model's entry, and the entry out of the index with the last one."""
    if (entry := index.get(model)) is not None:
        entry.discard(worker)
        if not entry:
            del index[model]
