"""What ``make demo`` sends: a mix of jobs for real and synthetic models, the same one every time."""

import base64
import math
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing violin.",
    "Two men pushed carts through the woods.",
    "A cheetah is running behind its prey.",
)
COUNTS = {"minilm-l6-v2": 40, "silero-vad": 12, "synthetic-a": 45, "synthetic-b": 40, "synthetic-c": 23, "echo": 40}
SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class DemoJob:
    """A job to send; ``number`` counts per model from 0."""

    model: str
    number: int
    input: Mapping[str, object] = field(repr=False)


def demo_jobs(seed: int = 7) -> list[DemoJob]:
    """200 jobs in an order that mixes the models as independent users would."""
    sound = spoken_vowel()
    jobs = [
        DemoJob(model, number, _input(model, number, sound))
        for model, count in COUNTS.items()
        for number in range(count)
    ]
    random.Random(seed).shuffle(jobs)
    return jobs


def spoken_vowel(seconds: float = 1.0, pitch_hz: float = 120.0) -> bytes:
    """Something like a sung "ah": pulses of a voice through two resonances; 16-bit mono at 16 kHz, little-endian."""
    samples = [0.0] * int(seconds * SAMPLE_RATE)
    for start in range(0, len(samples), int(SAMPLE_RATE / pitch_hz)):
        for offset in range(min(400, len(samples) - start)):
            at_s = offset / SAMPLE_RATE
            for formant_hz, strength in ((700.0, 1.0), (1100.0, 0.6)):
                samples[start + offset] += strength * math.exp(-220.0 * at_s) * math.sin(math.tau * formant_hz * at_s)
    loudest = max(abs(sample) for sample in samples)
    return struct.pack(f"<{len(samples)}h", *(int(20_000 * sample / loudest) for sample in samples))


def cosine(first: list[float], second: list[float]) -> float:
    """Cosine of the angle between two vectors: 1 for the same direction, 0 for nothing in common."""
    product = math.fsum(a * b for a, b in zip(first, second, strict=True))
    return product / (math.hypot(*first) * math.hypot(*second))


def _input(model: str, number: int, sound: bytes) -> Mapping[str, object]:
    if model == "minilm-l6-v2":
        # The first one asks for the pair whose cosine the demo prints.
        return {"texts": [SENTENCES[number % len(SENTENCES)], SENTENCES[(number + 1) % len(SENTENCES)]]}
    if model == "silero-vad":
        return {"pcm16_base64": base64.b64encode(sound).decode()}
    return {"number": number}
