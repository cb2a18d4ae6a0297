"""The executor's models when a move between GPU and host goes wrong: nothing is lost but time."""

from collections.abc import Sequence

import pytest

from affinity.errors import ExecutorDied, LoadFailed, OutOfVram
from affinity.fleet import GIB
from tests.support.executors import synthetic
from worker.executor_child import _Models, _Resident
from worker.executor_memory import CountedMemory
from worker.executor_messages import Load, Unload, entry_fields
from worker.host_cache import Cached, HostCache, Tier


class Stubborn:
    """A model that is loaded, and raises on its way out or back."""

    weight_bytes = host_bytes = GIB

    def __init__(self, leaving: Exception | None = None, returning: Exception | None = None) -> None:
        self.leaving, self.returning = leaving, returning
        self.closed = False

    def run(self, inputs: Sequence[object]) -> Sequence[object]:
        return inputs

    def close(self) -> None:
        self.closed = True

    def leave_device(self) -> None:
        if self.leaving:
            raise self.leaving

    def return_to_device(self) -> None:
        if self.returning:
            raise self.returning

    def drop_host_copy(self) -> None: ...


def holding(model: Stubborn) -> _Models:
    memory = CountedMemory(limit_bytes=8 * GIB)
    memory.load(lambda: model, Stubborn.close)
    models = _Models("cpu", memory, HostCache(4 * GIB))
    models._residents["m"] = _Resident(model, GIB, 1.0, Tier.DISK)
    return models


LOAD_M = Load(2, entry_fields(synthetic("m")))


@pytest.mark.parametrize("error", [LoadFailed("changed"), OutOfVram("no page-locked memory")])
def test_a_model_that_cannot_go_to_the_host_is_freed_all_the_same(error: Exception, capsys: pytest.CaptureFixture[str]):
    model = Stubborn(leaving=error)
    done = holding(model).unload(Unload(1, "m"))
    assert (done.total_bytes, done.cached, model.closed) == (0, Cached(), True)
    assert f"m cannot stay in the host's memory: {error}" in capsys.readouterr().err


def test_a_model_that_cannot_come_back_is_read_from_disk(capsys: pytest.CaptureFixture[str]):
    model = Stubborn(returning=LoadFailed("odd"))
    models = holding(model)
    assert models.unload(Unload(1, "m")).cached == Cached(("m",), GIB)
    done = models.load(LOAD_M)
    assert (done.tier, done.total_bytes, done.cached, model.closed) == (Tier.DISK, GIB, Cached(), True)
    assert "m cannot come back from the host's memory: odd" in capsys.readouterr().err


def test_a_model_that_has_no_room_to_come_back_keeps_its_place():
    model = Stubborn(returning=OutOfVram("full"))
    models = holding(model)
    models.unload(Unload(1, "m"))
    with pytest.raises(OutOfVram):
        models.load(LOAD_M)
    model.returning = None
    done = models.load(LOAD_M)
    assert (done.tier, done.total_bytes, model.closed) == (Tier.HOST, GIB, False)


def test_a_gpu_that_is_gone_ends_the_executor_when_a_model_leaves():
    models = holding(Stubborn(leaving=ExecutorDied("fault")))
    with pytest.raises(ExecutorDied):
        models.unload(Unload(1, "m"))


def test_a_gpu_that_is_gone_ends_the_executor_when_a_model_comes_back():
    models = holding(Stubborn(returning=ExecutorDied("fault")))
    models.unload(Unload(1, "m"))
    with pytest.raises(ExecutorDied):
        models.load(LOAD_M)
