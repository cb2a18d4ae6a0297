"""The real models on a real GPU: the same answers as on the CPU, and the memory comes back."""

from collections.abc import Callable

import pytest
import torch

from models.catalog import Catalog
from models.runtimes import LoadedModel, load

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


def close_to(ours: object, theirs: object) -> bool:
    """Equal JSON values, numbers within what another order of summation changes."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(close_to(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close_to, ours, theirs))
    return ours == pytest.approx(theirs, abs=0.04)


def test_the_gpu_gives_the_answers_of_the_cpu_and_gets_its_memory_back(
    catalog: Catalog, minilm: LoadedModel, silero: LoadedModel, spoken: bytes, sound: Callable[[bytes], object]
):
    before = torch.cuda.memory_reserved()
    texts = {"texts": ["A man is eating food.", "A man is eating a piece of bread."]}
    for name, on_cpu, value in [
        ("minilm-l6-v2", minilm, texts),
        ("silero-vad", silero, sound(spoken)),
        ("tiny-mlp", load(catalog.get("tiny-mlp"), "cpu"), {"bits": [0, 1]}),
    ]:
        model = load(catalog.get(name), "cuda:0")
        assert torch.cuda.memory_allocated() >= model.weight_bytes > 0
        expected = list(on_cpu.run([value, value]))
        assert close_to(list(model.run([value, value])), expected), name
        held = torch.cuda.memory_allocated()
        model.leave_device()
        assert torch.cuda.memory_allocated() <= held - model.weight_bytes, f"{name} left something behind"
        model.return_to_device()
        assert close_to(list(model.run([value, value])), expected), name
        model.close()
    assert torch.cuda.memory_reserved() - before <= 32 * 2**20, "only cuBLAS's own workspace may stay"
