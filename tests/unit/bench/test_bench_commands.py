"""``simulate``, ``workload``, ``catalog`` and ``report`` as a person or a script calls them."""

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cases import Case, cases, with_gaps
from bench.measures import gap_closed
from bench.workload import workloads
from models.catalog import Catalog
from models.entry import SyntheticOptions

PROMISED = {
    *("policy", "jobs", "mean_s", "p50_s", "p95_s", "p99_s", "max_wait_s", "loads", "hit_ratio", "load_share"),
    *("makespan_s", "lower_bound_mean_s", "zero_load_mean_s"),
    *("decision_us_p50", "decision_us_p99", "decision_us_mean"),
}


def written(folder: Path, name: str = "studio", jobs: int = 200) -> list[str]:
    files = ["--trace", str(folder / "t.jsonl"), "--models", str(folder / "m.json")]
    assert main(["workload", name, "--seed", "3", "--jobs", str(jobs), *files], {}) == 0
    return files


def test_a_written_workload_can_be_simulated_and_all_numbers_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path)
    assert "python -m bench simulate --trace" in capsys.readouterr().err
    assert main(["simulate", *files, "--workers", "8", "--vram-gib", "24", "--gap", "--json"], {}) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= PROMISED
    assert (found["policy"], found["jobs"], found["workers"], found["load"]) == ("affinity", 200, 8, "blocking")
    assert found["lower_bound_mean_s"] <= found["mean_s"] <= found["p99_s"]
    assert found["p50_s"] <= found["p95_s"] <= found["p99_s"]
    assert 0 <= found["hit_ratio"] <= 1
    assert 0 < found["load_share"] < 1
    assert found["decision_us_p50"] > 0
    assert found["gap_closed"] <= 1


def test_the_same_seed_prints_the_same_numbers_but_for_the_real_time_of_a_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path)
    capsys.readouterr()

    def once(seed: str) -> dict[str, object]:
        options = ["--workers", "4", "--vram-gib", "24", "--policy", "random-lru", "--seed", seed, "--json"]
        assert main(["simulate", *files, *options], {}) == 0
        return {k: v for k, v in json.loads(capsys.readouterr().out).items() if not k.startswith("decision_us")}

    assert once("1") == once("1")
    assert once("1")["mean_s"] != once("2")["mean_s"]


def test_without_json_a_person_gets_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = written(tmp_path)
    assert main(["simulate", *files, "--workers", "4", "--vram-gib", "24"], {}) == 0
    assert "lower_bound_mean_s" in capsys.readouterr().out


def test_input_that_cannot_be_used_ends_with_2_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = written(tmp_path)
    assert main(["simulate", *files, "--workers", "2", "--vram-gib", "8"], {}) == 2
    assert "takes 11.0 GiB and every GPU has 8.0 GiB" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "t.jsonl").write_text("{}\n")
    assert main(["simulate", *files, "--workers", "2", "--vram-gib", "24"], {}) == 2
    assert "t.jsonl, line 1: arrival_s must be a number" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "wrong",
    [
        ["--workers", "0"],
        ["--workers", "x"],
        ["--vram-gib", "-1"],
        ["--vram-gib", "nan"],
        ["--host-cache-gib", "inf"],
        ["--policy", "best"],
        ["--load", "magic"],
    ],
)
def test_a_wrong_argument_ends_with_2(tmp_path: Path, wrong: list[str]) -> None:
    good = ["--trace", str(tmp_path / "t"), "--models", str(tmp_path / "m"), "--workers", "1", "--vram-gib", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *good, *wrong], {})
    assert ended.value.code == 2


def test_a_workload_with_impossible_numbers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--trace", str(tmp_path / "t"), "--models", str(tmp_path / "m")]
    assert main(["workload", "studio", "--utilisation", "0", *files], {}) == 2
    assert "--utilisation must be above 0" in capsys.readouterr().err
    assert main(["workload", "studio", "--jobs", "5", "--trace", str(tmp_path / "no" / "t"), *files[2:]], {}) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_catalogue_of_the_models_can_be_loaded_and_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path, "live16")
    capsys.readouterr()
    assert main(["catalog", *files[2:]], {}) == 0
    (tmp_path / "catalog.toml").write_text(capsys.readouterr().out)
    catalogue = Catalog.load(tmp_path / "catalog.toml")
    models = json.loads((tmp_path / "m.json").read_text())
    assert {entry.name for entry in catalogue} == set(models)
    for entry in catalogue:
        assert entry.vram_gib == models[entry.name]["vram_gib"]
        options = entry.options_as(SyntheticOptions)
        assert (options.load_s, options.exec_s) == (models[entry.name]["load_s"], 0.04)


def test_a_catalogue_of_a_bad_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "--models", str(tmp_path / "missing.json")], {}) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_quick_report_writes_numbers_pictures_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--quick", "--processes", "1", "--out", str(tmp_path / "r")], {}) == 0
    rows = json.loads((tmp_path / "r" / "results.json").read_text())["runs"]
    assert {row["policy"] for row in rows} >= {"affinity", "round-robin-lru"}
    assert all(row["gap_closed"] <= 1 for row in rows if row["policy"] == "affinity")
    page = (tmp_path / "r" / "index.html").read_text()
    pictures = sorted(path.name for path in (tmp_path / "r").glob("*.png"))
    assert len(pictures) == 7
    assert all(f"<img src='{name}'" in page for name in pictures)
    assert all((tmp_path / "r" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    shown = capsys.readouterr().out
    for part in ("index.html", "one decision, in microseconds", "mean over that of least work", "aims reached"):
        assert part in shown


def test_a_full_report_has_every_workload_under_every_policy_and_ours_on_every_fleet() -> None:
    made = cases(["affinity", "round-robin-lru"], [0, 1], quick=False)
    assert len(set(made)) == len(made)
    for name in ("studio", "community", "marketplace", "adapters", "live16", "cold50", "light-loads", "all-fit"):
        for policy in ("affinity", "round-robin-lru"):
            assert Case(name, policy, seed=1) in made
    for policy in ("affinity", "round-robin-lru"):
        fleets = {case.workers for case in made if case.workload == "community" and case.policy == policy}
        assert fleets == {None, 1, 4, 16, 64}
    for case in made:
        if case.workload == "community":
            assert case.made().rate / case.made().workers == pytest.approx(workloads()["community"].rate / 8)
    assert {case.arrivals for case in made if case.workload == "studio"} >= {"gamma-cv3", "gamma-cv10", "peaks"}


def test_the_gap_is_measured_against_round_robin_in_the_same_setting() -> None:
    base = Case("studio", "round-robin-lru")
    ours, elsewhere = Case("studio", "affinity"), Case("studio", "affinity", utilisation=0.3)
    numbers = {"zero_load_mean_s": 10.0}
    found = {
        base: {**numbers, "mean_s": 110.0},
        ours: {**numbers, "mean_s": 20.0},
        elsewhere: {**numbers, "mean_s": 12.0},
    }
    assert [row.get("gap_closed") for row in with_gaps(found)] == [0.0, 0.9, None]
    assert gap_closed(5.0, 5.0, 5.0) is None
