"""The picture that ``affinity top`` draws: a pure function of what the dispatcher says and of the terminal's size.

Nothing is told by colour alone, and nothing is wider than the terminal: each GPU is a bar whose letters are its
residents, named below it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dispatcher.cli_output import GIB, seconds
from dispatcher.cli_text import plain, shown
from dispatcher.client import Json

LETTERS = "abcdefghijklmnopqrstuvwxyz"
COLOURS = ("cyan", "magenta", "green", "blue", "yellow", "red")
SAID = {"loading": "LOADS", "draining": "LEAVES"}
"""What happens to a resident now; one that is ready needs no word."""

GPU_LINES = 3
GPU_SHARE = 0.6
"""Of a terminal's lines, while models wait as well."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Jobs per second since the look before: accepted by this dispatcher, and gone from the queues."""

    accepted: float
    left: float


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one time: bodies of ``GET /workers`` and ``GET /models``."""

    url: str
    workers: Sequence[Json]
    models: Sequence[Json]
    rate: Rate | None = None


class Rates:
    """Rates out of counts that only grow: of two looks, one after the other."""

    def __init__(self) -> None:
        self._before: tuple[float, float, int] | None = None

    def since(self, at: float, accepted: float | None, queued: int) -> Rate | None:
        """``at``: seconds by a clock that never runs backwards. ``None`` where there is nothing to compare with."""
        before, self._before = self._before, None if accepted is None else (at, accepted, queued)
        if before is None or accepted is None or at <= before[0] or accepted < before[1]:
            return None  # The first look, or the dispatcher has begun again.
        took_s, came = at - before[0], accepted - before[1]
        return Rate(came / took_s, max(0.0, came + before[2] - queued) / took_s)


def picture(look: Look, width: int, height: int | None, ascii_only: bool = False) -> RenderableType:
    """Lines of at most ``width``; at most ``height`` of them, ``None``: as many as it takes."""
    waiting = sorted((m for m in look.models if m["queued"] or m["orders"]), key=_urgency, reverse=True)
    gpus = len(look.workers)
    if height is not None:
        room = height - 3 if not waiting else int((height - 3) * GPU_SHARE)
        gpus = max(1, room // GPU_LINES)
    lines: list[RenderableType] = [_head(look, waiting)]
    for worker in look.workers[:gpus]:
        lines += _gpu(worker, width, ascii_only)
    hidden = look.workers[gpus:]
    if hidden:
        lines.append(shown(f"... {len(hidden)} more GPUs: {sum(w['busy'] for w in hidden)} busy", "dim"))
    if not look.workers:
        lines.append(shown("no worker is there: jobs wait until one is", "bold red"))
    rows = len(waiting) if height is None else max(1, height - len(lines) - 2)
    lines.append(_queues(waiting[:rows]) if waiting else shown("nothing waits", "dim"))
    if waiting[rows:]:
        lines.append(shown(f"... {len(waiting) - rows} more models with jobs that wait", "dim"))
    for line in lines:
        if isinstance(line, Text):
            line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _urgency(model: Json) -> tuple[float, int]:
    return (model["oldest_wait_s"] or 0.0, model["queued"])


def _head(look: Look, waiting: Sequence[Json]) -> Text:
    queued = sum(model["queued"] for model in waiting)
    parts = [f"{len(look.workers)} GPUs, {sum(w['busy'] for w in look.workers)} busy", f"{queued} queued"]
    if queued:
        parts[-1] += f", oldest {seconds(_urgency(waiting[0])[0])}"
    if look.rate:
        parts += [f"in {look.rate.accepted:.1f}/s", f"out {look.rate.left:.1f}/s"]
    return shown(f"{' | '.join(parts)} | {look.url}", "bold")


def _gpu(worker: Json, width: int, ascii_only: bool) -> Iterator[Text]:
    gpu = worker["gpu"]
    doing = "draining" if worker["draining"] else "busy" if worker["busy"] else "idle"
    load = "" if gpu["utilization"] is None else f", {gpu['utilization']:.0%}"
    held = f"{gpu['used_bytes'] / GIB:.1f} of {gpu['total_bytes'] / GIB:.1f} GiB"
    late = f", seen {seconds(worker['lease_age_s'])} ago" if worker["lease_age_s"] > 5 else ""
    yield shown(f"{worker['id']}  {doing}{load}  {held}  {gpu['name']}{late}")
    yield _bar(worker, max(8, width - 2), ascii_only)
    yield Text(" ") + Text(" ").join(_residents(worker)) if worker["residents"] else shown("  empty", "dim")


def _bar(worker: Json, width: int, ascii_only: bool) -> Text:
    """Everything there has a cell, as long as there are any left; the whole is never more than ``width``."""
    gpu, bar = worker["gpu"], Text("[")
    total, left = max(1, gpu["total_bytes"]), width
    foreign = min(gpu["foreign_bytes"], total)
    segments = [(*_look_of(at), r["bytes"]) for at, r in enumerate(worker["residents"])]
    segments.append(("~" if ascii_only else "▒", "dim", foreign))
    for sign, style, size in segments:
        cells = min(left, max(1, round(width * size / total))) if size else 0
        bar.append(sign * cells, style)
        left -= cells
    bar.append(("." if ascii_only else "·") * left, "dim")
    bar.append("]")
    return bar


def _look_of(place: int) -> tuple[str, str]:
    return LETTERS[place % len(LETTERS)], COLOURS[place % len(COLOURS)]


def _residents(worker: Json) -> Iterator[Text]:
    for at, resident in enumerate(worker["residents"]):
        letter, colour = _look_of(at)
        running = f" {resident['running']} running" if resident["running"] else ""
        pinned = " pinned" if resident["pinned"] else ""
        said = f" {SAID[resident['state']]}" if resident["state"] in SAID else ""
        text = Text(f" {letter} ", colour)
        text.append(f"{plain(resident['model'])} {resident['bytes'] / GIB:.1f}G{running}{pinned}", "")
        text.append(said, "bold")
        yield text


def _queues(models: Sequence[Json]) -> Table:
    table = Table(box=None, pad_edge=False, expand=False)
    for title, justify in (("model", "left"), ("queued", "right"), ("oldest", "right"), ("held by", "left")):
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=True, overflow="ellipsis")
    for model in models:
        orders = [f"{order['action']} asked for" for order in model["orders"]]
        where = ", ".join([*model["holders"], *orders]) or "nobody"
        table.add_row(
            shown(model["name"]), shown(model["queued"]), shown(seconds(model["oldest_wait_s"])), shown(where)
        )
    return table
