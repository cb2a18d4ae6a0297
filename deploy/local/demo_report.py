"""What ``make demo`` prints at the end: per model jobs, warm starts, loads and mean wait, and a sample result."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from deploy.local.demo_jobs import COUNTS, DemoJob, cosine


class JobsFailed(Exception):
    """A job was refused, failed or did not end; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job that was sent and its record as the dispatcher gave it at the end."""

    job: DemoJob
    record: Mapping[str, Any] = field(repr=False)


async def loads_per_model(client: httpx.AsyncClient) -> Counter[str]:
    """How often each model was loaded, summed over the ``model_loads_total`` of every worker. Raises ``JobsFailed``."""
    loads: Counter[str] = Counter()
    try:
        workers = (await client.get("/workers")).raise_for_status().json()["workers"]
        # A process that serves several GPUs is several workers with one address.
        for url in sorted({worker["metrics_url"] for worker in workers}):
            page = await client.get(url)
            loads.update(loads_in(page.raise_for_status().text))
    except httpx.HTTPError as error:
        raise JobsFailed(f"the workers' metrics cannot be read: {error}") from error
    return loads


def loads_in(exposition: str) -> Counter[str]:
    """``model_loads_total`` per model in one page of Prometheus' text format."""
    loads: Counter[str] = Counter()
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == "model_loads_total":
                loads[sample.labels["model"]] += int(sample.value)
    return loads


def table(outcomes: Sequence[Outcome], loads: Mapping[str, int]) -> Table:
    """One line per model, in the catalogue's order, and a total."""
    shown = Table("model", "jobs", "warm starts", "loads", "mean wait (s)", title="What happened")
    for column in shown.columns[1:]:
        column.justify = "right"
    for model in COUNTS:
        shown.add_row(*_row(model, [each for each in outcomes if each.job.model == model], loads.get(model, 0)))
    shown.add_section()
    shown.add_row(*_row("all", outcomes, sum(loads.values())))
    return shown


def sample_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The first embedding's first numbers and the cosine of its two sentences."""
    sample = next(each for each in outcomes if each.job.model == "minilm-l6-v2" and each.job.number == 0)
    first, second = sample.record["result"]["embeddings"]
    texts = sample.job.input["texts"]
    assert isinstance(texts, list)
    numbers = ", ".join(f"{number:.4f}" for number in first[:4])
    return [
        f'sample: minilm-l6-v2 on "{texts[0]}" = \\[{numbers}, ...] ({len(first)} numbers)',
        f'        cosine with "{texts[1]}" = {cosine(first, second):.4f}',
    ]


def _row(name: str, outcomes: Sequence[Outcome], loads: int) -> list[str]:
    warm = sum(each.record["start"] == "warm" for each in outcomes)
    waits = [each.record["wait_s"] or 0.0 for each in outcomes]
    mean = f"{statistics.fmean(waits):.3f}" if waits else "-"
    return [name, str(len(outcomes)), str(warm), str(loads), mean]
