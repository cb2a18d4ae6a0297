"""The worker's settings: what is refused with which words, and what follows from them."""

import pytest
from pydantic import ValidationError

from affinity.fleet import GIB
from affinity.io.connection_settings import problems
from worker.gpu import GpuDevice
from worker.settings import WorkerSettings, worker_ids


def complaints(**chosen: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        WorkerSettings(**chosen)
    return problems(WorkerSettings, caught.value)


def device(index: int) -> GpuDevice:
    return GpuDevice(f"GPU-{index}", index, "H100", 80 * GIB)


@pytest.mark.parametrize("text", ["0,", "GPU-1", "-1", "1.5", ","])
def test_indices_that_are_none_are_refused_with_an_example(text: str):
    (line,) = complaints(worker_gpu_index=text)
    assert line.startswith("WORKER_GPU_INDEX: must be GPU indices with commas between them, such as 0 or 0,2")


@pytest.mark.parametrize("value", ["-1", "lots", "nan", "inf"])
def test_a_host_cache_that_is_no_size_is_refused_by_name(value: str):
    (line,) = complaints(worker_host_cache_gib=value)
    assert line.startswith("WORKER_HOST_CACHE_GIB: ")


def test_the_host_cache_is_off_unless_it_has_a_size():
    assert WorkerSettings().host_cache_bytes == 0
    assert WorkerSettings(worker_host_cache_gib=1.5).host_cache_bytes == 3 * GIB // 2


def test_indices_are_read_from_a_list_with_commas():
    assert WorkerSettings(worker_gpu_index="0, 2").worker_gpu_index == (0, 2)
    assert WorkerSettings().worker_gpu_index is None


def test_a_lease_of_exactly_three_heartbeats_is_enough():
    assert WorkerSettings(worker_heartbeat_s=2, worker_lease_s=6).worker_lease_s == 6
    (line,) = complaints(worker_heartbeat_s=2, worker_lease_s=5.9)
    assert line.startswith("WORKER_LEASE_S:")


def test_the_reserve_depends_on_the_device_unless_it_is_set():
    assert WorkerSettings().reserve_bytes("cuda:0") == GIB // 2
    assert WorkerSettings().reserve_bytes("cpu") == 0
    assert WorkerSettings(worker_vram_reserve_gib=1).reserve_bytes("cpu") == GIB
    assert WorkerSettings(worker_vram_reserve_gib=0).reserve_bytes("cuda:0") == 0


def test_one_gpu_is_the_worker_itself_and_several_are_numbered_as_on_the_host():
    settings = WorkerSettings(worker_id="w")
    assert worker_ids(settings, [device(3)]) == {"GPU-3": "w"}
    assert worker_ids(settings, [device(1), device(3)]) == {"GPU-1": "w-gpu1", "GPU-3": "w-gpu3"}
