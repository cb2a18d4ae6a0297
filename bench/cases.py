"""The runs a report consists of: which workload, how it arrives, on how many GPUs, under which policy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.baselines.registry import ABLATIONS
from bench.measures import Measures, gap_closed
from bench.scenarios import observed
from bench.scheduler import PolicyFault
from bench.simulate import GAP_BASELINE
from bench.workload import Workload, workloads

OURS = "affinity"
STANDARD = ("studio", "community", "marketplace", "adapters")
SPECIAL = ("live16", "cold50", "sweep", "hot-spread")
NO_HELP = ("light-loads", "all-fit")
CURVE = "studio"
UTILISATIONS = (0.3, 0.45, 0.6, 0.7, 0.8)
BURSTY = ("gamma-cv3", "gamma-cv10", "peaks")
FLEETS = (1, 4, 16, 64)
"""Besides the 8 GPUs of each workload; the rate grows with them, so that the utilisation is the same."""

MOST_JOBS = 24_000
QUICK_JOBS = 600
QUICK_POLICIES = (OURS, GAP_BASELINE, "least-work-lru", "earliest-completion")


@dataclass(frozen=True, slots=True)
class Case:
    """One run. What is ``None`` is the workload's own."""

    workload: str
    policy: str
    seed: int = 0
    arrivals: str | None = None
    utilisation: float | None = None
    workers: int | None = None
    jobs: int | None = None

    @property
    def setting(self) -> "Case":
        """The same but for the policy: cases with the same setting are compared."""
        return replace(self, policy="")

    def made(self) -> Workload:
        """The workload with this case's changes."""
        chosen = workloads()[self.workload]
        given = {name: getattr(self, name) for name in ("arrivals", "utilisation", "workers", "jobs")}
        return replace(chosen, **{name: value for name, value in given.items() if value is not None})

    def run(self) -> Measures:
        """The numbers, with what the case is. A policy that fails leaves ``fault`` in their place."""
        workload = self.made()
        row: Measures = {"workload": self.workload, "arrivals": workload.arrivals, "utilisation": workload.utilisation}
        try:
            return row | observed(workload, self.policy, self.seed)[0]
        except PolicyFault as fault:
            identity: Measures = {"policy": self.policy, "seed": self.seed, "workers": workload.workers}
            return row | identity | {"fault": str(fault)}


def cases(policies: Sequence[str], seeds: Sequence[int], quick: bool) -> list[Case]:
    """All runs of a report, each once."""
    if quick:
        names, policies = ("studio", "live16", "all-fit"), [name for name in policies if name in QUICK_POLICIES]
        made = [Case(name, policy, jobs=QUICK_JOBS) for name in names for policy in policies]
        made += [Case(CURVE, policy, utilisation=0.3, jobs=QUICK_JOBS) for policy in policies]
        made += [Case(CURVE, policy, workers=workers, jobs=QUICK_JOBS) for workers in (4, 16) for policy in policies]
        return made
    return list(dict.fromkeys(each for seed in seeds for each in _full(policies, seed)))


def _full(policies: Sequence[str], seed: int) -> Iterator[Case]:
    for policy in policies:
        yield from (Case(name, policy, seed) for name in (*STANDARD, *SPECIAL, *NO_HELP))
        yield from (Case(CURVE, policy, seed, arrivals=arrivals) for arrivals in BURSTY)
        own = workloads()[CURVE].utilisation
        yield from (Case(CURVE, policy, seed, utilisation=share) for share in UTILISATIONS if share != own)
        # An ablation on every fleet would say nothing that it does not say on one.
        fleets = () if policy in ABLATIONS else FLEETS
        for name in STANDARD:
            for workers in fleets:
                jobs = min(MOST_JOBS, max(workloads()[name].jobs, workloads()[name].jobs * workers // 8))
                yield Case(name, policy, seed, workers=workers, jobs=jobs)


def with_gaps(found: Mapping[Case, Measures]) -> list[Measures]:
    """The rows, each with ``gap_closed`` where round robin ran in the same setting."""
    beside = {case.setting: row for case, row in found.items() if case.policy == GAP_BASELINE}
    rows = []
    for case, row in found.items():
        base = beside.get(case.setting)
        if base and "mean_s" in row and "mean_s" in base:
            ours, theirs, zero = (
                float(row["mean_s"] or 0),
                float(base["mean_s"] or 0),
                float(row["zero_load_mean_s"] or 0),
            )
            rows.append({**row, "gap_closed": gap_closed(ours, theirs, zero)})
        else:
            rows.append(row)
    return rows
