"""What the driver says against what we believe: memory that comes back late or never, and that counts once only."""

from dataclasses import replace

import pytest

from affinity.errors import OutOfVram
from affinity.fleet import GIB, Gpu
from affinity.policy import Load
from tests.support.fake_pynvml import FakeDevice, FakeNvml, FakeProcess
from worker.nvml import NvmlProbe
from worker.services import Identity
from worker.state import HOPELESS_AFTER, REFUSE_TRANSIENT_S, GpuState

NOW = 1_700_000_000.0
GPU = Gpu("GPU-1", 0, "Fake", 24 * GIB, reserve_bytes=GIB)
EXECUTOR = 100
CONTEXT = GIB // 2
"""What CUDA itself takes in a process; less than the reserve, which is for this."""


@pytest.fixture
def state() -> GpuState:
    return GpuState(Identity("w1", "node", 7, "http://127.0.0.1:8000/metrics"), GPU, lease_s=10.0)


def load(model: str, gib: int) -> Load:
    return Load("w1", model, gib * GIB, (), 0, "nobody holds it")


def resident(state: GpuState, model: str, gib: int) -> None:
    """Bring a model in, and let the driver see it."""
    state.loading(load(model, gib), pinned=False, now=NOW)
    state.loaded(model, gib * GIB, NOW)
    state.observe(replace(GPU, used_bytes=state.ledger.held_bytes + CONTEXT))


def test_what_a_victim_held_is_not_free_before_the_driver_says_so(state: GpuState) -> None:
    resident(state, "v", 16)
    state.evicted("v")
    assert state.ledger.free_bytes == 24 * GIB - (16 * GIB + CONTEXT), "the last reading still has it"
    with pytest.raises(OutOfVram, match="m takes"):
        state.loading(load("m", 10), pinned=False, now=NOW)
    state.observe(replace(GPU, used_bytes=6 * GIB))
    assert state.ledger.free_bytes == 18 * GIB, "half of it has come back"
    state.loading(load("m", 10), pinned=False, now=NOW)


def test_others_plan_with_what_the_driver_says_as_well(state: GpuState) -> None:
    resident(state, "v", 16)
    state.evicted("v")
    gpu = state.report(NOW).gpu
    assert (gpu.capacity_bytes, gpu.unreturned_bytes) == (24 * GIB - 16 * GIB - CONTEXT, 15 * GIB + CONTEXT)
    assert gpu.usable_bytes == 23 * GIB, "a model is no misfit because memory is late"
    state.observe(replace(GPU, used_bytes=CONTEXT))
    assert state.report(NOW).gpu.capacity_bytes == 23 * GIB


def test_what_the_executor_holds_besides_its_models_is_what_the_reserve_is_for(state: GpuState) -> None:
    resident(state, "m", 8)
    assert state.gpu.unreturned_bytes == 0
    assert state.ledger.free_bytes == 15 * GIB
    state.observe(replace(GPU, used_bytes=8 * GIB + 3 * GIB))
    assert state.ledger.free_bytes == 13 * GIB, "two of the three are more than it"


def test_a_model_that_turns_out_twice_as_large_counts_once(state: GpuState) -> None:
    state.loading(load("m", 4), pinned=False, now=NOW)
    state.observe(replace(GPU, used_bytes=8 * GIB + CONTEXT))
    state.loaded("m", 8 * GIB, NOW)
    assert state.ledger.free_bytes == 15 * GIB
    state.observe(replace(GPU, used_bytes=12 * GIB + CONTEXT))
    state.measured("m", 12 * GIB)
    assert state.ledger.free_bytes == 11 * GIB


def test_a_dead_executors_memory_is_free_once_the_driver_says_so(state: GpuState) -> None:
    resident(state, "m", 16)
    state.emptied()
    with pytest.raises(OutOfVram):
        state.loading(load("n", 16), pinned=False, now=NOW)
    state.observe(replace(GPU, used_bytes=16 * GIB, foreign_bytes=16 * GIB))  # Its process is none of ours any more.
    assert state.ledger.free_bytes == 7 * GIB
    state.observe(GPU)
    assert state.ledger.free_bytes == 23 * GIB


def test_room_that_was_not_there_is_never_held_against_the_model(state: GpuState) -> None:
    for _ in range(2 * HOPELESS_AFTER):
        refusal = state.refuse("m", "out_of_vram", "others took it", hopeless=False, now=NOW, counts=False)
        assert (refusal.hopeless, refusal.until - NOW) == (False, REFUSE_TRANSIENT_S)
    assert state.refuse("m", "load_timeout", "too slow", hopeless=False, now=NOW).failures == 1


# -- by NVML's word ----------------------------------------------------------------------------------------------------


class Machine:
    """A GPU of 24 GiB as NVML shows it, and a worker's state that believes it."""

    def __init__(self, hidden: bool = False) -> None:
        self.process = FakeProcess(4711 if hidden else EXECUTOR, 16 * GIB + CONTEXT)
        self.device = FakeDevice("GPU-1", total_bytes=24 * GIB, driver_bytes=0, processes=[self.process])
        self.probe = NvmlProbe(FakeNvml(self.device))
        self.probe.observe("GPU-1", EXECUTOR, 16 * GIB)
        self.state = GpuState(Identity("w1", "node", 7, ""), GPU, lease_s=10.0)
        resident(self.state, "v", 16)
        self.look()

    def look(self) -> int:
        """What is free for models after a reading, in bytes."""
        self.state.observe(self.probe.read("GPU-1", frozenset({EXECUTOR}), GIB))
        return self.state.ledger.free_bytes

    def unloaded(self) -> None:
        """The executor has freed the model, and says so."""
        self.probe.observe("GPU-1", EXECUTOR, 0)
        self.state.evicted("v")


@pytest.mark.parametrize("hidden", [False, True], ids=["our process is listed", "a container: the host's process ids"])
def test_used_bytes_that_fall_late_are_not_counted_free_early(hidden: bool) -> None:
    machine = Machine(hidden)
    machine.unloaded()
    assert machine.look() == 24 * GIB - 16 * GIB - CONTEXT - (GIB if hidden else 0)
    machine.process.used_bytes = CONTEXT
    assert machine.look() == 23 * GIB - (CONTEXT if hidden else 0)


def test_a_process_that_left_the_list_before_its_memory_did_counts_as_foreign_until_then() -> None:
    machine = Machine()
    machine.device.processes.clear()
    machine.device.extra_bytes = 16 * GIB + CONTEXT
    machine.unloaded()
    assert machine.look() == 23 * GIB - 16 * GIB - CONTEXT
    machine.device.extra_bytes = 0
    assert machine.look() == 23 * GIB


def test_used_bytes_that_fall_before_the_list_does_are_no_memory_of_ours() -> None:
    machine = Machine()
    machine.device.extra_bytes = -16 * GIB  # The sum is right already, the process's share is not.
    machine.unloaded()
    assert machine.look() == 23 * GIB
