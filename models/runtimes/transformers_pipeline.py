"""Runtime ``transformers``: a text task of the transformers library on a local folder or a hub repository.

Safetensors only, no code from the repository, and no call parameters beyond those ``models.inputs`` lets through.
"""

import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, pipeline
from transformers.pipelines import check_task
from transformers.utils import logging as transformers_logging

from affinity.errors import AffinityError, LoadFailed
from models.entry import ModelEntry, TransformersOptions
from models.inputs import TransformersInput
from models.runtimes.base import plain_or_error
from models.runtimes.host_weights import TorchCore
from models.runtimes.torch_device import check_readable, listed, prepare, release
from models.sources import PACKAGE, find_files

__all__ = ["load", "release"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
"""What is fetched from a hub repository: never a pickle, never code."""


def load(entry: ModelEntry, device: str) -> "TransformersPipeline":
    """Fetch the folder if it is on the hub, then build model, tokenizer and pipeline."""
    prepare(device)
    transformers_logging.disable_progress_bar()
    model_class = _model_class(entry.options_as(TransformersOptions).task)
    files = find_files(str(_folder(entry)), Path(), "*.safetensors")
    check_readable(files)
    folder = files[0].parent
    try:
        network, report = model_class.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        # What transformers says would send people looking for an option that we do not have.
        raise LoadFailed(
            f"{folder} needs code of its own, which is never run; write a class for the runtime 'torch'"
        ) from error
    if missing := report["missing_keys"]:
        # transformers would fill them with random numbers and serve nonsense.
        raise LoadFailed(f"the weights in {folder} lack {listed(missing)}; were they trained for another task?")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    task = entry.options_as(TransformersOptions).task
    return TransformersPipeline(pipeline(task, model=network.eval(), tokenizer=tokenizer, device=device), device)


class TransformersPipeline(TorchCore):
    """Jobs of a batch with the same parameters share calls."""

    def __init__(self, pipe: Any, device: str) -> None:
        super().__init__(pipe.model, device)
        self._pipe = pipe

    @torch.inference_mode()
    def forward(self, inputs: Sequence[TransformersInput]) -> Sequence[object | AffinityError]:
        results: list[object | AffinityError] = [None] * len(inputs)
        order = sorted(range(len(inputs)), key=lambda number: _key(inputs[number]))
        for _, same in groupby(order, key=lambda number: _key(inputs[number])):
            numbers = list(same)
            texts = [text for number in numbers for text in inputs[number].inputs]
            outputs = iter(self._pipe(texts, **inputs[numbers[0]].parameters))
            for number in numbers:
                results[number] = plain_or_error({"outputs": [next(outputs) for _ in inputs[number].inputs]})
        return results


def _key(job: TransformersInput) -> str:
    return json.dumps(job.parameters, sort_keys=True)


def _model_class(task: str) -> Any:
    try:
        _, target, _ = check_task(task)
    except KeyError as error:
        raise LoadFailed(f"options.task {task!r} is unknown: {error.args[0]}") from error
    if target["type"] != "text":
        raise LoadFailed(f"options.task {task!r} does not take text; use the runtime 'torch' for it")
    return target["pt"][0]


def _folder(entry: ModelEntry) -> Path | str:
    """Where the files are; ``package:`` sources are passed on as they are."""
    local = entry.folder / entry.source
    if entry.source.startswith(PACKAGE) or local.exists() or not _HUB_ID.fullmatch(entry.source):
        return entry.source if entry.source.startswith(PACKAGE) else local.absolute()
    try:
        return Path(snapshot_download(entry.source, allow_patterns=_HUB_FILES))
    except Exception as error:
        raise LoadFailed(
            f"source {entry.source!r} is no folder under {entry.folder} and could not be had from the hub "
            f"({type(error).__name__}); correct it, or fetch the repository beforehand"
        ) from error
