"""What a worker knows of its GPU. One task owns it; every change is one synchronous method, so none is half done.

The ledger is the truth that lets a load start; the report is what others see of it.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from affinity.errors import InvariantBroken
from affinity.fleet import Gpu, Refusal, Residency, ResidencyState, WorkerReport
from affinity.policy import Load, VramLedger
from worker.services import Identity

REFUSE_HOPELESS_S = 60.0
"""A model that cannot be loaded here is not tried again for so long; then its files may have been mended."""

REFUSE_TRANSIENT_S = 2.0
HOPELESS_AFTER = 3
"""Failures in a row after which a load that might have worked counts as hopeless."""


class GpuState:
    """Residents, ledger and refusals of one GPU."""

    def __init__(self, identity: Identity, gpu: Gpu, lease_s: float) -> None:
        self.gpu = gpu
        self.ledger = VramLedger(gpu.capacity_bytes)
        self.residents: dict[str, Residency] = {}
        self.draining = False
        self._identity = identity
        self._lease_s = lease_s
        self._refusals: dict[str, Refusal] = {}
        self._served_s = 0.0
        self._sequence = 0

    def observe(self, gpu: Gpu) -> None:
        """Take over what the driver says now; memory of other processes shrinks what models may fill.

        So does memory that our executor has freed and the driver still counts: a model that is loaded into it would
        run out of memory. The reserve is there for what the executor holds besides its models.
        """
        ours = gpu.used_bytes - gpu.foreign_bytes
        unreturned = max(0, ours - self.ledger.held_bytes - gpu.reserve_bytes)
        self.gpu = replace(gpu, unreturned_bytes=unreturned)
        self.ledger = self.ledger.with_capacity(self.gpu.capacity_bytes)

    def ready(self, model: str) -> bool:
        """True if the model can serve now."""
        resident = self.residents.get(model)
        return resident is not None and resident.state is ResidencyState.READY

    def ready_models(self) -> tuple[str, ...]:
        """Models that can serve now, by name."""
        return tuple(sorted(m for m in self.residents if self.ready(m)))

    def alone(self, model: str) -> bool:
        """True if nothing else, ours or others', is on the GPU."""
        return self.residents.keys() <= {model} and self.gpu.foreign_bytes == 0

    def drain_victims(self, victims: Iterable[str]) -> None:
        """Victims take no new work from here on; their memory stays counted until they are really gone."""
        for model in victims:
            if self.residents[model].running:
                raise InvariantBroken(f"{model} runs and cannot be evicted")
            self.residents[model] = replace(self.residents[model], state=ResidencyState.DRAINING)

    def retire(self, model: str) -> None:
        """The model takes no new work from here on; unlike a victim, it may still run what it has."""
        self.residents[model] = replace(self.residents[model], state=ResidencyState.DRAINING)

    def leaving_models(self) -> tuple[str, ...]:
        """Models that take no new work any more, by name."""
        return tuple(sorted(m for m, r in self.residents.items() if r.state is ResidencyState.DRAINING))

    def pin(self, models: Collection[str]) -> bool:
        """Exactly these are pinned, of those that are here. Says whether that is new."""
        changed = [r for m, r in self.residents.items() if r.pinned != (m in models)]
        for resident in changed:
            self.residents[resident.model] = replace(resident, pinned=not resident.pinned)
        return bool(changed)

    def evicted(self, model: str) -> None:
        """The model is gone. Its memory is free once the driver says so, in the next ``observe``."""
        self.ledger = self.ledger.release(model)
        del self.residents[model]
        self.observe(self.gpu)

    def loading(self, load: Load, pinned: bool, now: float) -> None:
        """Reserve room for a model. ``OutOfVram`` if there is none: the plan was made from a stale view."""
        self.ledger = self.ledger.admit(load.model, load.footprint_bytes)
        self.observe(self.gpu)
        self.residents[load.model] = Residency(
            load.model, ResidencyState.LOADING, load.footprint_bytes, loaded_at=now, last_used_at=now, pinned=pinned
        )

    def loaded(self, model: str, footprint_bytes: int, now: float) -> None:
        """The model serves from now on, with the footprint it turned out to have."""
        self._resize(model, footprint_bytes)
        self._refusals.pop(model, None)
        self._served_s = 0.0
        self.residents[model] = replace(
            self.residents[model],
            state=ResidencyState.READY,
            footprint_bytes=footprint_bytes,
            loaded_at=now,
            last_used_at=now,
        )

    def measured(self, model: str, footprint_bytes: int) -> None:
        """What it really takes: its first batch may need memory beyond its weights, and the allocator keeps it."""
        self._resize(model, footprint_bytes)
        self.residents[model] = replace(self.residents[model], footprint_bytes=footprint_bytes)

    def refuse(self, model: str, code: str, message: str, hopeless: bool, now: float, counts: bool = True) -> Refusal:
        """Do not try that model again for a while, longer with each failure in a row.

        ``counts`` false: it was not the model that failed, and however often that happens it is not hopeless.
        """
        before = self._refusals.get(model)
        failures = (0 if before is None else before.failures) + counts
        hopeless = hopeless or failures >= HOPELESS_AFTER
        pause_s = REFUSE_HOPELESS_S if hopeless else REFUSE_TRANSIENT_S * max(1, failures)
        refusal = Refusal(model, now + pause_s, code, message, failures, hopeless)
        self._refusals[model] = refusal
        return refusal

    def started(self, model: str, jobs: int, now: float) -> None:
        """A batch of that many jobs runs on the model."""
        self.residents[model] = replace(self.residents[model], running=jobs, last_used_at=now)

    def ran(self, model: str, exec_s: float, now: float) -> None:
        """The batch is over, after so many seconds on the GPU. The model may be gone by now, with its executor."""
        self._served_s += exec_s
        if model in self.residents:
            self.residents[model] = replace(self.residents[model], running=0, last_used_at=now)

    def emptied(self) -> tuple[str, ...]:
        """The executor died and took every model with it. Returns which."""
        lost = tuple(sorted(self.residents))
        self.residents.clear()
        self.ledger = VramLedger(self.ledger.capacity_bytes)
        self.observe(self.gpu)
        return lost

    def report(self, now: float, cached: tuple[str, ...] = ()) -> WorkerReport:
        """What others may know, newer than every report before it. ``cached``: models in the host's memory.

        Nobody shall count on what a draining worker holds, or wait for it: all its models are leaving.
        """
        own = self.own_report(now, cached)
        if not self.draining:
            return own
        leaving = tuple(replace(resident, state=ResidencyState.DRAINING) for resident in own.residents)
        return replace(own, draining=True, residents=leaving)

    def own_report(self, now: float, cached: tuple[str, ...] = ()) -> WorkerReport:
        """The same, as the worker sees itself."""
        self._sequence += 1
        return WorkerReport(
            worker=self._identity.worker,
            node=self._identity.node,
            epoch=self._identity.epoch,
            sequence=self._sequence,
            as_of=now,
            gpu=self.gpu,
            residents=tuple(self.residents[m] for m in sorted(self.residents)),
            refusals=tuple(self._refusals[m] for m in sorted(self._refusals) if self._refusals[m].until > now),
            cached=cached,
            served_s=self._served_s,
            lease_s=self._lease_s,
            metrics_url=self._identity.metrics_url,
        )

    def _resize(self, model: str, footprint_bytes: int) -> None:
        self.ledger = self.ledger.resize(model, footprint_bytes)
        # What it takes by the driver's word is accounted for now: counted as unreturned as well, it would count twice.
        self.observe(self.gpu)
