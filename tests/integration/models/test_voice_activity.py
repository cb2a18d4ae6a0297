"""Silero VAD with its real weights, on espeak-ng's voice."""

import math
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from affinity.errors import InvalidInput, LoadFailed
from models.catalog import Catalog
from models.entry import ModelEntry
from models.runtimes import LoadedModel, load
from models.sources import find_files

Sound = Callable[..., dict[str, object]]


def test_speech_is_found_where_it_is(silero: LoadedModel, spoken: bytes, sound: Sound):
    (result,) = silero.run([sound(spoken)])
    starts = [stretch["start_s"] for stretch in result["speech"]]
    ends = [stretch["end_s"] for stretch in result["speech"]]
    assert starts[0] == pytest.approx(0.30, abs=0.1)
    assert ends[-1] == pytest.approx(3.03, abs=0.15)
    assert not any(start < 1.95 < end for start, end in zip(starts, ends, strict=True)), "the pause is no speech"
    assert result["speech_s"] == pytest.approx(sum(ends) - sum(starts), abs=0.01)
    assert result["speech_s"] == pytest.approx(2.2, abs=0.3)


def test_silence_a_tone_and_noise_are_no_speech(silero: LoadedModel, sound: Sound):
    noise = random.Random(0)
    tone = struct.pack("<32000h", *(int(8000 * math.sin(n * 0.173)) for n in range(32000)))
    hiss = struct.pack("<32000h", *(noise.randint(-300, 300) for _ in range(32000)))
    assert silero.run([sound(bytes(64000)), sound(tone), sound(hiss)]) == [{"speech": [], "speech_s": 0.0}] * 3


def test_recordings_of_a_batch_do_not_disturb_one_another(silero: LoadedModel, spoken: bytes, sound: Sound):
    (alone,) = silero.run([sound(spoken)])
    silence = {"speech": [], "speech_s": 0.0}
    assert silero.run([sound(bytes(2)), sound(spoken), sound(bytes(200_000))]) == [silence, alone, silence]
    assert silero.run([sound(spoken)]) == [alone]


def test_a_bad_recording_does_not_cost_the_batch(silero: LoadedModel, spoken: bytes, sound: Sound):
    bad, good = silero.run([{"pcm16_base64": "?"}, sound(spoken)])
    assert isinstance(bad, InvalidInput)
    assert good["speech"]


def test_a_higher_threshold_finds_no_more(silero: LoadedModel, spoken: bytes, sound: Sound):
    strict, lax = silero.run([sound(spoken, threshold=0.99), sound(spoken, threshold=0.1)])
    assert strict["speech_s"] < lax["speech_s"]


def test_nothing_but_torch_is_needed(silero: LoadedModel):
    assert silero.weight_bytes > 1_000_000
    assert "torchaudio" not in sys.modules
    assert "silero_vad" not in sys.modules


def test_a_truncated_file_is_refused_with_its_name(catalog: Catalog, tmp_path: Path):
    entry = catalog.get("silero-vad")
    (original,) = find_files(entry.source, entry.folder, "*.jit")
    (tmp_path / "half.jit").write_bytes(original.read_bytes()[:1_000_000])
    with pytest.raises(LoadFailed, match=r"half\.jit is truncated or damaged .*copy it again"):
        load(ModelEntry("m", "voice-activity", str(tmp_path / "half.jit")), "cpu")


def test_a_folder_with_several_networks_is_refused(tmp_path: Path):
    for name in ("a.jit", "b.jit"):
        (tmp_path / name).touch()
    with pytest.raises(LoadFailed, match=r"several \.jit files; name one"):
        load(ModelEntry("m", "voice-activity", str(tmp_path)), "cpu")
