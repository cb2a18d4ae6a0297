"""What the dashboards are made of: a panel as a value, and how it becomes one of Grafana's.

Every panel has a unit and one line that says how to read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.dashboard import Panel as GrafanaPanel
from grafana_foundation_sdk.models.dashboard import Threshold as Step
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef("prometheus", "affinity-prometheus")
ON_WORKER = 'worker=~"$worker"'
ON_GPU = 'worker=~"$worker",gpu=~"$gpu"'
RATE = "[$__rate_interval]"
OF_MODEL = 'model=~"$model"'

RESIDENCY = {"1": ("loading", "yellow"), "2": ("ready", "green"), "3": ("running", "blue"), "4": ("leaving", "orange")}


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and what its series are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel, a graph where it is no other kind. ``width`` is of 24, ``highest`` the end of its axis."""

    title: str
    says: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 12
    height: int = 8
    stacked: bool = False
    highest: float | None = None


@dataclass(frozen=True, slots=True)
class Number(Panel):
    """The value now, in large. From ``warn`` on it is yellow, from ``bad`` on red; below them where ``bad < warn``."""

    width: int = 4
    height: int = 4
    warn: float | None = None
    bad: float | None = None


@dataclass(frozen=True, slots=True)
class States(Panel):
    """Residents' states over time."""

    width: int = 24
    height: int = 10


@dataclass(frozen=True, slots=True)
class Rows(Panel):
    """A table of the values now."""


def query(expr: str, legend: str = "__auto") -> tuple[Query]:
    """A panel's only one."""
    return (Query(expr, legend),)


def dashboard_of(uid: str, title: str, about: str, rows: Sequence[tuple[str, Sequence[Panel]]]) -> dashboard.Dashboard:
    """A dashboard with the variables worker, gpu and model."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["affinity"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(_variable("worker", "label_values(gpu_memory_total_bytes, worker)"))
        .with_variable(_variable("gpu", 'label_values(gpu_memory_total_bytes{worker=~"$worker"}, gpu)'))
        .with_variable(_variable("model", "label_values(model_queue_depth, model)"))
    )
    for name, panels in rows:
        made.with_row(dashboard.Row(name))
        for panel in panels:
            made.with_panel(_built(panel))
    return made


def _variable(name: str, values: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _built(panel: Panel) -> Builder[GrafanaPanel]:
    made = _drawn(panel)
    made.title(panel.title).description(panel.says).unit(panel.unit).datasource(SOURCE)
    made.span(panel.width).height(panel.height)
    for letter, one in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(one.expr).legend_format(one.legend).ref_id(letter)
        if isinstance(panel, Rows):
            target.instant().format(PromQueryFormat.TABLE)
        made.with_target(target)
    return made  # type: ignore[no-any-return]


def _drawn(panel: Panel) -> Any:
    # The builders share their methods, but no class that has them: the SDK is generated.
    if isinstance(panel, States):
        return _states()
    if isinstance(panel, Number):
        return _number(panel)
    if isinstance(panel, Rows):
        return table.Panel()
    drawn = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(25 if panel.stacked else 8)
        .gradient_mode(GraphGradientMode.NONE)
        .show_points(VisibilityMode.NEVER)
        .min(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.highest is not None:
        drawn.max(panel.highest)
    return drawn.stacking(common.StackingConfig().mode(StackingMode.NORMAL)) if panel.stacked else drawn


def _number(panel: Number) -> stat.Panel:
    drawn = stat.Panel().graph_mode(BigValueGraphMode.AREA)
    drawn.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    steps = [Step(None, "green")]
    if panel.warn is not None and panel.bad is not None:
        if panel.bad < panel.warn:
            steps = [Step(None, "red"), Step(panel.bad, "yellow"), Step(panel.warn, "green")]
        else:
            steps += [Step(panel.warn, "yellow"), Step(panel.bad, "red")]
    drawn.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return drawn


def _states() -> statetimeline.Panel:
    options = {value: ValueMappingResult(text, color) for value, (text, color) in RESIDENCY.items()}
    drawn = statetimeline.Panel().merge_values(True).show_value(VisibilityMode.AUTO).row_height(0.85)
    return drawn.mappings([ValueMap(options)])
