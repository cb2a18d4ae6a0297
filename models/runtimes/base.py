"""What every runtime has in common: the protocol, the guard around a batch, and the translation of foreign errors.

A family implements only the happy path; the guard keeps one bad job from failing its batch. No torch here.
"""

import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from affinity.errors import (
    AffinityError,
    CallerError,
    ExecutorDied,
    InvariantBroken,
    JobFailed,
    LoadFailed,
    OutOfVram,
)
from models.entry import ModelEntry
from models.inputs import parse_input

MAX_MESSAGE = 1000
"""Characters of a foreign error that are kept: a list of a large model's missing keys can run to megabytes."""


class LoadedModel(Protocol):
    """A model on its device."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on the device; activations are on top."""

    def run(self, inputs: Sequence[object]) -> Sequence[object | AffinityError]:
        """One batch. Gives one JSON value, or the error of that job, per input and in order.

        Raises only ``ExecutorDied`` (the device is gone: end this process) and ``InvariantBroken``.
        """

    def close(self) -> None:
        """Free the memory. The model cannot run afterwards; closing twice is harmless."""

    @property
    def host_bytes(self) -> int | None:
        """What its weights take, or would take, in the host's memory; ``None`` where they cannot be kept there."""

    def leave_device(self) -> None:
        """Free the device's memory and keep the weights in the host's. It cannot run until it has returned.

        Raises ``LoadFailed``, ``OutOfVram``, ``ExecutorDied``; after the first two, close it.
        """

    def return_to_device(self) -> None:
        """Be ready to run again, by one copy. The host's copy stays.

        Raises as ``leave_device``; after ``OutOfVram`` it may be tried again.
        """

    def drop_host_copy(self) -> None:
        """Free the host's memory, of a model that is on its device."""


class Core(Protocol):
    """A family's model. It may raise anything: the guard translates."""

    @property
    def weight_bytes(self) -> int: ...

    @property
    def host_bytes(self) -> int | None: ...

    def leave_device(self) -> None: ...

    def return_to_device(self) -> None: ...

    def drop_host_copy(self) -> None: ...

    def forward(self, inputs: Sequence[Any]) -> Sequence[object | AffinityError]:
        """Results, in order, of inputs that ``models.inputs.parse_input`` has accepted and typed."""


class Family(Protocol):
    """What a module of this package offers."""

    def load(self, entry: ModelEntry, device: str, /) -> Core: ...

    def release(self, device: str, /) -> None:
        """Hand memory that no tensor uses any more back to the driver."""


class GuardedModel:
    """``LoadedModel`` around a family's core.

    Inputs are checked one by one. If a batch raises, its jobs run again one at a time, so that each gets the result or
    the error it would have had alone: a poisonous job costs its neighbours time and nothing else.
    """

    def __init__(self, entry: ModelEntry, core: Core, release: Callable[[], None]) -> None:
        self._entry = entry
        self._core: Core | None = core
        self._release = release

    @property
    def weight_bytes(self) -> int:
        return self._core.weight_bytes if self._core else 0

    def run(self, inputs: Sequence[object]) -> Sequence[object | AffinityError]:
        parsed = [self._parsed(value) for value in inputs]
        results = iter(self._forward([value for value in parsed if not isinstance(value, CallerError)]))
        return [value if isinstance(value, CallerError) else next(results) for value in parsed]

    def close(self) -> None:
        self._core = None
        self._release()

    @property
    def host_bytes(self) -> int | None:
        return self._core.host_bytes if self._core else None

    def leave_device(self) -> None:
        self._move(lambda core: core.leave_device())

    def return_to_device(self) -> None:
        self._move(lambda core: core.return_to_device())

    def drop_host_copy(self) -> None:
        self._move(lambda core: core.drop_host_copy())

    def _move(self, step: Callable[[Core], None]) -> None:
        if self._core is None:
            raise InvariantBroken(f"{self._entry.name} was moved after it was closed")
        try:
            step(self._core)
        except Exception as error:
            failure = translated(error, self._entry.name, LoadFailed)
            forget_frames(error)
            self._release()
            if failure is error:
                raise
            raise failure from error
        self._release()

    def _parsed(self, value: object) -> object:
        try:
            return parse_input(self._entry, value)
        except CallerError as error:
            return error

    def _forward(self, batch: Sequence[object]) -> Sequence[object | AffinityError]:
        if self._core is None:
            raise InvariantBroken(f"{self._entry.name} was run after it was closed")
        if not batch:
            return []
        try:
            results = self._core.forward(batch)
            if len(results) != len(batch):
                raise JobFailed(f"{self._entry.name} gave {len(results)} results for {len(batch)} inputs")
            return results
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything
            failure = translated(error, self._entry.name, JobFailed)
            forget_frames(error)
        if isinstance(failure, ExecutorDied | InvariantBroken):
            raise failure
        if isinstance(failure, OutOfVram):
            # Without it the retry below would meet what the failed batch left in the allocator's cache.
            self._release()
        return [failure] if len(batch) == 1 else [self._forward([value])[0] for value in batch]


def translated(error: Exception, name: str, otherwise: type[LoadFailed | JobFailed]) -> AffinityError:
    """The error of ours for an exception out of torch, transformers, safetensors, or a user's class.

    Classes are told by name: this module is imported where torch is not.
    """
    if isinstance(error, AffinityError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if "OutOfMemoryError" in kinds or ("RuntimeError" in kinds and "out of memory" in text.lower()):
        return OutOfVram(f"{name}: the GPU ran out of memory: {_shortened(text)}")
    if "AcceleratorError" in kinds:
        # Every later CUDA call of this process fails too; only a new process helps.
        return ExecutorDied(f"{name}: the GPU reported a fault: {_shortened(text)}")
    return otherwise(f"{name}: {type(error).__name__}: {_shortened(text)}")


def forget_frames(error: BaseException | None) -> None:
    """Drop the local variables an exception and its causes hold: they keep tensors, thus VRAM, while it lives."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def plain(value: object, path: str = "result") -> object:
    """The value as JSON types; anything with ``tolist`` (tensors, arrays, their scalars) becomes numbers.

    Raises ``JobFailed`` with the place of what JSON cannot hold, ``nan`` and infinity included.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise JobFailed(f"{path} is {value}, which JSON cannot hold")
        return float(value)
    if isinstance(value, dict):
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}[{number}]") for number, item in enumerate(value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), path)
    raise JobFailed(f"{path} is a {type(value).__name__}, which JSON cannot hold; return plain values")


def plain_or_error(value: object) -> object | AffinityError:
    """``plain``, or its error as this one job's result."""
    try:
        return plain(value)
    except JobFailed as error:
        return error


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}... ({len(text)} characters)"
