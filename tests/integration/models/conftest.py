"""Real models on the CPU: no servers, real weights."""

import base64
import wave
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from models.catalog import Catalog, default_catalog_path
from models.runtimes import LoadedModel, load

SPEECH = Path(__file__).parents[2] / "support" / "speech" / "two-sentences.wav"


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load(default_catalog_path())


@pytest.fixture(scope="session")
def minilm(catalog: Catalog) -> Iterator[LoadedModel]:
    with closing(load(catalog.get("minilm-l6-v2"), "cpu")) as model:
        yield model


@pytest.fixture(scope="session")
def silero(catalog: Catalog) -> Iterator[LoadedModel]:
    with closing(load(catalog.get("silero-vad"), "cpu")) as model:
        yield model


@pytest.fixture(scope="session")
def spoken() -> bytes:
    """16-bit samples of two sentences, from 0.30 s to 1.70 s and from 2.20 s to 3.03 s."""
    with wave.open(str(SPEECH)) as recording:
        assert (recording.getframerate(), recording.getsampwidth(), recording.getnchannels()) == (16000, 2, 1)
        return recording.readframes(recording.getnframes())


def sound(pcm: bytes, **more: float) -> dict[str, object]:
    """An input for voice activity."""
    return {"pcm16_base64": base64.b64encode(pcm).decode(), **more}


@pytest.fixture(scope="session", name="sound")
def sound_fixture() -> object:
    return sound
