"""Simulated GPUs: they count what executors say, what is set as foreign, and can be slow to give memory back."""

import pytest

from tests.support.clock import FakeClock
from worker.gpu import GpuUnavailable
from worker.simulated_gpu import SimulatedProbe

OURS = frozenset({100})


def probe(**options: object) -> SimulatedProbe:
    return SimulatedProbe("w", **{"count": 1, "total_bytes": 1000, **options})


def test_devices_are_named_after_the_worker():
    devices = probe(count=3).devices()
    assert [(device.uuid, device.index, device.total_bytes) for device in devices] == [
        ("SIM-w-0", 0, 1000),
        ("SIM-w-1", 1, 1000),
        ("SIM-w-2", 2, 1000),
    ]


def test_some_of_them_can_be_chosen():
    assert [device.uuid for device in probe(count=3, indices=(2, 0)).devices()] == ["SIM-w-0", "SIM-w-2"]


def test_an_index_beyond_them_is_refused():
    with pytest.raises(GpuUnavailable, match="WORKER_GPU_INDEX names 3, but there are 2"):
        probe(count=2, indices=(0, 3))


def test_what_executors_observe_is_used_and_what_others_hold_is_foreign():
    sim = probe()
    sim.observe("SIM-w-0", 100, 300)
    sim.observe("SIM-w-0", 200, 50)
    sim.set_foreign("SIM-w-0", 100)
    read = sim.read("SIM-w-0", OURS, reserve_bytes=10)
    assert (read.used_bytes, read.foreign_bytes, read.free_bytes) == (450, 150, 550)
    assert read.capacity_bytes == 1000 - 150 - 10
    assert read.utilization is None


def test_each_observation_replaces_the_one_before_and_death_frees_all():
    sim = probe()
    for reserved_bytes, used_bytes in ((300, 300), (200, 200), (0, 0)):
        sim.observe("SIM-w-0", 100, reserved_bytes)
        assert sim.read("SIM-w-0", OURS, 0).used_bytes == used_bytes


def test_gpus_do_not_share_memory():
    sim = probe(count=2)
    sim.observe("SIM-w-0", 100, 300)
    assert sim.read("SIM-w-1", OURS, 0).used_bytes == 0


def test_freed_memory_stays_used_for_the_lag():
    clock = FakeClock()
    sim = probe(lag_s=2.0, monotonic=clock.monotonic)
    sim.observe("SIM-w-0", 100, 300)
    sim.observe("SIM-w-0", 100, 100)
    assert sim.read("SIM-w-0", OURS, 0).used_bytes == 300
    assert sim.read("SIM-w-0", OURS, 0).foreign_bytes == 0
    clock.advance(2.0)
    assert sim.read("SIM-w-0", OURS, 0).used_bytes == 100


def test_use_never_exceeds_the_memory_there_is():
    sim = probe()
    sim.set_foreign("SIM-w-0", 5000)
    read = sim.read("SIM-w-0", OURS, 0)
    assert (read.used_bytes, read.foreign_bytes, read.capacity_bytes) == (1000, 1000, 0)


def test_an_executor_gets_no_real_gpu():
    assert probe().executor_env("SIM-w-0") == {"CUDA_VISIBLE_DEVICES": ""}
    assert probe().torch_device == "cpu"
