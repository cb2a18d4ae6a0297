"""The VRAM ledger: who holds how much of one GPU. The truth that lets a load start.

A value: every operation gives a new ledger, and none gives one that holds more than its capacity (law L1).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from affinity.errors import InvariantBroken, OutOfVram


@dataclass(frozen=True, slots=True)
class VramLedger:
    """``capacity_bytes`` is what models may fill; ``held`` what each one holds, in bytes."""

    capacity_bytes: int
    held: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def held_bytes(self) -> int:
        """Sum over all models."""
        return sum(self.held.values())

    @property
    def free_bytes(self) -> int:
        """What a further model may take. Negative when capacity shrank under what is held (a foreign process)."""
        return self.capacity_bytes - self.held_bytes

    def admit(self, model: str, footprint_bytes: int) -> "VramLedger":
        """The ledger with one more model. ``OutOfVram`` if it does not fit."""
        if model in self.held:
            raise InvariantBroken(f"{model} is in the ledger already")
        if footprint_bytes > self.free_bytes:
            raise OutOfVram(f"{model} takes {footprint_bytes} bytes and {max(0, self.free_bytes)} are free")
        return self._with({**self.held, model: footprint_bytes})

    def release(self, model: str) -> "VramLedger":
        """The ledger without that model."""
        if model not in self.held:
            raise InvariantBroken(f"{model} is not in the ledger")
        return self._with({name: size for name, size in self.held.items() if name != model})

    def resize(self, model: str, footprint_bytes: int) -> "VramLedger":
        """The ledger with a model's measured size: what is in memory is in memory, even past the capacity."""
        if model not in self.held:
            raise InvariantBroken(f"{model} is not in the ledger")
        return self._with({**self.held, model: footprint_bytes})

    def with_capacity(self, capacity_bytes: int) -> "VramLedger":
        """The ledger after other processes took or gave back memory."""
        return VramLedger(capacity_bytes, self.held)

    def victims_for(self, footprint_bytes: int, candidates: Iterable[tuple[str, int]]) -> tuple[str, ...] | None:
        """The first of ``candidates`` (best victim first) that make room, none of them superfluous.

        Empty when it fits already, ``None`` when even all of them do not make room.
        """
        return victims_for(footprint_bytes - self.free_bytes, candidates)

    def _with(self, held: dict[str, int]) -> "VramLedger":
        return VramLedger(self.capacity_bytes, MappingProxyType(held))


def victims_for(missing_bytes: int, candidates: Iterable[tuple[str, int]]) -> tuple[str, ...] | None:
    """The first of ``candidates`` (best victim first) that free so many bytes: see ``VramLedger.victims_for``."""
    chosen: list[tuple[str, int]] = []
    spare = -missing_bytes
    for victim in candidates:
        if spare >= 0:
            break
        chosen.append(victim)
        spare += victim[1]
    if spare < 0:
        return None
    for victim in tuple(chosen):
        if victim[1] <= spare:
            chosen.remove(victim)
            spare -= victim[1]
    return tuple(name for name, _ in chosen)
