"""The guard around a batch, with a core that does as it is told."""

import gc
import weakref
from collections.abc import Callable, Sequence

import pytest

from affinity.errors import ExecutorDied, InvalidInput, InvariantBroken, JobFailed, LoadFailed, OutOfVram
from models.entry import ModelEntry
from models.runtimes.base import MAX_MESSAGE, GuardedModel, forget_frames, plain, translated

ENTRY = ModelEntry("m", "torch")


class Scripted:
    """A core whose answers are made by a function; it remembers the batches it was given."""

    weight_bytes = 7

    def __init__(self, answer: Callable[[dict], object]) -> None:
        self._answer = answer
        self.batches: list[Sequence[dict]] = []

    def forward(self, inputs: Sequence[dict]) -> Sequence[object]:
        self.batches.append(inputs)
        return [self._answer(value) for value in inputs]


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class AcceleratorError(RuntimeError):
    """Named as torch names it."""


def poisoned(error: Exception) -> Callable[[dict], object]:
    def answer(value: dict) -> object:
        if value.get("poison"):
            raise error
        return value["n"]

    return answer


def run(core: object, inputs: Sequence[object], released: list[str] | None = None) -> Sequence[object]:
    log = [] if released is None else released
    return GuardedModel(ENTRY, core, lambda: log.append("released")).run(inputs)


def test_a_batch_is_one_call_and_answers_come_in_order():
    core = Scripted(lambda value: value["n"])
    assert run(core, [{"n": 3}, {"n": 1}]) == [3, 1]
    assert len(core.batches) == 1


def test_invalid_inputs_are_kept_from_the_core_and_answered_in_their_place():
    core = Scripted(lambda value: value["n"])
    first, second, third = run(core, [{"n": 1}, "no object", {"n": 2}])
    assert (first, third) == (1, 2)
    assert isinstance(second, InvalidInput)
    assert core.batches == [[{"n": 1}, {"n": 2}]]


def test_a_batch_of_nothing_but_invalid_inputs_does_not_reach_the_core():
    core = Scripted(lambda value: value["n"])
    assert [type(result) for result in run(core, ["a", 3])] == [InvalidInput, InvalidInput]
    assert core.batches == []


def test_a_job_that_raises_fails_alone():
    core = Scripted(poisoned(ZeroDivisionError("by zero")))
    one, bad, two = run(core, [{"n": 1}, {"poison": True}, {"n": 2}])
    assert (one, two) == (1, 2)
    assert isinstance(bad, JobFailed)
    assert bad.message == "m: ZeroDivisionError: by zero"


def test_memory_is_released_before_a_batch_is_tried_again_one_by_one():
    released: list[str] = []
    core = Scripted(poisoned(OutOfMemoryError("tried to allocate")))
    one, bad = run(core, [{"n": 1}, {"poison": True}], released)
    assert one == 1
    assert isinstance(bad, OutOfVram)
    assert released == ["released", "released"]


@pytest.mark.parametrize("fatal", [AcceleratorError("illegal address"), InvariantBroken("a bug")])
def test_what_ends_the_process_is_raised_and_not_tried_again(fatal: Exception):
    core = Scripted(poisoned(fatal))
    with pytest.raises((ExecutorDied, InvariantBroken)):
        run(core, [{"n": 1}, {"poison": True}])
    assert len(core.batches) == 1


def test_a_core_with_the_wrong_number_of_answers_fails_its_jobs_instead_of_mixing_them_up():
    class Short(Scripted):
        def forward(self, inputs: Sequence[dict]) -> Sequence[object]:
            return super().forward(inputs)[1:]

    results = run(Short(lambda value: value["n"]), [{"n": 1}, {"n": 2}])
    assert [result.message for result in results] == ["m gave 0 results for 1 inputs"] * 2


def test_errors_of_ours_pass_through_as_they_are():
    mine = OutOfVram("m: mine")
    assert translated(mine, "m", LoadFailed) is mine


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (OutOfMemoryError("x"), OutOfVram),
        (RuntimeError("CUDA error: out of memory"), OutOfVram),
        (AcceleratorError("CUDA error: out of memory"), OutOfVram),
        (AcceleratorError("CUDA error: an illegal memory access"), ExecutorDied),
        (RuntimeError("shapes differ"), LoadFailed),
        (ValueError("out of memory of my own"), LoadFailed),
        (KeyError("k"), LoadFailed),
    ],
)
def test_foreign_errors_become_ours(foreign: Exception, ours: type[Exception]):
    error = translated(foreign, "m", LoadFailed)
    assert type(error) is ours
    assert error.message.startswith("m: ")


def test_an_endless_foreign_message_is_cut():
    error = translated(ValueError("x" * 10_000_000), "m", JobFailed)
    assert len(error.message) < MAX_MESSAGE + 100
    assert "10000000 characters" in error.message


class Weight:
    """Stands for a tensor."""


def test_a_kept_error_does_not_keep_the_tensors_of_its_frames():
    watched: list[weakref.ref[Weight]] = []

    def fails() -> None:
        weight = Weight()
        watched.append(weakref.ref(weight))
        raise ValueError("while the weight is a local variable")

    try:
        fails()
    except ValueError as error:
        kept = error
    assert watched[0]() is not None
    forget_frames(kept)
    gc.collect()
    assert watched[0]() is None


def test_an_error_that_is_its_own_cause_is_forgotten_too():
    error = ValueError("x")
    error.__cause__ = error
    forget_frames(error)


class Array:
    def tolist(self) -> list[float]:
        return [1.0, 2.0]


def test_results_become_plain_json():
    assert plain({"a": (1, True, None, "x"), 3: Array()}) == {"a": [1, True, None, "x"], "3": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"scores": [1.0, float("nan")]}, r"result\.scores\[1\] is nan"),
        (float("inf"), "result is inf"),
        ({"x": {1, 2}}, r"result\.x is a set, .* return plain values"),
        (b"bytes", "result is a bytes"),
    ],
)
def test_what_json_cannot_hold_is_named(value: object, said: str):
    with pytest.raises(JobFailed, match=said):
        plain(value)
