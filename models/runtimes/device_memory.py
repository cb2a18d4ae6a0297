"""Measures what models take on a CUDA device, by torch's count of reserved memory.

Reserved, not allocated: what torch has taken from the driver is what the next model cannot have. CUDA's own context
(about half a GiB) is not in it; ``WORKER_VRAM_RESERVE_GIB`` keeps room for that.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from affinity.errors import LoadFailed
from models.runtimes.base import LoadedModel

Results = TypeVar("Results")


class CudaMemory:
    """Device 0 of this process, which must be ``gpu_uuid`` (as NVML writes it). Raises ``LoadFailed`` if it is not.

    ``cuda`` is ``torch.cuda``, or a stand-in where there is no device.
    """

    def __init__(self, gpu_uuid: str, cuda: Any = torch.cuda) -> None:
        if not cuda.is_available():
            raise LoadFailed(
                f"torch {torch.__version__} cannot use CUDA here: install a torch built for CUDA and a driver to fit it"
            )
        seen = f"GPU-{cuda.get_device_properties(0).uuid}"
        # For a MIG instance CUDA may give the whole GPU's UUID, so only whole GPUs can be told apart here.
        if gpu_uuid.startswith("GPU-") and seen != gpu_uuid:
            raise LoadFailed(f"CUDA shows {seen} where {gpu_uuid} was to be served; check CUDA_VISIBLE_DEVICES")
        cuda.synchronize()  # makes CUDA's context now: the first load would be timed with the second or two it takes
        self._cuda = cuda
        self._loads = cuda.Stream()
        self._loading = threading.Event()

    def load(self, load: Callable[[], LoadedModel], undo: Callable[[LoadedModel], None]) -> tuple[LoadedModel, int]:  # noqa: ARG002 - a model without room never gets as far
        """Load on a stream of its own, so that copies do not queue up behind the batches that run meanwhile."""
        self._loading.set()
        try:
            before = self._cuda.memory_reserved()
            self._cuda.reset_peak_memory_stats()
            with self._cuda.stream(self._loads):
                model = load()
            self._loads.synchronize()
            took = self._cuda.max_memory_reserved() - before
            # Blocks freed on this stream could serve no other stream: give them back to the driver.
            self._cuda.empty_cache()
        finally:
            self._loading.clear()
        # A load that found room in the cache took nothing from the driver, but it does hold its weights.
        return model, max(took, model.weight_bytes)

    def leave(self, leave: Callable[[], None]) -> None:
        """On the stream of the loads, for the same reason."""
        with self._cuda.stream(self._loads):
            leave()
        self._loads.synchronize()

    def run(self, run: Callable[[], Results]) -> tuple[Results, int]:
        """Growth is only known while nothing loads: otherwise it may be the other's."""
        alone = not self._loading.is_set()
        before = self._cuda.memory_reserved()
        results = run()
        grown = self._cuda.memory_reserved() - before
        return results, max(0, grown) if alone and not self._loading.is_set() else 0

    def freed(self, reserved_bytes: int) -> None:
        """Whatever it was that freed it has emptied the cache already."""

    def total_bytes(self) -> int:
        """All that torch has taken from the driver."""
        return int(self._cuda.memory_reserved())
