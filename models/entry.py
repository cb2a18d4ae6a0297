"""What the catalogue says of one model: plain frozen values, checked once by ``models.catalog``.

Option classes carry pydantic annotations because the catalogue is an edge; after parsing nothing here validates again.
Everything pickles: an entry travels to the executor child.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field

from affinity.errors import InvariantBroken

GIB = 1024**3

Failure = Literal["error", "oom", "crash", "hang"]
"""Ways a synthetic model fails on purpose: it raises, runs out of memory, kills its process, never returns."""

Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False, strict=True)]

_CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Runtimes that take everything they need from the source."""

    __pydantic_config__ = _CLOSED


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """``exec_s`` is the cost of a batch, however many jobs are in it: GPUs are like that.

    ``load_s`` is from disk; ``reload_s``, by default a tenth of it, from the host's memory. ``load_fail`` fails every
    load; ``echo`` returns the input as the result.
    """

    __pydantic_config__ = _CLOSED

    load_s: Seconds = 0.0
    reload_s: Seconds | None = None
    exec_s: Seconds = 0.0
    load_fail: Failure | None = None
    echo: Annotated[bool, Field(strict=True)] = False


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """``class`` is ``module:Class``; ``kwargs`` go to its ``__init__``."""

    __pydantic_config__ = _CLOSED

    class_path: Annotated[str, Field(alias="class", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    kwargs: dict[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """``task`` as transformers names it, such as ``text-classification``."""

    __pydantic_config__ = _CLOSED

    task: Annotated[str, Field(min_length=1)]


Options = NoOptions | SyntheticOptions | TorchOptions | TransformersOptions

OPTIONS: dict[str, type[Options]] = {
    "sentence-embedding": NoOptions,
    "synthetic": SyntheticOptions,
    "torch": TorchOptions,
    "transformers": TransformersOptions,
    "voice-activity": NoOptions,
}
"""Runtime -> its options. The keys are the runtimes there are."""

WEIGHT_PATTERNS = {
    "sentence-embedding": "*.safetensors",
    "torch": "*.safetensors",
    "transformers": "*.safetensors",
    "voice-activity": "*.jit",
}
"""Runtime -> file names of its weights. ``synthetic`` has none."""

Chosen = TypeVar("Chosen", bound=Options)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of the catalogue.

    ``source`` is as written; relative paths start at ``folder``, where the catalogue lies. ``timeout_s`` bounds one
    attempt of a job, ``max_batch`` the jobs of one call. ``vram_gib`` is the operator's first guess, ``disk_bytes`` the
    size of the weights where they are installed.
    """

    name: str
    runtime: str
    source: str = ""
    vram_gib: float | None = None
    max_batch: int = 1
    timeout_s: float = 300.0
    pinned: bool = False
    options: Options = NoOptions()
    folder: Path = Path()
    disk_bytes: int | None = None

    @property
    def vram_bytes(self) -> int | None:
        """First guess of the footprint, until it is measured: as declared, else the weights' size, else unknown."""
        return self.disk_bytes if self.vram_gib is None else int(self.vram_gib * GIB)

    def options_as(self, kind: type[Chosen]) -> Chosen:
        """The options, which must be of this runtime's kind: ``InvariantBroken`` otherwise."""
        if not isinstance(self.options, kind):
            raise InvariantBroken(f"{self.name} has {type(self.options).__name__}, not {kind.__name__}")
        return self.options
