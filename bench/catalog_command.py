"""``python -m bench catalog``: a catalogue of synthetic models that behave as a models file says."""

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from affinity.fleet import GIB
from bench.models_file import BadInput, BenchModel, read_models

TIMEOUT_FACTOR, LEAST_TIMEOUT_S, MOST_TIMEOUT_S = 20.0, 60.0, 86_400.0
"""A job may take so many times its model's mean execution time, within these limits."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's arguments."""
    added = commands.add_parser("catalog", help="a catalogue of synthetic models for a replay, as TOML")
    added.add_argument("--models", type=Path, required=True, help="JSON; 'workload' writes one")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0, or 2 for a models file that cannot be used."""
    try:
        models = read_models(options.models)
    except BadInput as error:
        Console(stderr=True, highlight=False).print(f"[red]cannot write a catalogue:[/red] {error}", soft_wrap=True)
        return 2
    print("\n".join(catalogue_lines(models.values())))
    return 0


def catalogue_lines(models: Iterable[BenchModel]) -> Iterator[str]:
    """The TOML document. A job's own ``exec_s`` comes with its input; the option here is for jobs without one."""
    yield "# Synthetic models for 'python -m bench replay': set MODELS_CATALOG to this file."
    for model in models:
        exec_s = model.exec_s or 0.0
        timeout_s = min(max(LEAST_TIMEOUT_S, math.ceil(TIMEOUT_FACTOR * exec_s)), MOST_TIMEOUT_S)
        yield ""
        yield "[[model]]"
        yield f"name = {json.dumps(model.name)}"
        yield 'runtime = "synthetic"'
        yield f"vram_gib = {model.vram_bytes / GIB!r}"
        yield f"max_batch = {model.max_batch}"
        yield f"timeout_s = {timeout_s:.1f}"
        if model.pinned:
            yield "pinned = true"
        yield f"options = {{ load_s = {model.load_s!r}, exec_s = {exec_s!r} }}"
