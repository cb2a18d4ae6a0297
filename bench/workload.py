"""``python -m bench workload``: the committed workloads: parameters in ``workloads/*.toml``, chance in a seed."""

import argparse
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from random import Random
from types import MappingProxyType

from rich.console import Console

from affinity.fleet import GIB
from bench.arrivals import ARRIVALS, Sampler, lognormal, lognormal_quantile
from bench.models_file import BadInput, BenchModel, write_models
from bench.trace import TraceJob, of_arrivals, write_trace
from bench.world import FleetShape, LoadMode

FOLDER = Path(__file__).with_name("workloads")
CACHED_SHARE, CACHED_LOAD_S = 0.36, 2.9
"""Where loads are bimodal: the share of models whose weights the host holds, and their load time."""

BIMODAL_LOAD_S, BIMODAL_LOAD_CV = 32.0, 0.5
"""... and the load time of all others."""

GOLDEN, OFFSET = 0.6180339887498949, 0.6
"""Multiples of the one, modulo 1, fill the unit interval as evenly as any; with the other, the mean load time of jobs
that miss is that of all models (21.5 s) at each popularity used here."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is generated, and for which fleet.

    ``load``: seconds, ``bimodal``, or a bandwidth as text like ``2 GiB/s``. ``vram_gib``: of each model, in turn.
    ``utilisation``: execution alone over GPU time, for the mean rate. ``sweep_at_s``: then every model is asked for
    once. ``hot_from_s``, ``hot_until_s``: in between, there are ``hot_factor`` jobs of the first model to each other.
    ``drift_per_day``: share of the 20 most popular models that change places with others within a day.
    """

    name: str
    summary: str
    models: int
    zipf: float
    jobs: int
    exec_mean_s: float
    exec_cv: float
    load: float | str
    vram_gib: tuple[float, ...]
    workers: int
    worker_vram_gib: float
    load_mode: LoadMode = LoadMode.BLOCKING
    host_cache_gib: float = 0.0
    reload_s: float | None = None
    arrivals: str = "poisson"
    utilisation: float = 0.6
    drift_per_day: float = 0.0
    max_batch: int = 1
    sweep_at_s: float | None = None
    hot_from_s: float = 0.0
    hot_until_s: float = 0.0
    hot_factor: float = 0.0

    @property
    def shape(self) -> FleetShape:
        """The fleet it is meant for."""
        return FleetShape(
            self.workers, round(self.worker_vram_gib * GIB), self.load_mode, round(self.host_cache_gib * GIB)
        )

    @property
    def rate(self) -> float:
        """Mean arrivals per second."""
        return self.utilisation * self.workers / self.exec_mean_s

    def generate(self, seed: int) -> tuple[list[TraceJob], dict[str, BenchModel]]:
        """Jobs and models, the same for the same seed. Popularity falls with the model's number, until it drifts."""
        models = self._models(Random(f"{self.name} models {seed}"))
        rng = Random(f"{self.name} jobs {seed}")
        names = list(models)
        sampler = Sampler(names, self.zipf, self.drift_per_day, rng)
        made = [
            (at, self._asked(sampler, at, names, rng), self._exec_s(rng))
            for at in ARRIVALS[self.arrivals](self.rate, self.jobs, rng)
        ]
        if self.sweep_at_s is not None:
            made += [(self.sweep_at_s + 2.0 * number, name, self._exec_s(rng)) for number, name in enumerate(names)]
        return list(of_arrivals(made)), models

    def _asked(self, sampler: Sampler, at: float, names: list[str], rng: Random) -> str:
        hot = self.hot_from_s <= at < self.hot_until_s
        if hot and rng.random() < self.hot_factor / (1 + self.hot_factor):
            return names[0]
        return sampler.draw(at)

    def _exec_s(self, rng: Random) -> float:
        return round(lognormal(self.exec_mean_s, self.exec_cv, rng), 6)

    def _models(self, rng: Random) -> dict[str, BenchModel]:
        sizes = [self.vram_gib[number % len(self.vram_gib)] for number in range(self.models)]
        rng.shuffle(sizes)
        digits = len(str(self.models - 1))
        made = {}
        for number, size_gib in enumerate(sizes):
            name = f"m{number:0{digits}}"
            load_s = round(self._load_s(number, size_gib), 6)
            reload_s = None if self.reload_s is None else min(self.reload_s, load_s)
            made[name] = BenchModel(name, round(size_gib * GIB), load_s, reload_s, self.exec_mean_s, self.max_batch)
        return made

    def _load_s(self, number: int, size_gib: float) -> float:
        if isinstance(self.load, int | float):
            return float(self.load)
        if self.load != "bimodal":
            return size_gib / float(self.load.removesuffix("GiB/s"))
        # Both spread evenly over popular and rare models: by chance, the first few would decide the result of a seed.
        even = (number * GOLDEN + OFFSET) % 1
        if int((number + 1) * CACHED_SHARE) > int(number * CACHED_SHARE):
            return lognormal_quantile(CACHED_LOAD_S, 0.1, even)
        return lognormal_quantile(BIMODAL_LOAD_S, BIMODAL_LOAD_CV, even)


@cache
def workloads() -> Mapping[str, Workload]:
    """All committed workloads by name."""
    return MappingProxyType({path.stem: read_workload(path) for path in sorted(FOLDER.glob("*.toml"))})


def read_workload(path: Path) -> Workload:
    """One workload. Raises ``BadInput`` for a field that is none."""
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := sorted(written.keys() - {field.name for field in fields(Workload)}):
        raise BadInput(f"{path}: {', '.join(unknown)} is not known")
    sizes = written.pop("vram_gib")
    written["vram_gib"] = tuple(sizes) if isinstance(sizes, list) else (sizes,)
    written["load_mode"] = LoadMode(written.get("load_mode", LoadMode.BLOCKING))
    return Workload(name=path.stem, **written)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's arguments."""
    added = commands.add_parser("workload", help="write the trace and the models of a committed workload")
    added.add_argument(
        "name", choices=workloads(), help="; ".join(f"{w.name}: {w.summary}" for w in workloads().values())
    )
    added.add_argument("--seed", type=int, default=0, help="default: 0")
    added.add_argument("--trace", type=Path, required=True, help="where to write the jobs")
    added.add_argument("--models", type=Path, required=True, help="where to write the models")
    added.add_argument("--workers", type=int, help="the rate is made for so many GPUs (default: the workload's own)")
    added.add_argument("--utilisation", type=float, help="execution over GPU time (default: the workload's own)")
    added.add_argument("--arrivals", choices=ARRIVALS, help="default: the workload's own")
    added.add_argument("--jobs", type=int, help="default: the workload's own")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0, or 2 for arguments that cannot be used."""
    notes = Console(stderr=True, highlight=False)
    chosen = {name: getattr(options, name) for name in ("workers", "utilisation", "arrivals", "jobs")}
    changes = {name: value for name, value in chosen.items() if value is not None}
    if low := [name for name, value in changes.items() if not isinstance(value, str) and value <= 0]:
        notes.print(f"[red]cannot generate:[/red] --{low[0]} must be above 0")
        return 2
    workload = replace(workloads()[options.name], **changes)
    jobs, models = workload.generate(options.seed)
    try:
        write_trace(options.trace, jobs)
        write_models(options.models, models)
    except OSError as error:
        notes.print(f"[red]cannot write:[/red] {error}")
        return 2
    cache_gib = f" --host-cache-gib {workload.host_cache_gib:g}" if workload.host_cache_gib else ""
    notes.print(
        f"{len(jobs)} jobs for {len(models)} models; meant for: python -m bench simulate --trace {options.trace} "
        f"--models {options.models} --workers {workload.workers} --vram-gib {workload.worker_vram_gib:g} "
        f"--load {workload.load_mode}{cache_gib} --json",
        soft_wrap=True,
    )
    return 0
