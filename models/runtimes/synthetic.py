"""Models without weights: declared bytes, load time and execution time, and failures on purpose. No torch.

A batch costs the longest ``exec_s`` in it, once: on a GPU a batch takes about as long as one job.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence

from affinity.errors import AffinityError, JobFailed, LoadFailed, OutOfVram
from models.entry import Failure, ModelEntry, SyntheticOptions
from models.inputs import SyntheticWork

RELOAD_SHARE = 0.1
"""Default of ``reload_s``, as a share of ``load_s``: a server's disk reads 2 GiB/s, PCIe copies 20 GiB/s."""

CRASH_EXIT_STATUS = 70
"""What ``crash`` ends the process with (EX_SOFTWARE): told from a kill and from a clean exit."""


def load(entry: ModelEntry, _device: str, pause: Callable[[float], None] | None = None) -> "Synthetic":
    """Takes ``load_s``, then fails if told to."""
    options = entry.options_as(SyntheticOptions)
    wait = pause or time.sleep
    if options.load_s:
        wait(options.load_s)
    _fail(options.load_fail, LoadFailed, entry.name)
    return Synthetic(entry, options, wait)


def release(_device: str) -> None:
    """Nothing was taken."""


class Synthetic:
    """Claims to weigh what the catalogue declares."""

    def __init__(self, entry: ModelEntry, options: SyntheticOptions, pause: Callable[[float], None]) -> None:
        self._name = entry.name
        self._options = options
        self._pause = pause
        self._reload_s = options.load_s * RELOAD_SHARE if options.reload_s is None else options.reload_s
        self.host_bytes = self.weight_bytes = entry.vram_bytes or 0

    def forward(self, inputs: Sequence[SyntheticWork]) -> Sequence[object | AffinityError]:
        times = [self._options.exec_s if work.exec_s is None else work.exec_s for work in inputs]
        if longest := max(times):
            self._pause(longest)
        return [self._result(work, exec_s) for work, exec_s in zip(inputs, times, strict=True)]

    def leave_device(self) -> None:
        """Costs nothing."""

    def return_to_device(self) -> None:
        """Takes ``reload_s``."""
        if self._reload_s:
            self._pause(self._reload_s)

    def drop_host_copy(self) -> None:
        """There is none."""

    def _result(self, work: SyntheticWork, exec_s: float) -> object | AffinityError:
        if self._options.echo:
            return work.value
        try:
            _fail(work.fail, JobFailed, self._name)
        except JobFailed as error:
            return error
        return {"model": self._name, "exec_s": exec_s}


def _fail(how: Failure | None, error: type[JobFailed | LoadFailed], name: str) -> None:
    match how:
        case "error":
            raise error(f"{name}: fails because it was asked to")
        case "oom":
            raise OutOfVram(f"{name}: runs out of memory because it was asked to")
        case "crash":
            os._exit(CRASH_EXIT_STATUS)
        case "hang":
            threading.Event().wait()
