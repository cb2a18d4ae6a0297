"""What the command line prints: tables for people, JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.cli_text import listed, plain, shown

GIB = 1024**3

Json = dict[str, Any]

STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "queued": "blue",
}


def print_json(out: Console, value: object) -> None:
    """Indented JSON, unadorned: it can be piped."""
    out.file.write(json.dumps(value, indent=2) + "\n")


def print_job(out: Console, job: Json) -> None:
    """One job: a row for each thing known of it, then its result."""
    table = Table.grid(padding=(0, 2))
    for name in ("id", "model"):
        table.add_row(name, shown(job[name]))
    table.add_row("state", _state(job))
    for name in ("worker", "start"):
        if job[name] is not None:
            table.add_row(name, shown(job[name]))
    for name in ("wait_s", "load_s", "exec_s"):
        if job[name] is not None:
            table.add_row(name.removesuffix("_s"), seconds(job[name]))
    if job["error"]:
        table.add_row("error", shown(f"{job['error']['code']}: {job['error']['message']}"))
    out.print(table)
    if job["state"] == "succeeded":
        out.print_json(json.dumps(job["result"]), ensure_ascii=True)


def print_explanation(out: Console, answer: Json) -> None:
    """Why a job waits, worker by worker; or where its time went."""
    out.print(Text.assemble(f"{plain(answer['id'])}  ", _state(answer), f"  {plain(answer['summary'])}"))
    if ran := answer["ran"]:
        parts = ("wait_s", "wait_in_queue_s", "wait_for_load_s", "exec_s", "total_s")
        known = [f"{name.removesuffix('_s').replace('_', ' ')} {seconds(ran[name])}" for name in parts if ran[name]]
        out.print(shown(f"{', '.join(known)}; attempts {answer['attempts']}, lost {answer['losses']}"))
    if waiting := answer["waiting"]:
        decision, eta = waiting["decision"], waiting["eta"]
        by = f" by {decision['worker']}" if decision["worker"] else ""
        out.print(shown(f"plan: {decision['kind'].replace('_', ' ')}{by}: {decision['reason']}"))
        if eta:
            between = f"{seconds(eta['low_s'])} to {seconds(eta['high_s'])}"
            out.print(
                shown(f"starts in about {seconds(eta['start_in_s'])} ({between}), if {'; '.join(eta['assuming'])}")
            )
        else:
            out.print(shown(waiting["no_eta"]))
        rows = ((c["worker"], c["standing"].replace("_", " "), c["reason"]) for c in waiting["candidates"])
        out.print(_table(("worker", "standing", "why"), rows))


def print_jobs(out: Console, jobs: Sequence[Json], cursor: str | None) -> None:
    """A page of jobs."""
    out.print(jobs_table(jobs))
    if cursor:
        out.print(shown(f"more: --cursor {cursor}"))


def jobs_table(jobs: Sequence[Json]) -> Table:
    """A row for each."""
    rows = (
        (
            j["created_at"][:19],
            j["id"],
            j["model"],
            _state(j),
            j["start"] or "",
            j["worker"] or "",
            seconds(j["wait_s"]),
            seconds(j["exec_s"]),
        )
        for j in jobs
    )
    return _table(("created (UTC)", "id", "model", "state", "start", "worker", "wait", "exec"), rows)


def print_workers(out: Console, workers: Sequence[Json]) -> None:
    """The workers and what is in their VRAM, and in their hosts' memory."""
    caching = any(w["cached"] for w in workers)
    rows = (
        (
            w["id"],
            w["gpu"]["name"],
            f"{gib(w['gpu']['used_bytes'])} of {gib(w['gpu']['total_bytes'])}",
            gib(w["gpu"]["foreign_bytes"]),
            listed(
                f"{r['model']} {gib(r['bytes'])} {r['state']}{', pinned' if r['pinned'] else ''}"
                for r in w["residents"]
            ),
            *([listed(w["cached"])] if caching else []),
            "draining" if w["draining"] else "busy" if w["busy"] else "idle",
            seconds(w["lease_age_s"]),
        )
        for w in workers
    )
    cached = ["host RAM"] if caching else []  # Where no host keeps anything, a column less leaves room for the others.
    out.print(_table(("worker", "GPU", "VRAM used", "foreign", "residents", *cached, "doing", "seen"), rows))


def print_models(out: Console, models: Sequence[Json]) -> None:
    """The catalogue."""
    rows = (
        (
            m["name"],
            m["runtime"],
            _size(m),
            ", ".join(m["holders"]),
            _pinned(m),
            str(m["queued"]),
            "" if m["depth"] is None else str(m["depth"]),
            seconds(m["oldest_wait_s"]),
        )
        for m in models
    )
    out.print(_table(("model", "runtime", "size", "held by", "pinned", "queued", "depth", "oldest wait"), rows))


def print_asked(out: Console, answer: Json) -> None:
    """What an operator's wish comes to: in a word, then what the plan does for each order."""
    out.print(shown(answer["detail"]))
    for order in answer["orders"]:
        where = f"order {order['id']}{_on(order)}"
        out.print(shown(f"{where}: {_outlook(order['outlook'])}" if order["outlook"] else where))


def print_ends(out: Console, orders: Sequence[Json]) -> None:
    """How far orders are, or how they ended."""
    for order in orders:
        why = order["reason"] or _outlook(order["outlook"])
        out.print(shown(f"order {order['id']}{_on(order)} {order['state']}{f': {why}' if why else ''}"))


def print_pin(out: Console, pin: Json) -> None:
    """Where a model is pinned."""
    if pin["pinned"]:
        how = "by the catalogue" if pin["pinned_by"] == "catalogue" else "by hand"
        out.print(shown(f"{pin['model']} is pinned on every worker, {how}"))
    elif pin["pinned_on"]:
        out.print(shown(f"{pin['model']} is pinned on {', '.join(pin['pinned_on'])}"))
    else:
        out.print(shown(f"{pin['model']} is not pinned"))


def gib(size_bytes: int) -> str:
    """Bytes for people."""
    return f"{size_bytes / GIB:.2f} GiB"


def seconds(value_s: float | None) -> str:
    """A duration for people; nothing for an unknown one."""
    return "" if value_s is None else f"{value_s:.3f} s" if value_s < 10 else f"{value_s:.0f} s"


def _on(order: Json) -> str:
    return f" on {order['worker']}" if order["worker"] else ""


def _outlook(decision: Json | None) -> str:
    """What the plan does for an order that waits."""
    if decision is None:
        return ""
    if decision["kind"] == "load":
        evicting = f", evicting {', '.join(decision['victims'])}" if decision["victims"] else ""
        return f"{decision['worker']} loads it now{evicting}"
    return f"{decision['worker']} evicts it" if decision["kind"] == "unload" else f"waits: {decision['reason']}"


def _pinned(model: Json) -> str:
    return "everywhere" if model["pinned"] else ", ".join(model["pinned_on"])


def _size(model: Json) -> str:
    if model["measured"]:
        return gib(max(m["footprint_bytes"] for m in model["measured"]))
    return "" if model["declared_bytes"] is None else f"{gib(model['declared_bytes'])} (declared)"


def _state(job: Json) -> Text:
    return shown(job["state"], STATE_STYLES.get(job["state"], ""))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    table = Table(*titles)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else shown(cell) for cell in row))
    return table
