"""Asks NVIDIA's driver, through ``pynvml`` (package ``nvidia-ml-py``), what a GPU's memory holds.

Devices are named by UUID throughout: ``CUDA_VISIBLE_DEVICES`` renumbers them and CUDA's own order is another. What a
process holds is matched by process id; where that is impossible (a container without the host's process ids, MIG, vGPU,
WSL), the executors' own counts stand in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from affinity.fleet import Gpu
from worker.gpu_probe import DriverMissing, GpuDevice, GpuLost, GpuUnavailable, GpuUnreadable

log = structlog.get_logger()

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Found:
    """A device and how to ask for it. A MIG instance has ``gpu_index`` and ``gpu_uuid`` of the GPU it is a part of."""

    device: GpuDevice
    handle: Any
    gpu_index: int
    gpu_uuid: str

    def is_named(self, word: str) -> bool:
        """Whether an element of ``CUDA_VISIBLE_DEVICES`` means it: an index, or the beginning of a UUID."""
        if word.isdecimal():
            return int(word) == self.gpu_index
        return word.startswith(("GPU-", "MIG-")) and (
            self.device.uuid.startswith(word) or self.gpu_uuid.startswith(word)
        )


class NvmlProbe:
    """The GPUs the driver shows, cut down to ``visible`` (CUDA_VISIBLE_DEVICES) and ``indices`` (of ``GpuDevice``).

    ``nvml`` is the module ``pynvml``. Raises ``DriverMissing``, ``GpuUnavailable``.
    """

    torch_device = "cuda:0"  # an executor sees one device

    def __init__(self, nvml: Any, *, visible: str | None = None, indices: Sequence[int] | None = None) -> None:
        self._nvml = nvml
        # The driver knows these calls but not for this device, or is too old to know them.
        self._refusals = (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_FunctionNotFound,
            nvml.NVMLError_ArgumentVersionMismatch,
            nvml.NVMLError_NoPermission,
        )
        self._init()
        try:
            self._found = {found.device.uuid: found for found in self._chosen(visible, indices)}
        except BaseException:
            self.close()
            raise
        self._observed: dict[str, dict[int, int]] = {uuid: {} for uuid in self._found}

    def devices(self) -> tuple[GpuDevice, ...]:
        """All that are served, by index."""
        return tuple(found.device for found in self._found.values())

    def read(self, uuid: str, own_pids: frozenset[int], reserve_bytes: int) -> Gpu:
        """Memory and utilization as the driver says now.

        Foreign is all that is in use and not our executors': also what the driver cannot put down to a process.
        """
        found = self._found[uuid]
        nvml = self._nvml
        try:
            total, used = self._memory(found.handle)
            own = self._own_bytes(found, own_pids)
            utilization = self._unless_refused(lambda: nvml.nvmlDeviceGetUtilizationRates(found.handle).gpu / 100)
        except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired, nvml.NVMLError_GpuNotFound) as error:
            raise GpuLost(f"GPU {found.device.index} ({uuid}): {error}; reset it or restart the machine") from error
        except nvml.NVMLError as error:
            raise GpuUnreadable(f"GPU {found.device.index} ({uuid}): the driver did not answer: {error}") from error
        return Gpu(
            uuid=uuid,
            index=found.device.index,
            name=found.device.name,
            total_bytes=total,
            used_bytes=used,
            foreign_bytes=max(0, used - own),
            reserve_bytes=reserve_bytes,
            utilization=utilization,
        )

    def observe(self, uuid: str, pid: int, reserved_bytes: int) -> None:
        """Kept for devices whose driver does not tell what our processes hold."""
        if reserved_bytes > 0:
            self._observed[uuid][pid] = reserved_bytes
        else:
            self._observed[uuid].pop(pid, None)

    def executor_env(self, uuid: str) -> Mapping[str, str]:
        """Only this device, by UUID."""
        return {"CUDA_VISIBLE_DEVICES": uuid}

    def close(self) -> None:
        """Shut NVML down; harmless when the driver has gone."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            log.warning("gpu.nvml_shutdown_failed", error=str(error))

    def _init(self) -> None:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded) as error:
            raise DriverMissing(
                f"no NVIDIA driver answers ({error}): install it, give the container the GPU, "
                "or set WORKER_GPU=simulated"
            ) from error
        except nvml.NVMLError as error:
            raise GpuUnavailable(f"the NVIDIA driver does not start ({error}): does nvidia-smi work here?") from error

    def _chosen(self, visible: str | None, indices: Sequence[int] | None) -> list[_Found]:
        everything = self._enumerate()
        if not everything:
            raise GpuUnavailable("none of this machine's GPUs answers; the log says why, and nvidia-smi lists them")
        seen = everything if visible is None else _visible(everything, visible)
        if not seen:
            raise DriverMissing(f"CUDA_VISIBLE_DEVICES={visible} hides every GPU; unset it or name one")
        if indices is None:
            return seen
        if absent := sorted(set(indices) - {found.device.index for found in seen}):
            there = ", ".join(f"{found.device.index} ({found.device.name})" for found in seen)
            raise GpuUnavailable(f"WORKER_GPU_INDEX names {absent[0]}, but the worker sees {there}: correct it")
        return [found for found in seen if found.device.index in indices]

    def _enumerate(self) -> list[_Found]:
        """Every device of the host. One that does not answer is left out: its neighbours can still be served."""
        nvml = self._nvml
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            raise GpuUnavailable(f"the NVIDIA driver does not list its GPUs: {error}") from error
        if not count:
            raise DriverMissing("the NVIDIA driver shows no GPU")
        # A GPU left out keeps its place in the count, or those after it would be taken for others.
        parts = [(gpu, part) for gpu in range(count) for part in self._unless_failing(gpu, self._parts) or [None]]
        described = [self._described(index, gpu, part) for index, (gpu, part) in enumerate(parts)]
        return [found for found in described if found]

    def _parts(self, gpu_index: int) -> list[Any]:
        """Handle of the GPU itself, or of its instances where it is in MIG mode: then CUDA cannot use the whole."""
        nvml = self._nvml
        gpu = nvml.nvmlDeviceGetHandleByIndex(gpu_index)
        mode = self._unless_refused(lambda: nvml.nvmlDeviceGetMigMode(gpu)[0])
        if mode != nvml.NVML_DEVICE_MIG_ENABLE:
            return [gpu]
        instances = []
        for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            try:
                instances.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot))
            except nvml.NVMLError_NotFound:  # a slot without an instance
                continue
        return instances

    def _described(self, index: int, gpu_index: int, handle: Any) -> _Found | None:
        def describe(gpu_index: int) -> _Found:
            nvml = self._nvml
            total, _ = self._memory(handle)
            device = GpuDevice(nvml.nvmlDeviceGetUUID(handle), index, nvml.nvmlDeviceGetName(handle), total)
            return _Found(device, handle, gpu_index, nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(gpu_index)))

        return None if handle is None else self._unless_failing(gpu_index, describe)

    def _memory(self, handle: Any) -> tuple[int, int]:
        """``(total, used)`` in bytes, without what the driver keeps for itself where it tells that apart."""
        nvml = self._nvml
        split = self._unless_refused(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2))
        if split is not None:
            total = int(split.total - split.reserved)
            return total, max(0, total - int(split.free))
        plain = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(plain.total), int(plain.total - plain.free)

    def _own_bytes(self, found: _Found, own_pids: frozenset[int]) -> int:
        """What our executors hold: as the driver says, else (it shows none of them, or no numbers) as they say."""
        nvml, handle = self._nvml, found.handle
        computing = self._unless_refused(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        drawing = self._unless_refused(lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle))
        # A process that does both is in both lists, with its whole memory in each.
        by_pid = {process.pid: process.usedGpuMemory for process in [*(computing or ()), *(drawing or ())]}
        told = [by_pid[pid] for pid in own_pids if pid in by_pid]
        known = [count for count in told if count is not None]
        if told and len(known) == len(told):
            return sum(known)
        return sum(count for pid, count in self._observed[found.device.uuid].copy().items() if pid in own_pids)

    def _unless_failing(self, gpu_index: int, ask: Callable[[int], Answer]) -> Answer | None:
        try:
            return ask(gpu_index)
        except self._nvml.NVMLError as error:
            log.warning("gpu.left_out", gpu=gpu_index, error=str(error))
            return None

    def _unless_refused(self, ask: Callable[[], Answer]) -> Answer | None:
        try:
            return ask()
        except self._refusals:
            return None


def _visible(everything: Sequence[_Found], spec: str) -> list[_Found]:
    """What CUDA would see: it stops at the first element that names nothing. By index, not in the order of ``spec``."""
    named: dict[str, _Found] = {}
    for word in spec.split(","):
        matches = [found for found in everything if found.is_named(word.strip())]
        if not matches:
            break
        named |= {found.device.uuid: found for found in matches}
    return sorted(named.values(), key=lambda found: found.device.index)
