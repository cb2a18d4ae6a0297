"""Traces and models files: what is read is what was written, and bad input is refused with its place."""

import json
from pathlib import Path

import pytest

from affinity.fleet import GIB
from bench.models_file import BadInput, BenchModel, read_models, write_models
from bench.trace import read_trace, write_trace
from tests.support.simulated import a_model, jobs_of

GOOD = '{"arrival_s": 1.0, "model": "a", "exec_s": 0.04}'


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    jobs = jobs_of((0.0, "a", 0.04), (0.25, "b", 1.5), (0.25, "a", 0.0))
    write_trace(tmp_path / "t", jobs)
    assert read_trace(tmp_path / "t", {"a", "b"}) == jobs
    assert [job.number for job in jobs] == [0, 1, 2]


def test_a_tenant_is_kept_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('\n{"arrival_s": 0, "model": "a", "exec_s": 1, "tenant": "t1"}\n\n')
    (job,) = read_trace(tmp_path / "t", {"a"})
    assert job.tenant == "t1"
    write_trace(tmp_path / "u", [job])
    assert read_trace(tmp_path / "u", {"a"}) == [job]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: is not JSON: Expecting"),
        ("[]", r"line 2: must be a JSON object with arrival_s, model and exec_s"),
        ('{"arrival_s": 2.0, "model": "b", "exec_s": 1}', r"line 2: there is no model 'b'; add it to the models file"),
        ('{"arrival_s": 2.0, "model": "alph", "exec_s": 1}', r"line 2: there is no model 'alph'; did you mean alpha\?"),
        (
            '{"arrival_s": 0.5, "model": "a", "exec_s": 1}',
            r"line 2: arrives at 0.5 s, before the line above it \(1.0 s\)",
        ),
        ('{"arrival_s": -1, "model": "a", "exec_s": 1}', r"line 2: arrival_s must be a number from 0 up, it is -1"),
        ('{"arrival_s": 2, "model": "a", "exec_s": -0.1}', r"line 2: exec_s must be a number from 0 up, it is -0.1"),
        ('{"arrival_s": NaN, "model": "a", "exec_s": 1}', r"line 2: arrival_s must be a number from 0 up, it is nan"),
        ('{"arrival_s": 2, "model": "a", "exec_s": 1%s}' % ("0" * 400), r"line 2: exec_s must be a number from 0 up"),
        ("[" * 100_000, r"line 2: is not JSON"),
        ('{"arrival_s": true, "model": "a", "exec_s": 1}', r"line 2: arrival_s must be a number from 0 up, it is True"),
        ('{"arrival_s": 2, "model": "a"}', r"line 2: exec_s must be a number from 0 up, it is None"),
        ('{"arrival_s": 2, "model": 7, "exec_s": 1}', r"line 2: there is no model 7"),
        ('{"arrival_s": 2, "model": "a", "exec_s": 1, "tenant": 7}', r"line 2: tenant must be a text, it is 7"),
        ('{"arrival_s": 2, "model": "a", "exec_s": 1, "x": 7}', r"line 2: 'x' is not known; use arrival_s, exec_s"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t").write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(BadInput, match=message):
        read_trace(tmp_path / "t", ["a", "alpha"])


def test_a_trace_that_is_no_text_is_empty_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00{\n")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BadInput, match="binary, line 1: is not JSON"):
        read_trace(tmp_path / "binary", ["a"])
    with pytest.raises(BadInput, match="empty: holds no jobs"):
        read_trace(tmp_path / "empty", ["a"])
    with pytest.raises(BadInput, match="missing: cannot be read: No such file"):
        read_trace(tmp_path / "missing", ["a"])


def test_models_are_read_as_they_were_written(tmp_path: Path) -> None:
    models = {
        "a": a_model("a", 4.25, 0.4),
        "b": BenchModel("b", 7 * GIB, 3.0, 0.5, 0.04, max_batch=8, pinned=True),
    }
    write_models(tmp_path / "m", models)
    assert read_models(tmp_path / "m") == models


def test_every_problem_of_a_models_file_is_named_at_once(tmp_path: Path) -> None:
    bad = {
        "a": {"vram_gib": -1, "load_s": 0.4},
        "b": {"vram_gib": 4.0},
        "c*": {"vram_gib": 4.0, "load_s": 1.0},
        "d": [],
        "e": {"vram_gib": 4.0, "load_s": 1.0, "max_batch": 0, "pinned": "yes", "size": 3},
    }
    (tmp_path / "m").write_text(json.dumps(bad))
    with pytest.raises(BadInput) as caught:
        read_models(tmp_path / "m")
    for message in (
        "a: vram_gib must be a number from 0 up, it is -1",
        "b: load_s is missing",
        "'c*': ",
        "d: must be an object with vram_gib and load_s",
        "e: max_batch must be a whole number above 0, it is 0",
        "e: pinned must be true or false, it is 'yes'",
        "e: 'size' is not known",
    ):
        assert message in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", "not json", "7", "[" * 100_000], ids=lambda text: text[:8])
def test_a_models_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").write_text(text)
    with pytest.raises(BadInput, match=r"is not JSON|must be a JSON object like"):
        read_models(tmp_path / "m")
