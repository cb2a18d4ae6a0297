"""What the torch families share: the device, reading safetensors, counting bytes."""

import gc
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from affinity.errors import LoadFailed


def prepare(device: str) -> None:
    """Set torch up in this process before the first load."""
    if device == "cpu":
        # Executors of several simulated GPUs share the cores: with torch's default each would start a thread per core
        # and they would slow one another down.
        torch.set_num_threads(1)


def release(device: str) -> None:
    """Hand cached blocks back to the driver: only then does NVML see them free. Page-locked ones go to the host."""
    gc.collect()
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.empty_cache()
        _release_pinned()


def module_bytes(module: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def check_readable(files: Iterable[Path]) -> None:
    """Raise ``LoadFailed``, with the file named, for a truncated or damaged safetensors file.

    Reads headers only: safetensors compares them with the file's length.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise LoadFailed(f"{file} is truncated or damaged ({error}); copy it again") from error


def read_tensors(files: Sequence[Path], device: str) -> dict[str, torch.Tensor]:
    """Every tensor of one or several (sharded) files, straight on the device. Raises ``LoadFailed``."""
    check_readable(files)
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        part = load_file(file, device=device)
        if twice := tensors.keys() & part.keys():
            raise LoadFailed(f"{file} holds {listed(twice)}, which another file beside it holds too; keep one")
        tensors |= part
    return tensors


def _release_pinned() -> None:
    # The public name came after torch 2.10, which we support.
    empty = getattr(torch.accelerator, "empty_host_cache", None) or torch._C._host_emptyCache
    empty()


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
