"""GPUs that are only counted: demos, tests and benchmarks run whole fleets on a machine without any.

Executors compute on the CPU and report what their models would hold. What other processes hold, and the delay with
which a real driver gives memory back, can be set from outside.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from affinity.fleet import Gpu
from worker.gpu_probe import GpuDevice, GpuUnavailable

NAME = "simulated"


@dataclass(slots=True)
class _Memory:
    """What one GPU holds. ``leaving`` are ``(until, bytes)`` freed by their process, not yet by the driver."""

    by_pid: dict[int, int] = field(default_factory=dict)
    foreign_bytes: int = 0
    leaving: list[tuple[float, int]] = field(default_factory=list)


class SimulatedProbe:
    """``count`` equal GPUs named ``SIM-<worker_id>-<index>``, of which ``indices`` (default all) are served.

    Freed memory still counts as used for ``lag_s`` seconds of ``monotonic``.
    """

    torch_device = "cpu"

    def __init__(
        self,
        worker_id: str,
        *,
        count: int,
        total_bytes: int,
        indices: Sequence[int] | None = None,
        lag_s: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        served = range(count) if indices is None else sorted(set(indices))
        if absent := [index for index in served if index >= count]:
            raise GpuUnavailable(
                f"WORKER_GPU_INDEX names {absent[0]}, but there are {count} simulated GPUs, counted from 0: "
                "correct it or raise WORKER_SIMULATED_GPUS"
            )
        self._devices = tuple(GpuDevice(f"SIM-{worker_id}-{index}", index, NAME, total_bytes) for index in served)
        self._memory = {device.uuid: _Memory() for device in self._devices}
        self._lag_s = lag_s
        self._monotonic = monotonic

    def devices(self) -> tuple[GpuDevice, ...]:
        """All that are served, by index."""
        return self._devices

    def read(self, uuid: str, own_pids: frozenset[int], reserve_bytes: int) -> Gpu:
        """What was observed and set. Utilization is unknown: nothing is computed on the GPU."""
        device = next(device for device in self._devices if device.uuid == uuid)
        memory = self._memory[uuid]
        now = self._monotonic()
        # Copies: the worker reads in a thread and observes in its loop.
        by_pid, leaving = memory.by_pid.copy(), memory.leaving.copy()
        strangers = sum(count for pid, count in by_pid.items() if pid not in own_pids)
        foreign = memory.foreign_bytes + strangers
        ours = sum(by_pid.values()) - strangers + sum(count for until, count in leaving if until > now)
        return Gpu(
            uuid=uuid,
            index=device.index,
            name=device.name,
            total_bytes=device.total_bytes,
            used_bytes=min(device.total_bytes, ours + foreign),
            foreign_bytes=min(device.total_bytes, foreign),
            reserve_bytes=reserve_bytes,
        )

    def observe(self, uuid: str, pid: int, reserved_bytes: int) -> None:
        """This is the process's memory from now on."""
        memory = self._memory[uuid]
        now = self._monotonic()
        memory.leaving = [(until, count) for until, count in memory.leaving if until > now]
        freed = memory.by_pid.pop(pid, 0) - reserved_bytes
        if reserved_bytes > 0:
            memory.by_pid[pid] = reserved_bytes
        if freed > 0 and self._lag_s > 0:
            memory.leaving.append((now + self._lag_s, freed))

    def set_foreign(self, uuid: str, foreign_bytes: int) -> None:
        """Pretend that other processes hold this much."""
        self._memory[uuid].foreign_bytes = foreign_bytes

    def executor_env(self, uuid: str) -> Mapping[str, str]:  # noqa: ARG002 - the port's signature
        """No GPU: a real one in this machine is not ours to use."""
        return {"CUDA_VISIBLE_DEVICES": ""}

    def close(self) -> None:
        """Nothing was opened."""
