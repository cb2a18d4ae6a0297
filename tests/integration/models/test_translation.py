"""Every exception a library below us raises becomes one of ours; the names we look for are those torch uses."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from affinity.errors import AffinityError, ExecutorDied, JobFailed, LoadFailed, OutOfVram
from models.entry import ModelEntry, TorchOptions
from models.runtimes import load
from models.runtimes.base import translated
from models.runtimes.torch_device import check_readable


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfVram),
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfVram),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), ExecutorDied),
        (RuntimeError("CUDA error: out of memory"), OutOfVram),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), JobFailed),
        (SafetensorError("header too large"), JobFailed),
        (OSError("no file named model.safetensors"), JobFailed),
        (ValueError("trust_remote_code"), JobFailed),
        (KeyError("x"), JobFailed),
        (ImportError("no module"), JobFailed),
        (AssertionError("Torch not compiled with CUDA enabled"), JobFailed),
        (RecursionError("maximum recursion depth exceeded"), JobFailed),
        (MemoryError(), JobFailed),
    ],
)
def test_each_foreign_error_has_one_of_ours(foreign: Exception, ours: type[AffinityError]):
    assert type(translated(foreign, "m", JobFailed)) is ours
    while_loading = LoadFailed if ours is JobFailed else ours
    assert type(translated(foreign, "m", LoadFailed)) is while_loading


def test_the_device_refusing_the_weights_is_out_of_vram_and_leaves_no_tensor_behind(tmp_path: Path):
    (tmp_path / "no_room_for_me.py").write_text(
        "import torch, weakref\n"
        "alive = []\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        large = torch.zeros(1000)\n"
        "        alive.append(weakref.ref(large))\n"
        "        raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "    def predict(self, inputs): ...\n"
    )
    (tmp_path / "w.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    entry = ModelEntry("m", "torch", "w.safetensors", options=TorchOptions("no_room_for_me:Mine"), folder=tmp_path)
    with pytest.raises(OutOfVram) as kept:
        load(entry, "cpu")
    import no_room_for_me  # noqa: PLC0415 - it exists only now

    assert kept.value is not None
    assert [tensor() for tensor in no_room_for_me.alive] == [None]


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path):
    with pytest.raises(LoadFailed, match="is truncated or damaged"):
        check_readable([tmp_path])
