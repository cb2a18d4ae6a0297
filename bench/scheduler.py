"""What the simulator asks at every event: who starts what, who loads what. Ours and every baseline answer alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.trace import TraceJob
from bench.world import World


@dataclass(frozen=True, slots=True)
class Start:
    """``node`` runs these jobs, all of one model that is ready there, as one batch."""

    node: str
    jobs: Sequence[TraceJob]


@dataclass(frozen=True, slots=True)
class Bring:
    """``node`` evicts ``victims`` and loads ``model``."""

    node: str
    model: str
    victims: Sequence[str]


Step = Start | Bring


class PolicyFault(Exception):
    """The policy decided what cannot be done, or leaves jobs waiting although nothing more will happen."""


class Scheduler(Protocol):
    """Lives for one run. It may look at the world and must not change it."""

    @property
    def name(self) -> str:
        """What ``--policy`` calls it."""

    @property
    def wake_at(self) -> float | None:
        """When it wants to be asked again though nothing happened; later than the instant it was asked last."""

    @property
    def decisions_ns(self) -> Sequence[int]:
        """How long each decision took, in nanoseconds of real time."""

    def arrived(self, job: TraceJob) -> None:
        """A job is queued from now on."""

    def changed(self, node: str) -> None:
        """Something began or ended on that node."""

    def ran(self, jobs: Sequence[TraceJob], took_s: float) -> None:
        """A batch has ended."""

    def steps(self, world: World, now: float) -> Iterable[Step]:
        """What to do now. Asked again until it has nothing more; each step must be possible in the given order."""
