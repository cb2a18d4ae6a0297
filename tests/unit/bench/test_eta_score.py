"""Estimates are asked for sparingly, and judged against what really happened."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from bench.eta_score import QUESTIONS_PER_S, Forecast, Questions, score


def asked(waiting: Mapping[str, Any] | None) -> Questions:
    """One question to a dispatcher that answers so."""
    answer = httpx.MockTransport(lambda request: httpx.Response(200, json={"id": "j", "waiting": waiting}))

    async def ask() -> Questions:
        async with httpx.AsyncClient(transport=answer, base_url="http://dispatcher") as client:
            questions = Questions(client)
            assert questions.due(100.0)
            await questions.ask("j")
            return questions

    return asyncio.run(ask())


def forecasts(*estimates: tuple[str, float, float, float, float]) -> Questions:
    questions = Questions(httpx.AsyncClient())
    questions.forecasts += [Forecast(*each) for each in estimates]
    return questions


def record(job_id: str, wait_s: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "created_at": "2026-01-01T00:00:10.000Z",
        "started_at": f"2026-01-01T00:00:{10 + wait_s:06.3f}Z",
    }


def test_no_more_questions_are_asked_than_allowed() -> None:
    questions = Questions(httpx.AsyncClient())
    asked_at = [at for at in (number / 100 for number in range(1000)) if questions.due(at)]
    assert len(asked_at) == questions.asked == pytest.approx(10 * QUESTIONS_PER_S, abs=1)


def test_an_estimate_is_noted_with_how_long_the_job_had_waited() -> None:
    eta = {"start_in_s": 2.0, "low_s": 1.0, "high_s": 3.0, "assuming": []}
    assert asked({"waited_s": 0.25, "eta": eta}).forecasts == [Forecast("j", 0.25, 2.0, 1.0, 3.0)]


def test_a_job_that_has_started_says_nothing_and_one_without_an_estimate_is_counted() -> None:
    assert (asked(None).forecasts, asked(None).unknown) == ([], 0)
    found = asked({"waited_s": 0.25, "eta": None})
    assert (found.forecasts, found.unknown, found.asked) == ([], 1, 1)


def test_an_error_is_relative_to_the_time_that_was_really_left() -> None:
    questions = forecasts(
        ("a", 1.0, 2.0, 1.0, 3.0),  # Four were left: half of them, and out of range.
        ("b", 0.0, 3.0, 1.0, 4.0),  # Two were left.
        ("c", 0.0, 1.0, 0.5, 1.5),  # Just right.
    )
    found = score(questions, [record("a", 5.0), record("b", 2.0), record("c", 1.0)])
    assert found["eta_scored"] == 3
    assert found["eta_error"] == pytest.approx(0.5)
    assert found["eta_bias"] == pytest.approx(0.0)
    assert found["eta_in_range"] == pytest.approx(2 / 3)


def test_a_start_at_once_as_expected_is_no_merit_and_one_that_was_not_expected_is_an_error() -> None:
    questions = forecasts(("a", 0.0, 0.0, 0.0, 0.0), ("b", 0.0, 1.0, 0.5, 2.0))
    found = score(questions, [record("a", 0.01), record("b", 0.01)])
    assert found["eta_scored"] == 1
    assert found["eta_error"] == pytest.approx((1.0 - 0.01) / 0.05)
    assert found["eta_in_range"] == 0.0


def test_without_estimates_there_is_no_score() -> None:
    found = score(forecasts(), [record("a", 1.0)])
    assert (found["eta_scored"], found["eta_error"], found["eta_in_range"]) == (0, None, None)
