"""From probabilities to stretches of speech."""

import pytest

from models.runtimes.speech import MARGIN_S, WINDOW_S, speech_stretches


def stretches(*runs: tuple[float, int], threshold: float = 0.5) -> list[tuple[float, float]]:
    probabilities = [probability for probability, windows in runs for _ in range(windows)]
    return speech_stretches(probabilities, threshold, len(probabilities) * WINDOW_S)


def test_nothing_but_silence_gives_nothing():
    assert stretches((0.1, 100)) == []
    assert speech_stretches([], 0.5, 0.0) == []


def test_a_stretch_has_a_margin_on_both_sides():
    assert stretches((0.1, 10), (0.9, 20), (0.1, 10)) == [
        pytest.approx((10 * WINDOW_S - MARGIN_S, 30 * WINDOW_S + MARGIN_S))
    ]


def test_margins_stay_within_the_recording():
    assert speech_stretches([0.9] * 20, 0.5, 0.63) == [(0.0, 0.63)]


def test_a_click_is_no_speech():
    assert stretches((0.1, 10), (0.9, 7), (0.1, 10)) == []
    assert len(stretches((0.1, 10), (0.9, 8), (0.1, 10))) == 1


def test_a_breath_does_not_split_a_sentence_and_a_pause_does():
    assert len(stretches((0.9, 10), (0.1, 3), (0.9, 10))) == 1
    assert len(stretches((0.9, 10), (0.1, 4), (0.9, 10))) == 2


def test_a_probability_that_hovers_below_the_threshold_goes_on_with_speech_but_does_not_start_it():
    assert len(stretches((0.9, 10), (0.4, 10), (0.9, 10))) == 1
    assert stretches((0.4, 30)) == []


def test_the_threshold_is_the_callers():
    assert stretches((0.6, 20), threshold=0.7) == []
    assert len(stretches((0.6, 20), threshold=0.6)) == 1
