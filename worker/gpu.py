"""Chooses the probe: the machine's real GPUs, or simulated ones on a machine without any."""

import importlib
from typing import Any

import structlog

from worker.gpu_probe import DriverMissing, GpuDevice, GpuLost, GpuProbe, GpuUnavailable, GpuUnreadable
from worker.nvml import NvmlProbe
from worker.settings import WorkerSettings
from worker.simulated_gpu import SimulatedProbe

__all__ = ["DriverMissing", "GpuDevice", "GpuLost", "GpuProbe", "GpuUnavailable", "GpuUnreadable", "open_probe"]

log = structlog.get_logger()


def open_probe(settings: WorkerSettings, nvml: Any = None) -> GpuProbe:
    """The probe that ``WORKER_GPU`` asks for. ``nvml`` stands in for the module ``pynvml``.

    ``auto`` takes real GPUs where there are a driver and a GPU, and simulated ones otherwise. A driver that is there
    but broken is an error even so: a GPU host that quietly computes on its CPU is worse than one that is down.
    Raises ``GpuUnavailable``.
    """
    if settings.worker_gpu != "simulated":
        try:
            return NvmlProbe(
                nvml or _pynvml(), visible=settings.cuda_visible_devices, indices=settings.worker_gpu_index
            )
        except DriverMissing as missing:
            if settings.worker_gpu == "nvml":
                raise
            log.warning("gpu.simulated", reason=str(missing), effect="models run on the CPU and VRAM is only counted")
    return SimulatedProbe(
        settings.worker_id,
        count=settings.worker_simulated_gpus,
        total_bytes=settings.simulated_vram_bytes,
        indices=settings.worker_gpu_index,
    )


def _pynvml() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ModuleNotFoundError as error:
        raise DriverMissing("the package nvidia-ml-py is not installed: pip install nvidia-ml-py") from error
