"""The catalogue: every model that can be served, read from one TOML file. No torch: dispatcher and bench use it too.

A broken file is refused as a whole and every problem is named at once, so that one edit mends it.
"""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from affinity.errors import CatalogInvalid, InvalidInput, UnknownModel
from affinity.job import check_model_name
from models.entry import OPTIONS, WEIGHT_PATTERNS, ModelEntry, Options
from models.problems import path_of, sentence
from models.sources import PACKAGE, PICKLES, disk_bytes

__all__ = ["Catalog", "ModelEntry", "default_catalog_path"]


def default_catalog_path() -> Path:
    """The catalogue that ships with Affinity."""
    return Path(__file__).with_name("catalog.toml")


class Catalog:
    """Models by name, in order of their names. Names are unique."""

    __slots__ = ("_by_name",)

    def __init__(self, entries: Iterable[ModelEntry]) -> None:
        self._by_name = {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}

    @classmethod
    def load(cls, path: Path) -> "Catalog":
        """The catalogue in a file. Raises ``CatalogInvalid`` with every entry and field at fault."""
        rows, problems = _rows(path)
        entries: list[ModelEntry] = []
        for number, row in enumerate(rows, start=1):
            entry, faults = _entry(row, path.absolute().parent)
            problems += [f"model {number}{_name_of(row)}: {fault}" for fault in faults]
            entries += [entry] if entry else []
        problems += _duplicates(rows)
        if problems:
            raise CatalogInvalid("\n  ".join([f"{path}: {len(problems)} to mend", *problems]))
        return cls(entries)

    def get(self, name: str) -> ModelEntry:
        """The model of that name. Raises ``UnknownModel``, which names similar ones."""
        if entry := self._by_name.get(name):
            return entry
        near = get_close_matches(name, self._by_name, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "GET /models lists those there are"
        raise UnknownModel(f"there is no model {name[:128]!r}; {hint}")

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name


class _Row(BaseModel):
    """One ``[[model]]`` as written."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    runtime: Literal["sentence-embedding", "synthetic", "torch", "transformers", "voice-activity"]
    source: str = ""
    vram_gib: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] | None = None
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 1
    timeout_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 300.0
    pinned: bool = False
    options: dict[str, object] = {}


def _rows(path: Path) -> tuple[list[object], list[str]]:
    """The ``[[model]]`` tables of a file, and what is wrong around them. Raises where nothing can be read."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogInvalid(f"{path}: cannot be read ({error.strerror}); correct MODELS_CATALOG") from error
    except UnicodeDecodeError as error:
        raise CatalogInvalid(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise CatalogInvalid(f"{path}: is not TOML: {error}; mend it there") from error
    rows = document.pop("model", [])
    problems = [f"{key!r} is not known at the top; every model is a [[model]]" for key in document]
    if not isinstance(rows, list):
        return [], [*problems, "'model' is one table; write [[model]], with two brackets, before each model"]
    if not rows:
        problems.append("there is no [[model]]; add at least one")
    return rows, problems


def _entry(row: object, folder: Path) -> tuple[ModelEntry | None, list[str]]:
    """The entry of one table, or what is wrong with it."""
    if not isinstance(row, dict):
        return None, ["must be a table; write [[model]] before it"]
    faults: list[str] = []
    parsed: _Row | None = None
    try:
        parsed = _Row.model_validate(row)
        faults += _odd_name(parsed.name) + _odd_source(parsed)
    except ValidationError as error:
        faults += _sentences(error, _Row.model_fields)
    options, odd_options = _options(row)
    faults += odd_options
    if parsed is None or options is None or faults:
        return None, faults
    pattern = WEIGHT_PATTERNS.get(parsed.runtime)
    return ModelEntry(
        **{**parsed.model_dump(), "options": options},
        folder=folder,
        disk_bytes=disk_bytes(parsed.source, folder, pattern) if pattern else None,
    ), []


def _options(row: dict[str, object]) -> tuple[Options | None, list[str]]:
    """The options of the row's runtime. With an unknown runtime there is nothing to check them against."""
    kind = OPTIONS.get(str(row.get("runtime")))
    written = row.get("options", {})
    if kind is None or not isinstance(written, dict):
        return None, []
    try:
        return TypeAdapter(kind).validate_python(written), []
    except ValidationError as error:
        allowed = ["class" if field.name == "class_path" else field.name for field in fields(kind)]
        return None, [f"options.{fault}" for fault in _sentences(error, allowed)]


def _sentences(error: ValidationError, allowed: Iterable[str]) -> list[str]:
    """One line per fault. The value is quoted: a catalogue holds no secrets, and one searches the file for it."""
    return [
        f"{path_of(fault['loc'])}: {sentence(fault, allowed)}"
        + (f" (it is {fault['input']!r})" if isinstance(fault["input"], str | int | float) else "")
        for fault in error.errors(include_url=False)
    ]


def _odd_name(name: str) -> list[str]:
    try:
        check_model_name(name)
    except InvalidInput as error:
        # A name becomes a routing key, where * and # are wildcards.
        return [f"name: {error.message.partition(': ')[2]} (it is {name!r})"]
    return []


def _odd_source(row: _Row) -> list[str]:
    if row.runtime == "synthetic":
        return []
    if not row.source.removeprefix(PACKAGE).strip():
        return [f"source: is missing; give a path or {PACKAGE}NAME of an installed package"]
    if Path(row.source).suffix in PICKLES and not row.source.startswith(PACKAGE):
        return [f"source: a pickle is never loaded; convert it to safetensors (it is {row.source!r})"]
    return []


def _name_of(row: object) -> str:
    name = row.get("name") if isinstance(row, dict) else None
    return f" ({name})" if isinstance(name, str) else ""


def _duplicates(rows: list[object]) -> list[str]:
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict) and isinstance(name := row.get("name"), str):
            numbers.setdefault(name, []).append(number)
    return [
        f"name: {name!r} is given to models {', '.join(map(str, used))}; names are unique, rename all but one"
        for name, used in numbers.items()
        if len(used) > 1
    ]
