"""The sixteen synthetic models of a chaos run, and inputs whose result tells the job it came from.

Together they need more memory than four simulated GPUs of 24 GiB have, so that loads and evictions go on all the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ECHOES_FROM = 12
"""Models from here on return their input. The others return their model and ``exec_s``, which is unique to a job."""

LOAD_S_PER_GIB = 0.05


@dataclass(frozen=True, slots=True)
class ChaosModel:
    """One model. ``exec_s`` is the least one of its jobs takes."""

    name: str
    vram_gib: int
    exec_s: float
    max_batch: int
    echo: bool


MODELS: Sequence[ChaosModel] = tuple(
    ChaosModel(
        name=f"chaos-{number:02d}",
        vram_gib=4 + number * 5 % 8,
        exec_s=(0.004, 0.008, 0.015, 0.06)[number % 4],
        max_batch=(1, 4, 8)[number % 3],
        echo=number >= ECHOES_FROM,
    )
    for number in range(16)
)


def catalogue_toml() -> str:
    """The catalogue file of the system under test."""
    return "\n".join(_entry(model) for model in MODELS)


def an_input(model: ChaosModel, number: int) -> dict[str, object]:
    """The input of job ``number``: no other job has it."""
    exec_s = round(model.exec_s + number * 1e-7, 7)
    return {"processing_time": exec_s, "job": number} if model.echo else {"exec_s": exec_s}


def expected_result(model: ChaosModel, value: dict[str, object]) -> object:
    """What a job with that input returns, if it succeeds."""
    return value if model.echo else {"model": model.name, "exec_s": value["exec_s"]}


def _entry(model: ChaosModel) -> str:
    load_s = round(model.vram_gib * LOAD_S_PER_GIB, 2)
    options = f"load_s = {load_s}, exec_s = {model.exec_s}" + (", echo = true" if model.echo else "")
    return f"""[[model]]
name = "{model.name}"
runtime = "synthetic"
vram_gib = {model.vram_gib}
max_batch = {model.max_batch}
timeout_s = 30
options = {{ {options} }}
"""
