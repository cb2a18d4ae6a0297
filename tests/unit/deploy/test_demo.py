"""What the demo sends and how it sums up."""

import base64
from collections import Counter

import pytest
from rich.console import Console

from deploy.local.demo_jobs import COUNTS, SAMPLE_RATE, cosine, demo_jobs, spoken_vowel
from deploy.local.demo_report import Outcome, loads_in, sample_lines, table
from deploy.local.fleet import api_key_header, listed_workers
from models.catalog import Catalog, default_catalog_path
from models.inputs import validate_input

METRICS = """\
# HELP model_loads_total Loads.
# TYPE model_loads_total counter
model_loads_total{worker="w1",model="echo",tier="disk",reason="demand"} 2.0
model_loads_total{worker="w1",model="echo",tier="host",reason="demand"} 1.0
model_loads_total{worker="w1",model="minilm-l6-v2",tier="disk",reason="demand"} 1.0
# TYPE worker_up gauge
worker_up{worker="w1"} 1.0
"""


def test_the_mix_is_two_hundred_jobs_and_always_the_same() -> None:
    jobs = demo_jobs()
    assert len(jobs) == 200
    assert Counter(job.model for job in jobs) == COUNTS
    assert jobs == demo_jobs()
    assert len({job.model for job in jobs[:20]}) > 3


def test_every_job_is_one_the_shipped_catalogue_takes() -> None:
    catalog = Catalog.load(default_catalog_path())
    for job in demo_jobs():
        validate_input(catalog.get(job.model), dict(job.input))


def test_the_sound_is_a_second_of_pcm_that_is_not_silent() -> None:
    sound = spoken_vowel()
    assert len(sound) == 2 * SAMPLE_RATE
    assert max(sound) > 0
    assert base64.b64decode(str(next(j for j in demo_jobs() if j.model == "silero-vad").input["pcm16_base64"])) == sound


def test_cosine_of_the_same_and_of_unrelated_directions() -> None:
    assert cosine([3.0, 4.0], [6.0, 8.0]) == pytest.approx(1.0)
    assert cosine([1.0, 0.0], [0.0, 2.0]) == pytest.approx(0.0)


def test_loads_are_summed_over_tiers_and_reasons() -> None:
    assert loads_in(METRICS) == {"echo": 3, "minilm-l6-v2": 1}


def outcomes() -> list[Outcome]:
    result = {"embeddings": [[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0]]}
    record = {"start": "warm", "wait_s": 0.25, "result": result}
    return [Outcome(job, record | {"start": "cold"} if job.number == 0 else record) for job in demo_jobs()]


def test_the_table_counts_per_model_and_in_all() -> None:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(table(outcomes(), {"echo": 2, "minilm-l6-v2": 1}))
    rows = {cells[0]: cells[1:] for line in shown.get().splitlines() if (cells := line.replace("│", " ").split())}
    assert rows["echo"] == ["40", "39", "2", "0.250"]
    assert rows["all"] == ["200", "194", "3", "0.250"]


def test_the_sample_shows_numbers_and_the_cosine() -> None:
    text = "\n".join(sample_lines(outcomes()))
    assert "1.0000, 0.0000" in text
    assert "0.6000" in text


def test_a_worker_with_several_gpus_is_known_by_its_node() -> None:
    answer = {"workers": [{"id": "worker-1-gpu0", "node": "worker-1"}, {"id": "worker-1-gpu1", "node": "worker-1"}]}
    assert "worker-1" in listed_workers(answer)
    assert listed_workers([]) == set()


def test_the_first_key_opens_the_door() -> None:
    assert api_key_header({"AFFINITY_API_KEYS": " one, two"}) == {"Authorization": "Bearer one"}
    assert api_key_header({}) == {}
