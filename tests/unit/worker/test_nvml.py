"""The NVML probe on machines that a fake ``pynvml`` shows: memory, foreign processes, MIG, faults early and late."""

import pytest

from tests.support.fake_pynvml import BY_CODE, GIB, MIB, FakeDevice, FakeNvml, FakeProcess
from worker.gpu import DriverMissing, GpuLost, GpuUnavailable, GpuUnreadable
from worker.nvml import NvmlProbe

NO_PIDS: frozenset[int] = frozenset()
OURS = frozenset({100})


def gpu(number: int = 0, **fields: object) -> FakeDevice:
    return FakeDevice(f"GPU-{number}", **fields)


def error(name: str) -> type:
    return next(kind for kind in BY_CODE.values() if kind.__name__ == f"NVMLError_{name}")


def mig_gpu(number: int, *slots: str | None) -> FakeDevice:
    instances = [
        slot and FakeDevice(f"MIG-{slot}", name="NVIDIA H100 MIG 1g.10gb", total_bytes=10 * GIB, driver_bytes=0)
        for slot in slots
    ]
    return gpu(number, instances=instances)


def indices(probe: NvmlProbe) -> list[tuple[int, str]]:
    return [(device.index, device.uuid) for device in probe.devices()]


def test_a_device_is_named_and_its_total_leaves_out_what_the_driver_keeps():
    (device,) = NvmlProbe(FakeNvml(gpu(driver_bytes=512 * MIB))).devices()
    assert (device.uuid, device.index, device.name) == ("GPU-0", 0, "NVIDIA H100 80GB HBM3")
    assert device.total_bytes == 80 * GIB - 512 * MIB


def test_memory_of_other_processes_is_foreign_and_ours_is_not():
    probe = NvmlProbe(FakeNvml(gpu(processes=[FakeProcess(100, 3 * GIB), FakeProcess(200, 5 * GIB)], utilization=40)))
    read = probe.read("GPU-0", OURS, reserve_bytes=GIB)
    assert (read.used_bytes, read.foreign_bytes, read.reserve_bytes) == (8 * GIB, 5 * GIB, GIB)
    assert read.utilization == pytest.approx(0.4)
    assert read.capacity_bytes == 80 * GIB - 512 * MIB - GIB - 5 * GIB


def test_a_process_that_computes_and_draws_counts_once():
    probe = NvmlProbe(FakeNvml(gpu(processes=[FakeProcess(100, GIB, graphics=True)], extra_bytes=2 * GIB)))
    assert probe.read("GPU-0", OURS, 0).foreign_bytes == 2 * GIB


def test_a_desktop_that_only_draws_is_foreign():
    probe = NvmlProbe(FakeNvml(gpu(processes=[FakeProcess(7, GIB, graphics=True, compute=False), FakeProcess(100, 1)])))
    assert probe.read("GPU-0", OURS, 0).foreign_bytes == GIB


def test_use_that_no_listed_process_explains_is_foreign():
    probe = NvmlProbe(FakeNvml(gpu(extra_bytes=40 * GIB)))
    assert probe.read("GPU-0", NO_PIDS, 0).foreign_bytes == 40 * GIB


def test_an_old_driver_is_asked_the_old_way():
    device = gpu(driver_bytes=512 * MIB, processes=[FakeProcess(100, GIB)])
    device.fail(error("FunctionNotFound"), "nvmlDeviceGetMemoryInfo_v2")
    read = NvmlProbe(FakeNvml(device)).read("GPU-0", OURS, 0)
    assert (read.total_bytes, read.used_bytes) == (80 * GIB, GIB + 512 * MIB)
    assert read.foreign_bytes == 512 * MIB, "what the driver keeps is not ours to fill"


@pytest.mark.parametrize(
    "processes",
    [[FakeProcess(100, None), FakeProcess(200, None)], [FakeProcess(4711, 3 * GIB)]],
    ids=["no numbers (WSL, vGPU)", "the host's process ids (container)"],
)
def test_our_own_count_stands_in_where_the_driver_does_not_tell_ours(processes: list[FakeProcess]):
    device = gpu(processes=processes)
    device.extra_bytes = 8 * GIB - sum(process.used_bytes or 0 for process in processes)
    probe = NvmlProbe(FakeNvml(device))
    probe.observe("GPU-0", 100, 3 * GIB)
    probe.observe("GPU-0", 300, 2 * GIB)  # an earlier executor that is not ours any more
    assert probe.read("GPU-0", OURS, 0).foreign_bytes == 5 * GIB


def test_an_executor_that_has_died_holds_nothing():
    probe = NvmlProbe(FakeNvml(gpu(extra_bytes=8 * GIB)))
    probe.observe("GPU-0", 100, 3 * GIB)
    probe.observe("GPU-0", 100, 0)
    assert probe.read("GPU-0", OURS, 0).foreign_bytes == 8 * GIB


def test_our_count_never_makes_foreign_memory_negative():
    probe = NvmlProbe(FakeNvml(gpu(extra_bytes=GIB)))
    probe.observe("GPU-0", 100, 3 * GIB)
    assert probe.read("GPU-0", OURS, 0).foreign_bytes == 0


@pytest.mark.parametrize("refusal", ["NotSupported", "NoPermission", "FunctionNotFound"])
def test_a_driver_that_refuses_processes_and_utilization_still_tells_memory(refusal: str):
    device = gpu(processes=[FakeProcess(100, 3 * GIB)])
    device.fail(
        error(refusal),
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
        "nvmlDeviceGetUtilizationRates",
    )
    probe = NvmlProbe(FakeNvml(device))
    probe.observe("GPU-0", 100, 2 * GIB)
    read = probe.read("GPU-0", OURS, 0)
    assert (read.used_bytes, read.foreign_bytes, read.utilization) == (3 * GIB, GIB, None)


def test_a_gpu_in_mig_mode_is_its_instances_and_the_count_goes_on_after_them():
    probe = NvmlProbe(FakeNvml(gpu(0), mig_gpu(1, "a", None, "b"), gpu(2)))
    assert indices(probe) == [(0, "GPU-0"), (1, "MIG-a"), (2, "MIG-b"), (3, "GPU-2")]
    read = probe.read("MIG-b", NO_PIDS, 0)
    assert (read.total_bytes, read.utilization, read.name) == (10 * GIB, None, "NVIDIA H100 MIG 1g.10gb")


def test_an_executor_sees_its_device_alone_by_uuid():
    probe = NvmlProbe(FakeNvml(gpu(0), mig_gpu(1, "a")))
    assert probe.executor_env("MIG-a") == {"CUDA_VISIBLE_DEVICES": "MIG-a"}
    assert probe.torch_device == "cuda:0"


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("1,0", ["GPU-0", "GPU-11"]),
        ("GPU-11", ["GPU-11"]),
        ("GPU-2", ["MIG-a", "MIG-b"]),
        ("2", ["MIG-a", "MIG-b"]),
        ("MIG-b, 0", ["GPU-0", "MIG-b"]),
        ("0,9,1", ["GPU-0"]),
    ],
    ids=["indices", "a UUID", "a whole MIG GPU", "its index", "an instance", "nothing after an unknown one"],
)
def test_cuda_visible_devices_is_respected(visible: str, seen: list[str]):
    probe = NvmlProbe(FakeNvml(gpu(0), gpu(11), mig_gpu(2, "a", "b")), visible=visible)
    assert [device.uuid for device in probe.devices()] == seen


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_cuda_visible_devices_that_hides_every_gpu_is_as_good_as_no_gpu(visible: str):
    with pytest.raises(DriverMissing, match="hides every GPU"):
        NvmlProbe(FakeNvml(gpu()), visible=visible)


def test_worker_gpu_index_chooses_and_keeps_the_hosts_numbers():
    assert indices(NvmlProbe(FakeNvml(gpu(0), gpu(1), gpu(2)), indices=(2, 1))) == [(1, "GPU-1"), (2, "GPU-2")]


def test_an_index_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(GpuUnavailable, match=r"names 5, but the worker sees 0 \(NVIDIA H100 80GB HBM3\)"):
        NvmlProbe(FakeNvml(gpu(0), gpu(1)), visible="0", indices=(0, 5))


@pytest.mark.parametrize("reason", ["LibraryNotFound", "DriverNotLoaded"])
def test_a_missing_driver_is_told_from_a_broken_one(reason: str):
    with pytest.raises(DriverMissing, match="no NVIDIA driver answers"):
        NvmlProbe(FakeNvml(init_error=error(reason)))


@pytest.mark.parametrize("reason", ["LibRmVersionMismatch", "NoPermission", "Unknown"])
def test_a_driver_that_does_not_start_is_no_missing_driver(reason: str):
    with pytest.raises(GpuUnavailable, match="does not start") as caught:
        NvmlProbe(FakeNvml(init_error=error(reason)))
    assert not isinstance(caught.value, DriverMissing)


def test_a_driver_without_gpus_counts_as_missing():
    with pytest.raises(DriverMissing, match="shows no GPU"):
        NvmlProbe(FakeNvml())


def test_a_gpu_that_was_lost_before_the_start_is_left_out_and_the_others_keep_their_numbers():
    lost = gpu(1)
    lost.fall_off_the_bus()
    assert indices(NvmlProbe(FakeNvml(gpu(0), lost, gpu(2)))) == [(0, "GPU-0"), (2, "GPU-2")]


def test_a_device_without_memory_of_its_own_is_left_out():
    shared = gpu(0)
    shared.fail(error("NotSupported"), "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2")
    assert indices(NvmlProbe(FakeNvml(shared, gpu(1)))) == [(1, "GPU-1")]


def test_a_machine_whose_gpus_are_all_lost_is_an_error_and_not_a_machine_without_gpus():
    lost = gpu(0)
    lost.fall_off_the_bus()
    nvml = FakeNvml(lost)
    with pytest.raises(GpuUnavailable, match="none of this machine's GPUs answers") as caught:
        NvmlProbe(nvml)
    assert not isinstance(caught.value, DriverMissing)
    assert nvml.initialised == 0, "NVML was left open"


@pytest.mark.parametrize("reason", ["GpuIsLost", "ResetRequired", "GpuNotFound"])
def test_a_gpu_lost_in_flight_says_so_and_its_neighbour_goes_on(reason: str):
    first, second = gpu(0), gpu(1)
    probe = NvmlProbe(FakeNvml(first, second))
    assert probe.read("GPU-0", NO_PIDS, 0).used_bytes == 0
    first.fail(error(reason))
    with pytest.raises(GpuLost, match=r"GPU 0 \(GPU-0\)"):
        probe.read("GPU-0", NO_PIDS, 0)
    assert probe.read("GPU-1", NO_PIDS, 0).used_bytes == 0


@pytest.mark.parametrize("function", ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetComputeRunningProcesses"])
def test_a_gpu_lost_between_two_questions_is_lost_all_the_same(function: str):
    device = gpu()
    probe = NvmlProbe(FakeNvml(device))
    device.fail(error("GpuIsLost"), function)
    with pytest.raises(GpuLost):
        probe.read("GPU-0", NO_PIDS, 0)


@pytest.mark.parametrize("reason", ["Timeout", "Unknown", "IrqIssue"])
def test_a_driver_that_fails_for_a_moment_may_be_asked_again(reason: str):
    device = gpu(extra_bytes=GIB)
    probe = NvmlProbe(FakeNvml(device))
    device.fail(error(reason), "nvmlDeviceGetMemoryInfo_v2")
    with pytest.raises(GpuUnreadable) as caught:
        probe.read("GPU-0", NO_PIDS, 0)
    assert not isinstance(caught.value, GpuLost)
    device.failing.clear()
    assert probe.read("GPU-0", NO_PIDS, 0).used_bytes == GIB


def test_closing_lets_go_of_the_driver_and_a_driver_that_has_gone_does_not_hurt():
    nvml = FakeNvml(gpu())
    probe = NvmlProbe(nvml)
    probe.close()
    assert nvml.initialised == 0
    probe.close()
