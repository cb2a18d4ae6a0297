import pytest
from rich.console import Console

from bench.load import LoadResult, Outcome, mix, table

CATALOGUE = [
    {"name": "echo", "runtime": "synthetic"},
    {"name": "a", "runtime": "synthetic"},
    {"name": "b", "runtime": "synthetic"},
    {"name": "minilm", "runtime": "sentence-embedding"},
]


def test_half_of_the_load_is_echo_and_the_rest_the_other_synthetic_models():
    jobs = mix(CATALOGUE, 1000)
    counts = {model: sum(job.model == model for job in jobs) for model in ("echo", "a", "b", "minilm")}
    assert counts["echo"] == pytest.approx(500, abs=60)
    assert counts["a"] == pytest.approx(250, abs=60)
    assert counts["minilm"] == 0
    assert sum(counts.values()) == 1000


def test_a_catalogue_without_other_synthetic_models_gets_echo_only():
    assert {job.model for job in mix([CATALOGUE[0], CATALOGUE[3]], 50)} == {"echo"}


def test_every_echo_job_has_content_of_its_own_and_expects_it_back():
    echoes = [job for job in mix(CATALOGUE, 200) if job.model == "echo"]
    assert all(job.expected == job.value for job in echoes)
    assert len({str(job.value) for job in echoes}) == len(echoes)


def test_the_table_counts_failures_and_leaves_them_out_of_the_times():
    outcomes = [
        Outcome("a", 0.010, "warm"),
        Outcome("a", 0.020, "cold"),
        Outcome("a", 9.0, None, "job x is failed"),
        Outcome("b", 0.5, None, "ReadTimeout: "),
    ]
    result = LoadResult(outcomes, 2.0)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table(result))
    lines = [[cell.strip() for cell in line.split("│")] for line in shown.get().splitlines()]
    assert ["", "a", "3", "1", "10.0", "20.0", "20.0", "50.0%", ""] in lines
    assert ["", "b", "1", "1", "-", "-", "-", "-", ""] in lines
    assert "4 jobs in 2.0 s: 2 jobs/s" in shown.get()
    assert result.faults == ["a: job x is failed", "b: ReadTimeout: "]
