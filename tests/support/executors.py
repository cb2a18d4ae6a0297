"""Executors and models for tests of the executor: real child processes, models from the synthetic to a user's class."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from affinity.fleet import GIB
from models.entry import ModelEntry, SyntheticOptions, TorchOptions
from worker.executor import Executor
from worker.settings import executor_environment

ECHO = ModelEntry("echo", "synthetic", vram_gib=0.5, options=SyntheticOptions(echo=True))


def synthetic(name: str, vram_gib: float = 1.0, **options: object) -> ModelEntry:
    """A synthetic model; options as in the catalogue."""
    return ModelEntry(name, "synthetic", vram_gib=vram_gib, options=SyntheticOptions(**options))  # type: ignore[arg-type]


def users_model(folder: Path, predict: str, name: str = "users") -> ModelEntry:
    """A model of the ``torch`` runtime whose ``predict(self, inputs)`` has this body."""
    body = "\n".join(f"        {line}" for line in predict.strip().splitlines())
    (folder / f"{name}_module.py").write_text(
        "import os, re, sys, time\n"
        "import torch\n\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.zeros(1))\n\n"
        f"    def predict(self, inputs):\n{body}\n"
    )
    save_file({"scale": np.ones(1, np.float32)}, folder / f"{name}.safetensors")
    options = TorchOptions(class_path=f"{name}_module:Model")
    return ModelEntry(name, "torch", f"{name}.safetensors", options=options, folder=folder)


@asynccontextmanager
async def running_executor(limit_bytes: int | None = 24 * GIB, host_cache_bytes: int = 0) -> AsyncIterator[Executor]:
    """An executor on the CPU, started; its process is gone afterwards."""
    executor = Executor(
        env=executor_environment(),
        torch_device="cpu",
        limit_bytes=limit_bytes,
        label="test",
        host_cache_bytes=host_cache_bytes,
    )
    await executor.start()
    try:
        yield executor
    finally:
        await executor.kill()
