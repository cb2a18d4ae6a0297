"""Counts what models hold on a GPU that is only simulated. ``models.runtimes.device_memory`` measures on a real one."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from affinity.errors import OutOfVram
from affinity.fleet import GIB
from models.runtimes import LoadedModel

Results = TypeVar("Results")


class ExecutorMemory(Protocol):
    """What the models of one executor hold, in bytes. ``load`` and ``run`` may be called from two threads at once."""

    def load(self, load: Callable[[], LoadedModel], undo: Callable[[LoadedModel], None]) -> tuple[LoadedModel, int]:
        """Load, and say how much that took at most. Raises ``OutOfVram`` and what ``load`` raises.

        ``undo`` is called with a model that is there but has no room.
        """

    def leave(self, leave: Callable[[], None]) -> None:
        """Let a model leave for the host's memory; it is all there when this returns."""

    def run(self, run: Callable[[], Results]) -> tuple[Results, int]:
        """Run, and say by how much that made the whole grow."""

    def freed(self, reserved_bytes: int) -> None:
        """A model that was loaded with so much has been closed, or has left for the host's memory."""

    def total_bytes(self) -> int:
        """All that is held."""


class CountedMemory:
    """Every model holds its weights' bytes, a synthetic one what it declares; ``limit_bytes`` is all there is."""

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    def load(self, load: Callable[[], LoadedModel], undo: Callable[[LoadedModel], None]) -> tuple[LoadedModel, int]:
        """As a real GPU does, it finds out only while loading that there is no room."""
        model = load()
        if self._limit_bytes is not None and self._held_bytes + model.weight_bytes > self._limit_bytes:
            wanted, free = model.weight_bytes, self._limit_bytes - self._held_bytes
            undo(model)
            raise OutOfVram(f"the model takes {wanted / GIB:.2f} GiB, the simulated GPU has {free / GIB:.2f} GiB free")
        self._held_bytes += model.weight_bytes
        return model, model.weight_bytes

    def leave(self, leave: Callable[[], None]) -> None:
        """Nothing runs beside it that it would have to wait for."""
        leave()

    def run(self, run: Callable[[], Results]) -> tuple[Results, int]:
        """Activations are not counted."""
        return run(), 0

    def freed(self, reserved_bytes: int) -> None:
        """At once."""
        self._held_bytes -= reserved_bytes

    def total_bytes(self) -> int:
        """Sum over the models."""
        return self._held_bytes
