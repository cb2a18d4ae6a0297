"""Which probe ``WORKER_GPU`` leads to, on machines with, without and with broken drivers."""

import pynvml
import pytest
from structlog.testing import capture_logs

from tests.support.fake_pynvml import BY_CODE, GIB, FakeDevice, FakeNvml
from worker.gpu import DriverMissing, GpuUnavailable, open_probe
from worker.nvml import NvmlProbe
from worker.settings import WorkerSettings
from worker.simulated_gpu import SimulatedProbe

LIBRARY_NOT_FOUND, RM_MISMATCH = BY_CODE[12], BY_CODE[18]


def settings(**chosen: object) -> WorkerSettings:
    return WorkerSettings(**{"worker_id": "w", "cuda_visible_devices": None, **chosen})


def test_auto_takes_real_gpus_where_there_are_some():
    probe = open_probe(settings(worker_gpu="auto"), FakeNvml(FakeDevice("GPU-0")))
    assert isinstance(probe, NvmlProbe)


@pytest.mark.parametrize("nvml", [FakeNvml(init_error=LIBRARY_NOT_FOUND), FakeNvml()], ids=["no driver", "no GPU"])
def test_auto_simulates_loudly_where_there_are_none(nvml: FakeNvml):
    with capture_logs() as logs:
        probe = open_probe(settings(worker_gpu="auto"), nvml)
    assert isinstance(probe, SimulatedProbe)
    assert [(line["log_level"], line["event"]) for line in logs] == [("warning", "gpu.simulated")]
    assert "CPU" in logs[0]["effect"]


def test_auto_does_not_hide_a_broken_driver_behind_a_simulation():
    with pytest.raises(GpuUnavailable, match="version mismatch"):
        open_probe(settings(worker_gpu="auto"), FakeNvml(init_error=RM_MISMATCH))


def test_nvml_without_a_driver_is_an_error_that_says_what_to_do():
    with pytest.raises(DriverMissing, match="WORKER_GPU=simulated"):
        open_probe(settings(worker_gpu="nvml"), FakeNvml(init_error=LIBRARY_NOT_FOUND))


def test_the_real_module_without_a_driver_is_understood():
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        with pytest.raises(DriverMissing, match="NVML Shared Library Not Found"):
            open_probe(settings(worker_gpu="nvml"))
    else:
        pynvml.nvmlShutdown()
        pytest.skip("this machine has an NVIDIA driver")


def test_simulated_does_not_ask_a_driver_and_takes_size_number_and_choice_from_the_settings():
    wanted = settings(
        worker_gpu="simulated", worker_simulated_gpus=3, worker_simulated_vram_gib=1.5, worker_gpu_index="2"
    )
    probe = open_probe(wanted, FakeNvml(FakeDevice("GPU-0")))
    assert [(device.uuid, device.total_bytes) for device in probe.devices()] == [("SIM-w-2", int(1.5 * GIB))]


def test_nvml_takes_visibility_and_choice_from_the_settings():
    nvml = FakeNvml(FakeDevice("GPU-0"), FakeDevice("GPU-1"), FakeDevice("GPU-2"))
    probe = open_probe(settings(cuda_visible_devices="1,2", worker_gpu_index="2"), nvml)
    assert [device.uuid for device in probe.devices()] == ["GPU-2"]
