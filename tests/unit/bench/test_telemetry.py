"""What metrics and events cost is measured against services that have none: these find what there is to take out."""

import json
import os
from pathlib import Path

import pytest

from affinity.io.redis_client import lua
from bench.cpu import cpu_s
from bench.silent import NothingToSilence, silence_metrics, silence_requests, without_events
from bench.telemetry import Round, Telemetry
from dispatcher.metrics import DispatcherMetrics, RequestTimer
from worker.metrics import WorkerMetrics


def a_copy(kind: type) -> type:
    """A class with the same methods, to be spoilt."""
    return type("Copy", (), {name: value for name, value in vars(kind).items() if callable(value)})


def test_the_cost_is_the_median_over_pairs_of_rounds() -> None:
    told = [Round(90.0, 2.0), Round(96.0, 2.0), Round(10.0, 4.0)]
    silent = [Round(100.0, 1.9), Round(100.0, 1.8), Round(10.0, 4.0)]
    found = json.loads(Telemetry(told, silent).as_json())
    assert (found["cost"], found["cpu_cost"]) == (pytest.approx(0.04), pytest.approx(0.05))
    assert (found["with_jobs_per_s"], found["rounds"]) == (90.0, 3)


def test_processor_time_is_that_of_a_process_and_all_below_it(tmp_path: Path) -> None:
    for pid, parent, ticks in ((10, 1, 100), (11, 10, 50), (12, 11, 25), (20, 1, 1000)):
        (tmp_path / str(pid)).mkdir()
        fields = ["S", str(parent), *["0"] * 9, str(ticks), str(ticks), *["0"] * 30]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (name) ) {' '.join(fields)}")
    (tmp_path / "30").mkdir()  # It has ended: there is no stat any more.
    per_s = os.sysconf("SC_CLK_TCK")
    assert cpu_s([10], tmp_path) == pytest.approx(350 / per_s)
    assert cpu_s([11, 12, 99], tmp_path) == pytest.approx(150 / per_s)


def test_the_scripts_of_jobs_tell_nothing_any_more() -> None:
    assert "'XADD'" in lua("record")
    assert "'XADD'" not in without_events(lua("record"))
    with pytest.raises(NothingToSilence):
        without_events(lua("record").replace("'MAXLEN', '~'", "'MAXLEN'"))


def test_every_method_that_only_takes_note_is_taken_out_and_the_exposition_stays() -> None:
    assert {"produced", "refused", "requested", "lagged"} <= set(silence_metrics(a_copy(DispatcherMetrics)))
    taken = set(silence_metrics(a_copy(WorkerMetrics)))
    assert {"served", "failed", "batch_began", "batch_ended", "lagged"} <= taken
    assert "exposition" not in taken
    with pytest.raises(NothingToSilence):
        silence_metrics(a_copy(Telemetry))


def test_the_timer_of_requests_can_be_taken_out() -> None:
    assert "_app" in RequestTimer.__init__.__code__.co_names
    with pytest.raises(NothingToSilence):
        silence_requests(Telemetry)
