"""The report's page: pictures, aims and all numbers, in one HTML file beside its PNGs."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.measures import Measures
from bench.rows import cell, identity
from bench.targets import Verdict

SHOWN = ("mean_s", "p50_s", "p99_s", "loads", "hit_ratio", "load_share", "rare_wait_ratio", "gap_closed")
BESIDE = (
    *("lower_bound_mean_s", "zero_load_mean_s", "decision_us_p50", "decision_us_p99", "decision_us_mean"),
    *("loads_per_model", "copies_before", "copies_during", "copies_after"),
    *("hot_hit_before", "hot_hit_during", "hot_hit_after"),
)
_STYLE = (
    "body{font:15px system-ui;margin:2em auto;max-width:75em;padding:0 1em}"
    "table{border-collapse:collapse;font-size:13px;margin:1em 0}"
    "td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right}td:nth-child(-n+6){text-align:left}"
    "tr.ours{background:#fbe9e7}tr.missed{color:#c0392b}img{max-width:100%;margin:1em 0}"
)


def write_page(rows: Sequence[Measures], verdicts: Sequence[Verdict], header: dict[str, str], folder: Path) -> None:
    """Draw the pictures and write ``index.html``. ``header``: what to know before reading, by name."""
    # Here, so that a simulation needs no matplotlib.
    from bench.plots import draw  # noqa: PLC0415

    pictures = draw(rows, folder)
    facts = "".join(f"<li>{html.escape(name)}: <code>{html.escape(value)}</code>" for name, value in header.items())
    shown = "".join(f"<img src='{name}' alt='{html.escape(caption, quote=True)}'>" for name, caption in pictures)
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Affinity: placement compared</title>"
        f"<style>{_STYLE}</style><h1>Placement compared</h1><p>Simulated. Latency is from arrival to end, in seconds. "
        f"<code>results.json</code> has every number.</p><ul>{facts}</ul>{shown}"
        f"<h2>Aims</h2>{_aims(verdicts)}<h2>All runs</h2>{_runs(rows)}</html>\n"
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _aims(verdicts: Sequence[Verdict]) -> str:
    heads = _row("th", ("aim", "where", "beside", "", "", "", "measured", "limit"))
    return _table(heads, (_aim(verdict) for verdict in sorted(verdicts, key=lambda v: v.aim)))


def _aim(verdict: Verdict) -> str:
    limit = f"{'at most' if verdict.at_most else 'at least'} {verdict.limit:g}"
    missed = "" if verdict.holds else "missed"
    cells = (verdict.aim, verdict.where, verdict.beside, missed, "", "", cell(verdict.value), limit)
    return _row("td", cells, missed)


def _runs(rows: Sequence[Measures]) -> str:
    there = [measure for measure in (*SHOWN, *BESIDE) if any(row.get(measure) is not None for row in rows)]
    heads = _row("th", ("workload", "arrivals", "load", "GPUs", "policy", "seed", *there))
    return _table(heads, (_run(row, there) for row in rows))


def _run(row: Measures, measures: Sequence[str]) -> str:
    cells = [*identity(row), str(row["seed"]), *(cell(row.get(measure)) for measure in measures)]
    return _row("td", cells, "ours" if row["policy"] == "affinity" else "")


def _table(heads: str, rows: Iterable[str]) -> str:
    return f"<table>{heads}{''.join(rows)}</table>"


def _row(tag: str, cells: Iterable[str], mark: str = "") -> str:
    shown = "".join(f"<{tag}>{html.escape(each)}</{tag}>" for each in cells)
    return f"<tr class='{mark}'>{shown}</tr>" if mark else f"<tr>{shown}</tr>"
