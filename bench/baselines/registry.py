"""Every policy ``--policy`` knows, by name."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from affinity.policy.tuning import DEFAULT, LRU_EVICTION, NO_HOLD, UNAMORTISED_GUARD, Tuning
from bench.baselines.bound import EarlyBound, LeastWork, RandomChoice, RoundRobin
from bench.baselines.estimating import EarliestCompletion, StaticPinning
from bench.baselines.hashed import BoundedHash, StickyHash
from bench.baselines.shared import TimeoutMultiplex, WarmFifo
from bench.models_file import BadInput
from bench.planned import Planned
from bench.scheduler import Scheduler
from bench.trace import TraceJob
from bench.world import World

Make = Callable[[World, Sequence[TraceJob], int], Scheduler]

BASELINES: tuple[type[EarlyBound] | type[WarmFifo], ...] = (
    RoundRobin,
    RandomChoice,
    LeastWork,
    WarmFifo,
    StickyHash,
    BoundedHash,
    EarliestCompletion,
    TimeoutMultiplex,
    StaticPinning,
)

ABLATIONS = {"no-hold": NO_HOLD, "lru-eviction": LRU_EVICTION, "unamortised-guard": UNAMORTISED_GUARD}
"""Our policy with one of its rules taken away."""


def _planned(name: str, tuning: Tuning) -> Make:
    def make(world: World, jobs: Sequence[TraceJob], seed: int) -> Scheduler:
        del jobs, seed
        return Planned(world, name, tuning)

    return make


POLICIES: Mapping[str, Make] = MappingProxyType(
    {
        "affinity": _planned("affinity", DEFAULT),
        **{each.name: each for each in BASELINES},
        **{name: _planned(name, tuning) for name, tuning in ABLATIONS.items()},
    }
)


def scheduler(name: str, world: World, jobs: Sequence[TraceJob], seed: int) -> Scheduler:
    """A new scheduler of that name for one run. Raises ``BadInput`` for an unknown one."""
    if name not in POLICIES:
        raise BadInput(f"there is no policy {name!r}; use one of {', '.join(POLICIES)}")
    return POLICIES[name](world, jobs, seed)
