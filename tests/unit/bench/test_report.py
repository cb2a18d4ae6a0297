"""The report: runs that are done are kept, aims are judged, and the page says where its numbers come from."""

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cases import Case
from bench.cells import kept, path_of, run_and_keep, sources_hash
from bench.measures import Measures
from bench.targets import Verdict, verdicts

SMALL = Case("studio", "least-work-lru", jobs=60)


def a_row(policy: str, **changes: object) -> Measures:
    where = {"workload": "studio", "arrivals": "poisson", "utilisation": 0.6, "workers": 8, "setting": "own"}
    row = {"policy": policy, "seed": 0, "mean_s": 40.0, "p99_s": 120.0, "lower_bound_mean_s": 30.0}
    return where | row | {"gap_closed": 0.95, "rare_wait_ratio": 2.0} | changes  # type: ignore[return-value]


def aims(*rows: Measures) -> dict[str, Verdict]:
    return {verdict.aim: verdict for verdict in verdicts(rows)}


def test_a_run_that_is_done_is_kept_as_it_was(tmp_path: Path) -> None:
    assert kept(SMALL, tmp_path) is None
    found = run_and_keep(SMALL, tmp_path)
    assert kept(SMALL, tmp_path) == found
    assert found["jobs"] == 60
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_half_a_file_counts_as_none(tmp_path: Path) -> None:
    run_and_keep(SMALL, tmp_path)
    path = path_of(SMALL, tmp_path)
    path.write_text(path.read_text()[:100])
    assert kept(SMALL, tmp_path) is None


def test_every_case_has_a_file_of_its_own_and_ours_depends_on_more_than_a_baseline(tmp_path: Path) -> None:
    cases = [SMALL, Case("studio", "least-work-lru", 1, jobs=60), Case("studio", "affinity", jobs=60)]
    cases += [Case("studio", "least-work-lru", workers=4), Case("studio", "least-work-lru", utilisation=0.3)]
    assert len({path_of(case, tmp_path) for case in cases}) == len(cases)
    assert sources_hash(baseline=True) != sources_hash(baseline=False)


def test_a_report_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["report", "--quick", "--policies", "least-work-lru", "--jobs", "1", "--out", str(tmp_path)]
    assert main(command, {}) == 0
    first, *others = sorted((tmp_path / "cells").iterdir())
    first.unlink()
    for path in others:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mean_s": 12345.0}))
    capsys.readouterr()
    assert main(command, {}) == 0
    assert f"{len(others)} of {len(others) + 1} runs are kept" in " ".join(capsys.readouterr().err.split())
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert sorted(row["mean_s"] == 12345.0 for row in runs) == [False, *[True] * len(others)]


def test_a_report_says_command_seeds_and_machine(tmp_path: Path) -> None:
    out = tmp_path / "a report"
    main(["report", "--quick", "--policies", "least-work-lru", "--processes", "1", "--out", str(out)], {})
    found = json.loads((out / "results.json").read_text())
    assert found["command"] == f"python -m bench report --out '{out}' --quick --seeds 0 --policies least-work-lru"
    assert "cores" in found["machine"]
    page = (out / "index.html").read_text()
    assert found["machine"] in page
    assert "--policies least-work-lru" in page


def test_a_folder_that_cannot_be_made_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", "--quick", "--out", str(tmp_path / "file")], {}) == 2
    assert "cannot write a report" in capsys.readouterr().err


def test_an_aim_is_judged_by_the_means_over_seeds_against_the_best_baseline() -> None:
    ours = [a_row("affinity", mean_s=38.0), a_row("affinity", mean_s=42.0, seed=1)]
    theirs = [a_row("least-work-lru", mean_s=70.0), a_row("earliest-completion", mean_s=50.0, p99_s=100.0)]
    found = aims(*ours, *theirs, a_row("no-hold", mean_s=1.0))
    assert found["mean over the best baseline's"].value == pytest.approx(0.8)
    assert found["mean over the best baseline's"].beside == "earliest-completion"
    assert found["mean over the best baseline's"].holds
    assert found["p99 over the best baseline's"].value == pytest.approx(1.2)
    assert not found["p99 over the best baseline's"].holds
    assert found["mean over the lower bound"].value == pytest.approx(40 / 30)
    assert not found["mean over the lower bound"].holds
    assert found["gap closed"].holds
    assert found["wait of rare models over all"].holds


def test_bursty_arrivals_ask_for_more_of_the_gap() -> None:
    bursty = aims(a_row("affinity", arrivals="gamma-cv10", setting="arrivals", gap_closed=0.93))
    assert not bursty["gap closed"].holds
    assert "mean over the lower bound" not in bursty


def test_where_affinity_cannot_help_only_least_work_is_the_measure() -> None:
    found = aims(a_row("affinity", workload="all-fit"), a_row("least-work-lru", workload="all-fit", mean_s=39.0))
    assert [*found] == ["mean over that of least work"]
    assert not found["mean over that of least work"].holds


def test_a_run_that_failed_is_not_judged() -> None:
    assert aims({**a_row("affinity"), "fault": "it stopped"}, a_row("least-work-lru")) == {}
