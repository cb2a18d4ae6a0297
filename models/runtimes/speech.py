"""From one speech probability per window to stretches of speech. Pure; no torch."""

from collections.abc import Sequence

WINDOW = 512
"""Samples per probability: what the network was trained on at 16 kHz."""

WINDOW_S = WINDOW / 16_000

HYSTERESIS = 0.15
"""Speech ends only this far below the threshold: a probability that hovers around it would cut words to pieces."""

MIN_SILENCE_S = 0.1
MIN_SPEECH_S = 0.25
MARGIN_S = 0.03
"""Kept around each stretch: first and last sounds rise and fall below the threshold."""


def speech_stretches(probabilities: Sequence[float], threshold: float, total_s: float) -> list[tuple[float, float]]:
    """(start, end) in seconds from the beginning, in order and apart, within 0 and ``total_s``."""
    merged: list[tuple[float, float]] = []
    for start, end in _runs(probabilities, threshold):
        start_s, end_s = start * WINDOW_S, min(end * WINDOW_S, total_s)
        if merged and start_s - merged[-1][1] < MIN_SILENCE_S:
            merged[-1] = (merged[-1][0], end_s)
        else:
            merged.append((start_s, end_s))
    return [
        (max(0.0, start_s - MARGIN_S), min(total_s, end_s + MARGIN_S))
        for start_s, end_s in merged
        if end_s - start_s >= MIN_SPEECH_S
    ]


def _runs(probabilities: Sequence[float], threshold: float) -> list[tuple[int, int]]:
    """Windows [start, end) from where the threshold is reached to where the probability drops clearly below it."""
    runs: list[tuple[int, int]] = []
    start: int | None = None
    for window, probability in enumerate(probabilities):
        if start is None and probability >= threshold:
            start = window
        elif start is not None and probability < threshold - HYSTERESIS:
            runs.append((start, window))
            start = None
    if start is not None:
        runs.append((start, len(probabilities)))
    return runs
