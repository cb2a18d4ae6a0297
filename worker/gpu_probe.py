"""What a probe of GPUs must be able to do, whether it asks NVIDIA's driver or invents its GPUs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from affinity.fleet import Gpu


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU, or a MIG instance of one. ``total_bytes`` is what processes can have, the driver's own part left out.

    ``index`` counts the host's devices in NVML's order (that of ``nvidia-smi``), the instances of a GPU in MIG mode in
    its place. It does not depend on which of them this worker serves.
    """

    uuid: str
    index: int
    name: str
    total_bytes: int


class GpuUnavailable(Exception):
    """A GPU cannot be served as the settings ask; the message says why and what to do."""


class DriverMissing(GpuUnavailable):
    """This machine has no NVIDIA driver, or the driver shows no GPU."""


class GpuUnreadable(GpuUnavailable):
    """The driver did not answer this time; the last reading is the best there is."""


class GpuLost(GpuUnreadable):
    """The GPU has fallen off the bus or needs a reset: this process will not see it again."""


class GpuProbe(Protocol):
    """The GPUs this worker may serve."""

    @property
    def torch_device(self) -> str:
        """The device as torch calls it in an executor that runs with ``executor_env``."""

    def devices(self) -> tuple[GpuDevice, ...]:
        """All of them, by index; at least one."""

    def read(self, uuid: str, own_pids: frozenset[int], reserve_bytes: int) -> Gpu:
        """What the memory holds now. ``own_pids`` are our executors: what they hold is not foreign.

        Takes milliseconds. Raises ``GpuUnreadable``, ``GpuLost``.
        """

    def observe(self, uuid: str, pid: int, reserved_bytes: int) -> None:
        """An executor's own count of what it holds; 0 when it has ended."""

    def executor_env(self, uuid: str) -> Mapping[str, str]:
        """What to add to an executor's environment so that it sees this GPU alone."""

    def close(self) -> None:
        """Let go of the driver."""
