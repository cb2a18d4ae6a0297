"""Writes slo.yml: error ratios over seven windows and burn-rate alerts for every objective of docs/slo.md.

``python -m deploy.prometheus.slo_rules`` after a change; a test demands that the file is what this makes.
"""

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("slo.yml")
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

INTAKE = 'method="POST",route=~"/jobs|/jobs/batch|/produce|/batch-produce"'
CALLERS = "job_failed|invalid_input|job_timeout|payload_too_large|unknown_model"
"""Codes of jobs that failed by what their owner sent or set: no budget of ours is spent on them."""


@dataclass(frozen=True, slots=True)
class Slo:
    """An objective: the share of ``total`` that may not be ``bad``. ``WINDOW`` in both stands for the range."""

    name: str
    objective: float
    bad: str
    total: str


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert: a month's budget is used ``rate`` times too fast, over the long window and still in the short one."""

    rate: float
    long: str
    short: str
    severity: str


def _slower_than(seconds: str, start: str) -> str:
    inside = f'job_wait_seconds_bucket{{start="{start}",le="{seconds}"}}[WINDOW]'
    return f'sum(rate(job_wait_seconds_count{{start="{start}"}}[WINDOW])) - sum(rate({inside}))'


SLOS = (
    Slo(
        "acceptance",
        0.999,
        f'sum(rate(http_request_duration_seconds_count{{{INTAKE},status=~"429|5.."}}[WINDOW])) or vector(0)',
        f"sum(rate(http_request_duration_seconds_count{{{INTAKE}}}[WINDOW]))",
    ),
    Slo(
        "completion",
        0.995,
        f'sum(rate(jobs_failed_total{{code!~"{CALLERS}"}}[WINDOW])) or vector(0)',
        "sum(rate(messages_consumed_total[WINDOW]))",
    ),
    Slo("wait-warm", 0.99, _slower_than("5.0", "warm"), 'sum(rate(job_wait_seconds_count{start="warm"}[WINDOW]))'),
    Slo("wait-cold", 0.95, _slower_than("60.0", "cold"), 'sum(rate(job_wait_seconds_count{start="cold"}[WINDOW]))'),
    Slo(
        "affinity",
        0.9,
        'sum(rate(messages_consumed_total{start="cold"}[WINDOW]))',
        "sum(rate(messages_consumed_total[WINDOW]))",
    ),
)
BURNS = (
    Burn(14.4, "1h", "5m", "page"),
    Burn(6.0, "6h", "30m", "page"),
    Burn(3.0, "1d", "2h", "ticket"),
    Burn(1.0, "3d", "6h", "ticket"),
)


def burns_of(slo: Slo) -> list[Burn]:
    """Those that can happen: no error ratio is above 1."""
    return [burn for burn in BURNS if burn.rate * (1 - slo.objective) < 1]


def text() -> str:
    """The whole file."""
    lines = [
        "# Written by deploy/prometheus/slo_rules.py: change that, then run python -m deploy.prometheus.slo_rules",
        "",
        "groups:",
        "  - name: slo",
        "    rules:",
    ]
    for slo in SLOS:
        for window in WINDOWS:
            bad, total = slo.bad.replace("WINDOW", window), slo.total.replace("WINDOW", window)
            lines += [
                f"      - record: slo:error_ratio:rate{window}",
                f"        labels: {{slo: {slo.name}}}",
                f"        expr: ({bad}) / ({total} > 0)",
            ]
    lines += ["", "  - name: slo-burn", "    rules:"]
    for slo in SLOS:
        for burn in burns_of(slo):
            most = f"{burn.rate * (1 - slo.objective):.6g}"
            long, short = (f'slo:error_ratio:rate{w}{{slo="{slo.name}"}}' for w in (burn.long, burn.short))
            lines += [
                "      - alert: ErrorBudgetBurn",
                f"        expr: {long} > {most} and {short} > {most}",
                f'        labels: {{severity: {burn.severity}, slo: {slo.name}, window: "{burn.long}"}}',
                "        annotations:",
                f"          summary: The error budget of {slo.name} burns {burn.rate:g} times too fast",
                "          description: >-",
                f"            {{{{ $value | humanizePercentage }}}} bad over {burn.long}; the objective allows",
                f"            {100 * (1 - slo.objective):.3g} %. docs/slo.md says what counts.",
                "          runbook_url: docs/runbook.md#errorbudgetburn",
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
