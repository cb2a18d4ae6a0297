"""What a load and a run are charged with on a CUDA device, with a stand-in for ``torch.cuda``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from affinity.errors import LoadFailed
from models.runtimes.device_memory import CudaMemory

UUID = "8a1c0d6e-1111-2222-3333-444455556666"


class FakeCuda:
    """torch's caching allocator from outside: reserved grows with use and shrinks with ``empty_cache``."""

    def __init__(self, available: bool = True) -> None:
        self.available = available
        self.reserved = self.peak = self.live = 0
        self.streams: list[object] = []
        self.awaited: list[int] = []

    def is_available(self) -> bool:
        return self.available

    def get_device_properties(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=UUID)

    def synchronize(self) -> None: ...

    def Stream(self) -> SimpleNamespace:  # noqa: N802 - torch's name
        return SimpleNamespace(synchronize=lambda: self.awaited.append(len(self.streams)))

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        self.streams.append(stream)
        yield
        self.streams.pop()

    def memory_reserved(self) -> int:
        return self.reserved

    def max_memory_reserved(self) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.reserved

    def empty_cache(self) -> None:
        self.reserved = self.live

    def take(self, live: int, passing: int = 0) -> None:
        """Allocate ``live`` bytes for good and ``passing`` ones for a moment."""
        self.live += live
        self.reserved = max(self.reserved, self.live + passing)
        self.peak = max(self.peak, self.reserved)


class Weights:
    def __init__(self, weight_bytes: int) -> None:
        self.weight_bytes = weight_bytes

    def run(self, inputs: Sequence[object]) -> Sequence[object]:
        return inputs

    def close(self) -> None: ...


def load(cuda: FakeCuda, live: int, passing: int = 0) -> Weights:
    assert cuda.streams, "loads run on a stream of their own"
    cuda.take(live, passing)
    return Weights(live)


def undo(model: object) -> None:
    raise AssertionError(f"{model} has its room")


def test_weights_leave_on_the_stream_of_the_loads_and_are_gone_when_it_returns():
    cuda = FakeCuda()
    memory = CudaMemory(f"GPU-{UUID}", cuda)
    memory.load(lambda: load(cuda, 100), undo)
    cuda.awaited.clear()

    def leave() -> None:
        assert cuda.streams, "behind the batches of other models it would wait for them"
        assert cuda.awaited == []
        cuda.live -= 100
        cuda.empty_cache()

    memory.leave(leave)
    assert cuda.awaited == [0], "the copies are complete before anybody counts on them"
    assert memory.total_bytes() == 0


def test_a_load_is_charged_its_peak_and_gives_back_what_only_passed():
    cuda = FakeCuda()
    memory = CudaMemory(f"GPU-{UUID}", cuda)
    _, first = memory.load(lambda: load(cuda, 100, passing=50), undo)
    assert (first, memory.total_bytes()) == (150, 100)
    _, second = memory.load(lambda: load(cuda, 30), undo)
    assert (second, memory.total_bytes()) == (30, 130)


def test_a_load_into_cached_blocks_is_charged_its_weights_all_the_same():
    cuda = FakeCuda()
    memory = CudaMemory(f"GPU-{UUID}", cuda)
    cuda.reserved = 500
    assert memory.load(lambda: load(cuda, 100), undo)[1] == 100


def test_a_run_is_charged_the_growth_it_causes_and_a_second_one_no_more():
    cuda = FakeCuda()
    memory = CudaMemory(f"GPU-{UUID}", cuda)

    def run() -> str:
        cuda.take(0, passing=40)
        return "result"

    assert memory.run(run) == ("result", 40)
    assert memory.run(run) == ("result", 0)


def test_growth_beside_a_load_may_be_the_loads_and_is_not_charged():
    cuda = FakeCuda()
    memory = CudaMemory(f"GPU-{UUID}", cuda)
    grown: list[int] = []

    def load_and_run() -> Weights:
        grown.append(memory.run(lambda: load(cuda, 100))[1])
        return Weights(100)

    memory.load(load_and_run, undo)
    assert grown == [0]
    assert memory.run(lambda: cuda.take(7))[1] == 7


def test_runs_are_charged_again_after_a_load_that_failed():
    cuda = FakeCuda()
    memory = CudaMemory(f"GPU-{UUID}", cuda)

    def fail() -> Weights:
        raise LoadFailed("on purpose")

    with pytest.raises(LoadFailed):
        memory.load(fail, undo)
    assert memory.run(lambda: cuda.take(7))[1] == 7


def test_another_gpu_than_the_one_to_serve_is_refused():
    with pytest.raises(LoadFailed, match=f"CUDA shows GPU-{UUID} where GPU-other was to be served"):
        CudaMemory("GPU-other", FakeCuda())
    CudaMemory("MIG-an-instance", FakeCuda())  # its UUID may be the whole GPU's, so it cannot be held against it


def test_a_torch_without_cuda_is_refused_with_what_to_install():
    with pytest.raises(LoadFailed, match="install a torch built for CUDA"):
        CudaMemory(f"GPU-{UUID}", FakeCuda(available=False))
