"""The operator's hand: orders to load or unload a model, and pins. What they are; ``affinity.policy.orders`` says what
follows from them.

An order is a wish about one model on one worker (or, to load, on whichever is best). It waits until it has ended, once
and for good. A pin is a standing rule: it lasts until it is taken back.
"""

from dataclasses import dataclass
from enum import StrEnum

ORDER_LIFE_S = 600.0
"""An order that could not be carried out within this time is given up."""

EVERYWHERE = ""
"""In a pin: every worker there is or will be."""


class Action(StrEnum):
    """What an order asks for."""

    LOAD = "load"
    UNLOAD = "unload"


class OrderState(StrEnum):
    """How far an order is. ``replaced``: a later order says otherwise."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Order:
    """``worker`` is ``None`` where any will do, which only a load may say. ``by`` is who asked.

    Instants are epoch seconds; ``expires_at`` is only shown: the store counts an order's life on its own clock.
    ``reason`` says why it ended so.
    """

    id: str
    action: Action
    model: str
    worker: str | None
    asked_at: float
    expires_at: float
    by: str = ""
    state: OrderState = OrderState.WAITING
    reason: str = ""
    ended_at: float | None = None

    def concerns(self, worker: str) -> bool:
        """True if that worker may be the one to carry it out."""
        return self.worker in (None, worker)


@dataclass(frozen=True, slots=True)
class Pins:
    """Models pinned by hand, as pairs of model and worker (``EVERYWHERE`` for all workers)."""

    held: frozenset[tuple[str, str]] = frozenset()

    def cover(self, model: str, worker: str) -> bool:
        """True if the model is no victim on that worker."""
        return bool(self.held) and ((model, worker) in self.held or (model, EVERYWHERE) in self.held)

    def everywhere(self, model: str) -> bool:
        """True if it is pinned on every worker."""
        return (model, EVERYWHERE) in self.held

    def workers(self, model: str) -> tuple[str, ...]:
        """The workers on which it has a pin of its own, by name."""
        return tuple(sorted(worker for pinned, worker in self.held if pinned == model and worker != EVERYWHERE))


NO_PINS = Pins()
