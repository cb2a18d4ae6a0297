"""Runtimes: one module per family, each turning a catalogue entry into a model that runs. Meant for the executor child.

Importing this package imports no torch; ``load`` imports the one family it needs.
"""

import importlib
from functools import partial
from typing import cast

from affinity.errors import LoadFailed
from models.entry import ModelEntry
from models.runtimes.base import Family, GuardedModel, LoadedModel, forget_frames, translated

__all__ = ["FAMILIES", "LoadedModel", "load"]

FAMILIES = {
    "sentence-embedding": "models.runtimes.sentence_embedding",
    "synthetic": "models.runtimes.synthetic",
    "torch": "models.runtimes.torch_class",
    "transformers": "models.runtimes.transformers_pipeline",
    "voice-activity": "models.runtimes.voice_activity",
}
"""Runtime -> the module that implements ``Family``."""


def load(entry: ModelEntry, device: str) -> LoadedModel:
    """Put a model on ``cpu`` or ``cuda:N`` and return it ready to run. Blocks, possibly for minutes.

    Raises ``LoadFailed`` (weights, class or package at fault), ``OutOfVram``, ``ExecutorDied`` (the device is gone: end
    this process). A failed load leaves nothing on the device.
    """
    try:
        family = cast(Family, importlib.import_module(FAMILIES[entry.runtime]))
    except ModuleNotFoundError as error:
        raise LoadFailed(
            f"{entry.name}: runtime {entry.runtime} needs the package {error.name!r}, which is not installed here"
        ) from error
    try:
        core = family.load(entry, device)
    except Exception as error:
        failure = translated(error, entry.name, LoadFailed)
        forget_frames(error)
        family.release(device)
        if failure is error:
            raise
        raise failure from error
    return GuardedModel(entry, core, partial(family.release, device))
