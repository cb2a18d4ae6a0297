"""The host tier: weights that left the GPU and wait in the host's memory to be copied back. Bookkeeping, no torch.

Lives in the executor child and dies with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from models.runtimes import LoadedModel


class Tier(StrEnum):
    """Where a load takes a model's weights from."""

    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Cached:
    """What lies in the host's memory, ready to be copied: models, the next to be dropped first, and their bytes."""

    models: tuple[str, ...] = ()
    held_bytes: int = 0


@dataclass(slots=True)
class _Copy:
    model: LoadedModel
    host_bytes: int
    on_device: bool


class HostCache:
    """At most ``limit_bytes`` of copies; with 0 nothing is kept.

    A model that came back keeps its copy while there is room, so that it need not be made again when the model leaves
    once more. Room is made by dropping such copies first, then those of the least recently evicted models.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._copies: dict[str, _Copy] = {}

    @property
    def cached(self) -> Cached:
        """What is held now."""
        return Cached(tuple(name for name, _ in self._next_to_go()), self._held_bytes)

    def park(self, name: str, model: LoadedModel, leave: Callable[[], None], room_for: str = "") -> bool:
        """Keep the weights of a model that leaves the GPU, and let ``leave`` take them off it.

        False, with the model where it was, if it does not fit or cannot be kept. The copy of ``room_for``, the model
        that is about to be loaded, is not dropped for it. Raises what ``leave`` raises; then no copy is left.
        """
        copy = self._copies.pop(name, None)
        if copy is None:
            host_bytes = model.host_bytes if self._limit_bytes else None
            if host_bytes is None or not self._make_room(host_bytes, room_for):
                return False
            copy = _Copy(model, host_bytes, on_device=False)
        leave()
        copy.on_device = False
        self._copies[name] = copy
        return True

    def parked(self, name: str) -> LoadedModel | None:
        """The model, if its weights are here and not on the GPU."""
        copy = self._copies.get(name)
        return None if copy is None or copy.on_device else copy.model

    def returned(self, name: str) -> None:
        """The model is on the GPU again. Its copy stays until the room is needed."""
        self._copies[name].on_device = True

    def drop(self, name: str) -> None:
        """Forget a copy. A model that was nowhere else is closed."""
        copy = self._copies.pop(name)
        if copy.on_device:
            copy.model.drop_host_copy()
        else:
            copy.model.close()

    @property
    def _held_bytes(self) -> int:
        return sum(copy.host_bytes for copy in self._copies.values())

    def _next_to_go(self) -> list[tuple[str, _Copy]]:
        return sorted(self._copies.items(), key=lambda item: not item[1].on_device)

    def _make_room(self, wanted_bytes: int, but: str) -> bool:
        """Drop as few copies as it takes; none where all of them would not do."""
        droppable = [(name, copy) for name, copy in self._next_to_go() if name != but]
        missing = self._held_bytes + wanted_bytes - self._limit_bytes
        if missing > sum(copy.host_bytes for _, copy in droppable):
            return False
        for name, copy in droppable:
            if missing <= 0:
                break
            self.drop(name)
            missing -= copy.host_bytes
        return True
