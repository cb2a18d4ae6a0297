"""``python -m bench scenario``: three situations that placement must master, each with the figure that shows it.

``cold50``: many cold models at once must not reload on every job. ``hot-spread``: a model that becomes hot gets copies
and loses them again. ``sweep``: one job for every model there is, once a day, must not flush those that are hot.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from bench.baselines import POLICIES
from bench.measures import Measures
from bench.observed import Observed
from bench.scheduler import PolicyFault, Scheduler
from bench.simulate import simulated
from bench.workload import Workload, workloads
from bench.world import World

STEP_S = 600.0
"""One row of a figure over time."""

SETTLE_S = 1200.0
"""So long after a hot model cooled down its copies should be gone; and so long a sweep takes, with what it delays."""

AROUND_S = 3600.0
"""What is called before and after a sweep."""

BAR = 30
"""A bar of so many characters is all."""

HOT_MODELS = 8
"""The hot set: so many models that most is asked for before the sweep."""

Period = tuple[str, float, float]
Figures = Callable[[Workload, Observed], Measures]


def cold_figures(workload: Workload, seen: Observed) -> Measures:
    """Loads over what must be: one of each model."""
    return {"loads_per_model": sum(by > 0 for _, _, by in seen.moves) / workload.models}


def spread_figures(workload: Workload, seen: Observed) -> Measures:
    """Most copies of the model that becomes hot: before, while it is hot, and a while after."""
    hot = hot_models(seen, 1)
    periods = (
        ("before", 0.0, workload.hot_from_s),
        ("during", workload.hot_from_s, workload.hot_until_s),
        ("after", workload.hot_until_s + SETTLE_S, float("inf")),
    )
    return {f"copies_{name}": max(seen.copies(model, a, b)[1] for model in hot) for name, a, b in periods}


def sweep_figures(workload: Workload, seen: Observed) -> Measures:
    """Hit ratio of the hot set before, during and after the sweep."""
    hot = hot_models(seen, HOT_MODELS, until_s=workload.sweep_at_s or 0.0)
    return {f"hot_hit_{name}": seen.hit_ratio(hot, a, b) for name, a, b in sweep_periods(workload)}


def sweep_periods(workload: Workload) -> tuple[Period, Period, Period]:
    """Before, during and after: names and instants."""
    at = workload.sweep_at_s or 0.0
    return (
        ("before", at - AROUND_S, at),
        ("during", at, at + SETTLE_S),
        ("after", at + SETTLE_S, at + SETTLE_S + AROUND_S),
    )


def hot_models(seen: Observed, most: int, until_s: float = float("inf")) -> frozenset[str]:
    """Those that most is asked for."""
    asked = Counter(each.job.model for each in seen.starts if each.at < until_s)
    return frozenset(model for model, _ in asked.most_common(most))


FIGURES: Mapping[str, Figures] = MappingProxyType(
    {"cold50": cold_figures, "hot-spread": spread_figures, "sweep": sweep_figures}
)


def observed(workload: Workload, policy: str, seed: int) -> tuple[Measures, Observed]:
    """The numbers of a scenario with its own figures among them, and all that was seen. Raises ``PolicyFault``."""
    jobs, models = workload.generate(seed)
    watching: list[Observed] = []

    def watch(inner: Scheduler, world: World) -> Scheduler:
        watching.append(Observed(inner, world))
        return watching[0]

    found = simulated(jobs, models, workload.shape, policy, seed, watch=watch)
    figures = FIGURES.get(workload.name)
    return found | (figures(workload, watching[0]) if figures else {}), watching[0]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's arguments."""
    added = commands.add_parser("scenario", help="one of the situations placement must master, and its figure")
    added.add_argument("name", choices=FIGURES, help="; ".join(f"{n}: {workloads()[n].summary}" for n in FIGURES))
    added.add_argument("--policy", choices=POLICIES, default="affinity", help="default: %(default)s")
    added.add_argument("--seed", type=int, default=0, help="default: 0")
    added.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0, or 1 if the policy leaves jobs waiting."""
    workload = workloads()[options.name]
    try:
        found, seen = observed(workload, options.policy, options.seed)
    except PolicyFault as error:
        Console(stderr=True, highlight=False).print(f"[red]the policy failed:[/red] {error}", soft_wrap=True)
        return 1
    if options.json:
        print(json.dumps({"workload": workload.name} | found))
    else:
        console = Console(highlight=False)
        console.print(f"{workload.name}: {workload.summary} ({options.policy}, seed {options.seed})")
        console.print(*_shown(workload, found, seen), sep="\n")
    return 0


def _shown(workload: Workload, found: Measures, seen: Observed) -> list[Table]:
    made = Table("measure", "value")
    own = [name for name in found if name.startswith(("loads_per", "copies_", "hot_hit_"))]
    for name in ("jobs", "mean_s", "p99_s", "loads", "hit_ratio", *own):
        value = found[name]
        made.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    if workload.name == "cold50":
        return [made]
    return [_over_time(workload, seen), made]


def _over_time(workload: Workload, seen: Observed) -> Table:
    """Copies of the hot model, or the hit ratio of the hot set, by time."""
    spreading = workload.name == "hot-spread"
    if spreading:
        hot, what, at, until_s = hot_models(seen, 1), "copies of the hot model", 0.0, seen.starts[-1].at
    else:
        hot, what = hot_models(seen, HOT_MODELS, workload.sweep_at_s or 0.0), "hit ratio of the hot set"
        (_, at, _), _, (_, _, until_s) = sweep_periods(workload)
    table = Table("from, min", "starts", what, "", title=f"{what}, over time", title_justify="left")
    while at < until_s:
        starts = sum(at <= each.at < at + STEP_S and each.job.model in hot for each in seen.starts)
        if spreading:
            fewest, most = seen.copies(next(iter(hot)), at, at + STEP_S)
            shown = (f"{fewest} to {most}", "#" * most)
        else:
            ratio = seen.hit_ratio(hot, at, at + STEP_S)
            shown = ("-", "") if ratio is None else (f"{ratio:.3f}", "#" * round(BAR * ratio))
        table.add_row(f"{at / 60:.0f}", str(starts), *shown)
        at += STEP_S
    return table
