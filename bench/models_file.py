"""The models of a benchmark: a JSON object ``{"a": {"vram_gib": 4.0, "load_s": 0.4}}``, read, checked and written.

Optional fields: ``reload_s`` (load time from the host's memory), ``exec_s`` (mean time of a batch, known
beforehand), ``max_batch`` and ``pinned``.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from affinity.errors import InvalidInput
from affinity.fleet import GIB, Measurement, ModelFacts
from affinity.job import check_model_name
from affinity.policy.facts import UNKNOWN_EXEC_S

KNOWN_FIELDS = frozenset({"vram_gib", "load_s", "reload_s", "exec_s", "max_batch", "pinned"})


class BadInput(Exception):
    """A trace, a models file or an option cannot be used; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class BenchModel:
    """One model. ``load_s`` is from disk, ``reload_s`` from the host's memory (``None``: no faster than from disk)."""

    name: str
    vram_bytes: int
    load_s: float
    reload_s: float | None = None
    exec_s: float | None = None
    max_batch: int = 1
    pinned: bool = False

    def facts(self, exec_s: float | None) -> ModelFacts:
        """What placement knows of it. ``exec_s`` is what was measured so far, if anything."""
        known = next((s for s in (exec_s, self.exec_s) if s is not None), UNKNOWN_EXEC_S)
        declared = Measurement(self.vram_bytes, self.load_s, known, self.reload_s)
        return ModelFacts(self.name, declared, self.max_batch, self.pinned)


def read_models(path: Path) -> dict[str, BenchModel]:
    """The models of a file by name. Raises ``BadInput`` with every problem found."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: is not JSON: {error}") from error
    if not isinstance(parsed, dict) or not parsed:
        raise BadInput(f'{path}: must be a JSON object like {{"a": {{"vram_gib": 4.0, "load_s": 0.4}}}}')
    problems: list[str] = []
    models = {name: _model(name, fields, problems) for name, fields in parsed.items()}
    if problems:
        raise BadInput("\n  ".join([f"{path}: {len(problems)} to mend", *problems]))
    return models


def write_models(path: Path, models: Mapping[str, BenchModel]) -> None:
    """Write them as ``read_models`` reads them, one model a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(_fields(model))}" for name, model in models.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _fields(model: BenchModel) -> dict[str, object]:
    fields: dict[str, object] = {"vram_gib": model.vram_bytes / GIB, "load_s": model.load_s}
    optional = {"reload_s": model.reload_s, "exec_s": model.exec_s}
    fields |= {name: value for name, value in optional.items() if value is not None}
    fields |= {"max_batch": model.max_batch} if model.max_batch != 1 else {}
    return fields | ({"pinned": True} if model.pinned else {})


def _model(name: str, fields: object, problems: list[str]) -> BenchModel:
    """One model; what is wrong with it is added to ``problems`` and replaced by something harmless."""
    try:
        check_model_name(name)
    except InvalidInput as error:
        problems.append(f"{name!r}: {error.message}")
    if not isinstance(fields, dict):
        problems.append(f"{name}: must be an object with vram_gib and load_s")
        return BenchModel(name, 0, 0.0)
    problems += [
        f"{name}: {field!r} is not known; use {', '.join(sorted(KNOWN_FIELDS))}"
        for field in fields.keys() - KNOWN_FIELDS
    ]
    max_batch, pinned = fields.get("max_batch", 1), fields.get("pinned", False)
    if not isinstance(max_batch, int) or isinstance(max_batch, bool) or max_batch < 1:
        problems.append(f"{name}: max_batch must be a whole number above 0, it is {max_batch!r}")
        max_batch = 1
    if not isinstance(pinned, bool):
        problems.append(f"{name}: pinned must be true or false, it is {pinned!r}")
    seconds = {
        field: _amount(name, field, fields.get(field), problems) if field in fields or field == "load_s" else None
        for field in ("load_s", "reload_s", "exec_s")
    }
    return BenchModel(
        name,
        round(_amount(name, "vram_gib", fields.get("vram_gib"), problems) * GIB),
        seconds["load_s"] or 0.0,
        seconds["reload_s"],
        seconds["exec_s"],
        max_batch,
        bool(pinned),
    )


def _amount(name: str, field: str, value: object, problems: list[str]) -> float:
    if value is None:
        problems.append(f"{name}: {field} is missing")
    elif not is_amount(value):
        problems.append(f"{name}: {field} must be a number from 0 up, it is {value!r}")
    else:
        return float(value)  # type: ignore[arg-type]
    return 0.0


def is_amount(value: object) -> bool:
    """True for a finite number that is not negative."""
    # Compared first: a whole number that no float can hold is not finite for our purposes, and isfinite() raises.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max
