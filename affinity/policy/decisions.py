"""Decisions are values with their reason: the shell logs it once, explain returns it, a test reads it."""

from dataclasses import dataclass

from affinity.errors import InvariantBroken
from affinity.job import JobError


@dataclass(frozen=True, slots=True)
class Serve:
    """``worker`` takes up to ``most`` queued jobs of a model it holds."""

    worker: str
    model: str
    most: int
    reason: str


@dataclass(frozen=True, slots=True)
class Load:
    """``worker`` evicts ``victims``, then loads ``model``, which takes ``footprint_bytes``.

    ``copies`` is how many workers held the model when this was decided: if there are more by now, it is out of date.
    ``order`` is the id of the operator's order it carries out; empty where the policy itself wants the load.
    """

    worker: str
    model: str
    footprint_bytes: int
    victims: tuple[str, ...]
    copies: int
    reason: str
    order: str = ""


@dataclass(frozen=True, slots=True)
class Unload:
    """``worker`` takes no more jobs of ``model`` and evicts it once none runs there, to make room for nothing.

    ``order`` is the id of the operator's order that it carries out.
    """

    worker: str
    model: str
    reason: str
    order: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No live worker can load ``model``: ``worker`` fails its queued jobs with ``error``."""

    worker: str
    model: str
    error: JobError


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody loads ``model`` now; ``until`` is when that may change by itself (``None``: only by an event).

    ``order`` is the id of the operator's order that waits; empty where it is the model's queued jobs.
    """

    model: str
    until: float | None
    reason: str
    order: str = ""


Decision = Serve | Load | Unload | GiveUp | Wait


@dataclass(frozen=True, slots=True)
class Plan:
    """What the whole fleet should do now, and the next instant at which a rule could change its mind."""

    decisions: tuple[Decision, ...]
    wake_at: float | None = None

    def serve(self, worker: str) -> Serve | None:
        """What that worker should serve next."""
        return next((d for d in self.decisions if isinstance(d, Serve) and d.worker == worker), None)

    def load(self, worker: str) -> Load | None:
        """What that worker should load."""
        return next((d for d in self.decisions if isinstance(d, Load) and d.worker == worker), None)

    def unloads(self, worker: str) -> tuple[Unload, ...]:
        """The models that worker should evict, because an operator asked for it."""
        return tuple(d for d in self.decisions if isinstance(d, Unload) and d.worker == worker)

    def give_ups(self, worker: str) -> tuple[GiveUp, ...]:
        """The models whose jobs that worker should fail."""
        return tuple(d for d in self.decisions if isinstance(d, GiveUp) and d.worker == worker)

    def about(self, model: str) -> Decision:
        """The decision that concerns a model most: a load, a refusal, who serves it, why it waits, or an eviction."""
        concerning = [d for d in self.decisions if d.model == model]
        for kind in (Load, GiveUp, Serve, Wait, Unload):
            for decision in concerning:
                if isinstance(decision, kind):
                    return decision
        raise InvariantBroken(f"the plan says nothing of {model}")
