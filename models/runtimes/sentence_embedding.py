"""Runtime ``sentence-embedding``: a sentence-transformers folder, read with transformers alone.

The library of that name would bring scikit-learn and SciPy along for three lines of pooling.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from affinity.errors import LoadFailed
from models.entry import ModelEntry
from models.inputs import SentenceInput
from models.runtimes.host_weights import TorchCore
from models.runtimes.torch_device import check_readable, listed, prepare, release
from models.sources import find_files

__all__ = ["load", "release"]

TEXTS_PER_PASS = 128
"""Bounds the activations of one forward pass, however many texts the jobs of a batch bring."""


def load(entry: ModelEntry, device: str) -> "SentenceEmbedding":
    """Read the folder's own description of its modules, then tokenizer and weights."""
    prepare(device)
    transformers_logging.disable_progress_bar()
    (modules_json, *_) = find_files(entry.source, entry.folder, "modules.json")
    paths = _module_paths(modules_json)
    folder = modules_json.parent / paths["Transformer"]
    check_readable(find_files(str(folder.resolve()), Path(), "*.safetensors"))
    network, report = AutoModel.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    if missing := report["missing_keys"]:
        # transformers would fill them with random numbers and serve nonsense.
        raise LoadFailed(f"the weights in {folder} lack {listed(missing)}; copy the whole folder again")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    limit = _setting(folder / "sentence_bert_config.json", "max_seq_length") or tokenizer.model_max_length
    most = min(int(limit), getattr(network.config, "max_position_embeddings", int(limit)))
    pooling = _pooling(modules_json.parent / paths["Pooling"] / "config.json")
    return SentenceEmbedding(network.to(device).eval(), device, tokenizer, most, pooling, "Normalize" in paths)


class SentenceEmbedding(TorchCore):
    """Texts of all jobs of a batch go through the network together."""

    _network: Any

    def __init__(
        self, network: Any, device: str, tokenizer: Any, max_tokens: int, pooling: str, normalize: bool
    ) -> None:
        super().__init__(network, device)
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._pooling = pooling
        self._normalize = normalize

    @torch.inference_mode()
    def forward(self, inputs: Sequence[SentenceInput]) -> Sequence[object]:
        texts = [text for job in inputs for text in job.texts]
        # By length: a pass is as wide as its longest text, and padding costs as much as words.
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors: list[list[float]] = [[]] * len(texts)
        for first in range(0, len(order), TEXTS_PER_PASS):
            chosen = order[first : first + TEXTS_PER_PASS]
            for number, vector in zip(chosen, self._vectors([texts[n] for n in chosen]), strict=True):
                vectors[number] = vector
        rest = iter(vectors)
        return [{"embeddings": [next(rest) for _ in job.texts]} for job in inputs]

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._network.device)
        states = self._network(**tokens).last_hidden_state
        if self._pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        if self._normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return cast(list[list[float]], pooled.float().tolist())


def _module_paths(modules_json: Path) -> dict[str, str]:
    """Kind of module -> its folder. The kinds are the last parts of class names, which moved between versions."""
    try:
        paths = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in _json(modules_json)}
    except (TypeError, KeyError) as error:
        raise LoadFailed(f"{modules_json} must be a list of modules with 'type' and 'path'") from error
    if not {"Transformer", "Pooling"} <= paths.keys() <= {"Transformer", "Pooling", "Normalize"}:
        raise LoadFailed(
            f"{modules_json} lists {listed(paths)}; this runtime knows Transformer, Pooling and, if wanted, Normalize. "
            "Use the runtime 'torch' for anything else"
        )
    return paths


def _pooling(config: Path) -> str:
    """``mean`` or ``cls``; older folders say it with one flag per mode."""
    settings = _json(config)
    flags = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    old = [flags.get(key, key) for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
    mode = settings.get("pooling_mode") or (old[0] if len(old) == 1 else old)
    if mode not in ("mean", "cls"):
        raise LoadFailed(f"{config} asks for pooling {mode}; this runtime knows mean and cls")
    return str(mode)


def _setting(config: Path, name: str) -> int | None:
    value = _json(config).get(name) if config.is_file() else None
    return value if isinstance(value, int) else None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadFailed(f"{file} cannot be read as JSON ({error}); copy the whole folder again") from error
