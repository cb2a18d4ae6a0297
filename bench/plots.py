"""The report's pictures (matplotlib, PNG). Means over seeds; a policy that failed somewhere is left out there."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cases import CURVE, OURS, STANDARD
from bench.measures import Measures
from bench.rows import good, in_bounds, mean_of, number, policies

mpl.use("Agg")
OURS_COLOUR, SIZE_IN, DPI = "#c0392b", (9.0, 5.0), 110


def draw(rows: Sequence[Measures], folder: Path) -> list[tuple[str, str]]:
    """Write the pictures. Returns ``(file name, caption)`` of each."""
    ended = good(rows)
    pictures = [
        ("latency-over-load.png", f"Mean latency over load ({CURVE}, Poisson)", _latency_over_load),
        ("mean.png", "Mean latency by workload, in lower bounds", _mean),
        ("tail.png", "99th percentile of the latency, in seconds", _tail),
        ("loads.png", "Loads per 100 jobs", _loads),
        (
            "fairness.png",
            "Mean wait of models under 1 % of traffic, over the mean wait of all (3 is the limit)",
            _fairness,
        ),
        ("fleets.png", f"Mean latency by number of GPUs at the same load ({CURVE}), in lower bounds", _fleets),
        ("ours-on-fleets.png", "Mean latency of our policy by number of GPUs, in lower bounds", _ours_on_fleets),
    ]
    for name, caption, paint in pictures:
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        axes = figure.subplots()
        axes.set_title(caption)
        paint(axes, ended)
        figure.savefig(folder / name, dpi=DPI)
    return [(name, caption) for name, caption, _ in pictures]


def is_own_setting(row: Measures) -> bool:
    """True for a workload as committed: its own arrivals and load."""
    return row["setting"] == "own"


def _latency_over_load(axes: Axes, rows: Sequence[Measures]) -> None:
    curve = [row for row in rows if row["workload"] == CURVE and row["setting"] in ("own", "load")]
    for policy in policies(curve):
        points: defaultdict[float, list[Measures]] = defaultdict(list)
        for row in (each for each in curve if each["policy"] == policy):
            points[number(row, "utilisation")].append(row)
        shares = sorted(points)
        style = {"color": OURS_COLOUR, "linewidth": 2.5, "zorder": 5} if policy == OURS else {"alpha": 0.8}
        axes.plot(shares, [mean_of(points[s], "mean_s") for s in shares], marker="o", label=policy, **style)
    axes.set(xlabel="execution over GPU time", ylabel="mean latency, s", yscale="log")
    axes.legend(fontsize="small", ncols=2)


def _mean(axes: Axes, rows: Sequence[Measures]) -> None:
    scaled: list[Measures] = [{**row, "in_bounds": in_bounds(row)} for row in rows]
    _bars(axes, scaled, "in_bounds", "mean latency over lower bound", logarithmic=True)


def _tail(axes: Axes, rows: Sequence[Measures]) -> None:
    _bars(axes, rows, "p99_s", "99th percentile, s", logarithmic=True)


def _loads(axes: Axes, rows: Sequence[Measures]) -> None:
    per_job: list[Measures] = [{**row, "per_job": 100 * number(row, "loads") / number(row, "jobs")} for row in rows]
    _bars(axes, per_job, "per_job", "loads per 100 jobs", logarithmic=False)


def _fairness(axes: Axes, rows: Sequence[Measures]) -> None:
    rare = [row for row in rows if row.get("rare_wait_ratio") is not None]
    _bars(axes, rare, "rare_wait_ratio", "rare over all", logarithmic=False)
    axes.axhline(3, color="grey", linestyle="--", linewidth=1)


def _fleets(axes: Axes, rows: Sequence[Measures]) -> None:
    for policy in policies(rows):
        points = _by_size([row for row in rows if (row["workload"], row["policy"]) == (CURVE, policy)])
        style = {"color": OURS_COLOUR, "linewidth": 2.5, "zorder": 5} if policy == OURS else {"alpha": 0.8}
        if len(points) > 1:
            axes.plot([*points], [*points.values()], marker="o", label=policy, **style)
    _fleet_axes(axes)


def _ours_on_fleets(axes: Axes, rows: Sequence[Measures]) -> None:
    for workload in STANDARD:
        points = _by_size([row for row in rows if (row["workload"], row["policy"]) == (workload, OURS)])
        if len(points) > 1:
            axes.plot([*points], [*points.values()], marker="o", label=workload)
    _fleet_axes(axes)


def _by_size(rows: Sequence[Measures]) -> dict[float, float]:
    """Mean latency over its bound by number of GPUs, of the rows at their workload's own load and arrivals."""
    steady = [row for row in rows if row["setting"] in ("own", "fleet")]
    found: defaultdict[float, list[float]] = defaultdict(list)
    for row in steady:
        found[number(row, "workers")].append(in_bounds(row))
    return {size: sum(found[size]) / len(found[size]) for size in sorted(found)}


def _fleet_axes(axes: Axes) -> None:
    axes.set(xlabel="GPUs", ylabel="mean latency over lower bound", xscale="log", yscale="log")
    if axes.lines:
        axes.legend(fontsize="small", ncols=2)


def _bars(axes: Axes, rows: Sequence[Measures], measure: str, label: str, *, logarithmic: bool) -> None:
    own = [row for row in rows if is_own_setting(row)]
    groups, shown = list(dict.fromkeys(str(row["workload"]) for row in own)), policies(own)
    width = 0.85 / max(1, len(shown))
    for place, policy in enumerate(shown):
        heights = [
            mean_of([row for row in own if (row["workload"], row["policy"]) == (group, policy)], measure)
            for group in groups
        ]
        at = [group - 0.425 + width * (place + 0.5) for group in range(len(groups))]
        axes.bar(at, heights, width, label=policy, color=OURS_COLOUR if policy == OURS else None)
    axes.set_xticks(range(len(groups)), groups, rotation=20, fontsize="small")
    axes.set_ylabel(label)
    if logarithmic:
        axes.set_yscale("log")
    axes.legend(fontsize="x-small", ncols=2)
