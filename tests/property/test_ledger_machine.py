"""Law L1 under every interleaving: the ledger, and the GPU's state that owns it, driven at random beside a model."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from affinity.errors import InvariantBroken, OutOfVram
from affinity.fleet import Gpu, ResidencyState
from affinity.policy import Load, VramLedger
from worker.services import Identity
from worker.state import GpuState

models = st.sampled_from("abcdef")
sizes = st.integers(0, 12)


class LedgerMachine(RuleBasedStateMachine):
    """L1: the ledger never exceeds capacity, in any interleaving of admissions, releases, resizes and shrinkage.

    More than the capacity may be held only after a model turned out larger or other processes took memory - never by an
    admission - and then nothing is admitted until it fits again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = VramLedger(20)
        self.held: dict[str, int] = {}

    @rule(model=models, size=sizes)
    def admit(self, model: str, size: int) -> None:
        before = self.ledger
        if model in self.held:
            with pytest.raises(InvariantBroken):
                before.admit(model, size)
        elif sum(self.held.values()) + size > before.capacity_bytes:
            with pytest.raises(OutOfVram):
                before.admit(model, size)
        else:
            self.ledger = before.admit(model, size)
            self.held[model] = size
            assert self.ledger.held_bytes <= self.ledger.capacity_bytes
            assert model not in before.held

    @rule(model=models)
    def release(self, model: str) -> None:
        if model not in self.held:
            with pytest.raises(InvariantBroken):
                self.ledger.release(model)
            return
        self.ledger = self.ledger.release(model)
        del self.held[model]

    @rule(model=models, size=sizes)
    def resize(self, model: str, size: int) -> None:
        if model not in self.held:
            with pytest.raises(InvariantBroken):
                self.ledger.resize(model, size)
            return
        self.ledger = self.ledger.resize(model, size)
        self.held[model] = size

    @rule(capacity=st.integers(0, 30))
    def other_processes_take_or_give_back_memory(self, capacity: int) -> None:
        self.ledger = self.ledger.with_capacity(capacity)

    @rule(size=st.integers(0, 30))
    def victims_make_room(self, size: int) -> None:
        victims = self.ledger.victims_for(size, sorted(self.held.items()))
        if victims is None:
            assert size > self.ledger.capacity_bytes
            return
        after = self.ledger
        for victim in victims:
            after = after.release(victim)
        assert size <= after.free_bytes

    @invariant()
    def it_holds_what_was_put_in(self) -> None:
        assert dict(self.ledger.held) == self.held
        assert self.ledger.free_bytes == self.ledger.capacity_bytes - sum(self.held.values())


class GpuStateMachine(RuleBasedStateMachine):
    """L1 and L2 in the worker: a load that starts fits, what runs is not drained, ledger and residents agree."""

    present = Bundle("present")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.reported = (0, 0)

    @initialize(total=st.integers(8, 24))
    def begin(self, total: int) -> None:
        self.state = GpuState(Identity("w1", "node", 7, ""), self.gpu(total, 0), lease_s=10.0)

    def gpu(self, total: int, foreign: int) -> Gpu:
        return Gpu("GPU-1", 0, "Fake", total, foreign_bytes=foreign)

    @rule(target=present, model=models, size=sizes, pinned=st.booleans())
    def load(self, model: str, size: int, pinned: bool) -> object:
        if model in self.state.residents:
            return multiple()
        before = self.state.ledger
        try:
            self.state.loading(Load("w1", model, size, (), 0, "x"), pinned, self.now)
        except OutOfVram:
            assert size > before.free_bytes
            assert model not in self.state.residents
            assert self.state.ledger == before
            return multiple()
        assert self.state.ledger.held_bytes <= self.state.ledger.capacity_bytes
        assert self.state.report(self.now).loading is not None
        return model

    @rule(model=present, size=sizes)
    def loaded(self, model: str, size: int) -> None:
        if model in self.state.residents and self.state.residents[model].state is ResidencyState.LOADING:
            self.state.loaded(model, size, self.now)
            assert self.state.ready(model)

    @rule(model=present, jobs=st.integers(1, 4))
    def start(self, model: str, jobs: int) -> None:
        if self.state.ready(model):
            self.state.started(model, jobs, self.now)

    @rule(model=present, size=sizes)
    def ran(self, model: str, size: int) -> None:
        self.state.ran(model, 0.5, self.now)
        if self.state.ready(model):
            self.state.measured(model, size)

    @rule(model=consumes(present))
    def evict(self, model: str) -> None:
        if not self.state.ready(model):
            return
        if self.state.residents[model].running:
            with pytest.raises(InvariantBroken):
                self.state.drain_victims([model])
            assert self.state.ready(model)
            return
        held = self.state.ledger.held_bytes
        self.state.drain_victims([model])
        assert not self.state.ready(model)
        assert self.state.ledger.held_bytes == held, "memory counts until it is really free"
        self.state.evicted(model)

    @rule(foreign=st.integers(0, 24))
    def observe(self, foreign: int) -> None:
        self.state.observe(self.gpu(self.state.gpu.total_bytes, foreign))

    @rule()
    def the_executor_dies(self) -> None:
        lost = self.state.emptied()
        assert lost == tuple(sorted(lost))
        assert not self.state.residents

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def ledger_residents_and_report_agree(self) -> None:
        if not hasattr(self, "state"):
            return
        assert dict(self.state.ledger.held) == {m: r.footprint_bytes for m, r in self.state.residents.items()}
        assert self.state.ledger.capacity_bytes == self.state.gpu.capacity_bytes
        report = self.state.report(self.now)
        assert report.version() > self.reported
        self.reported = report.version()
        assert report.residents == tuple(self.state.residents[m] for m in sorted(self.state.residents))


TestLedgerMachine = LedgerMachine.TestCase
TestGpuStateMachine = GpuStateMachine.TestCase
