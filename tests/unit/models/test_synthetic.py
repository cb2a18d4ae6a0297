"""Synthetic models: their cost and their failures. The ones that end a process are in the integration tests."""

import pytest

from affinity.errors import InvariantBroken, JobFailed, LoadFailed, OutOfVram
from models.entry import GIB, ModelEntry, SyntheticOptions
from models.runtimes import load, synthetic
from models.runtimes.base import GuardedModel


def entry(**options: object) -> ModelEntry:
    return ModelEntry("s", "synthetic", vram_gib=6, options=SyntheticOptions(**options))


def guarded(described: ModelEntry, pauses: list[float]) -> GuardedModel:
    return GuardedModel(described, synthetic.load(described, "cpu", pauses.append), lambda: None)


def test_loading_takes_its_time_and_claims_the_declared_bytes():
    pauses: list[float] = []
    model = guarded(entry(load_s=1.5), pauses)
    assert pauses == [1.5]
    assert model.weight_bytes == 6 * GIB


@pytest.mark.parametrize(
    ("options", "pause_s"), [({"load_s": 2.0}, 0.2), ({"load_s": 2.0, "reload_s": 0.5}, 0.5), ({"reload_s": 0.0}, None)]
)
def test_coming_back_from_the_hosts_memory_takes_a_tenth_of_a_load_unless_said_otherwise(
    options: dict[str, float], pause_s: float | None
):
    pauses: list[float] = []
    model = guarded(entry(**options), pauses)
    assert model.host_bytes == 6 * GIB
    pauses.clear()
    model.leave_device()
    assert pauses == []
    model.return_to_device()
    assert pauses == ([] if pause_s is None else [pytest.approx(pause_s)])
    model.drop_host_copy()
    assert model.run([{}]) == [{"model": "s", "exec_s": 0.0}]


def test_a_batch_costs_as_much_as_its_longest_job():
    pauses: list[float] = []
    model = guarded(entry(exec_s=0.04), pauses)
    assert model.run([{}, {"exec_s": 0.5}, {}]) == [
        {"model": "s", "exec_s": 0.04},
        {"model": "s", "exec_s": 0.5},
        {"model": "s", "exec_s": 0.04},
    ]
    assert pauses == [0.5]


def test_echo_gives_back_its_input_after_the_time_the_older_producer_asked_for():
    pauses: list[float] = []
    model = guarded(entry(echo=True), pauses)
    inputs = [None, 3, {"fail": "crash"}, {"processing_time": 2.5, "payload": "p"}]
    assert model.run(inputs) == inputs
    assert pauses == [2.5]


def test_a_job_that_fails_leaves_its_neighbours_alone():
    ok, error, oom, invalid = guarded(entry(), []).run([{}, {"fail": "error"}, {"fail": "oom"}, {"fail": "?"}])
    assert ok == {"model": "s", "exec_s": 0.0}
    assert isinstance(error, JobFailed)
    assert isinstance(oom, OutOfVram)
    assert invalid.code == "invalid_input"


def test_a_load_fails_when_told_to():
    with pytest.raises(LoadFailed, match="s: fails because"):
        load(entry(load_fail="error"), "cpu")
    with pytest.raises(OutOfVram):
        load(entry(load_fail="oom"), "cpu")


def test_a_closed_model_weighs_nothing_and_cannot_run():
    model = load(entry(), "cpu")
    model.close()
    model.close()
    assert model.weight_bytes == 0
    with pytest.raises(InvariantBroken):
        model.run([{}])
