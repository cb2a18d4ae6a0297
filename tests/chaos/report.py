"""What a run has shown, for a machine (JSON) and for a person (text)."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

from tests.chaos.run import HEALED_WITHIN_S, Outcome
from tests.chaos.verdict import executions, recovery_s

LISTED = 20


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All of it; lists of ids are cut off after twenty."""
    options, verdict, ledger = outcome.options, outcome.verdict, outcome.ledger
    return {
        "passed": outcome.passed,
        "seed": options.seed,
        "jobs": len(ledger.entries),
        "accepted": len(ledger.accepted),
        "faults": dict(Counter(str(fault.kind) for fault in outcome.injected).most_common()),
        "states": dict(Counter(str(record["state"]) for record in outcome.records.values()).most_common()),
        "verdict": {name: {"count": len(ids), "first": ids[:LISTED]} for name, ids in verdict.found.items()},
        "failed_without_blame": dict(verdict.blameless),
        "executions": executions(outcome.followed),
        "answers": dict(ledger.answers().most_common()),
        "events": outcome.followed.others,
        "healed": {
            name: {"after_s": look.after_s, "in_time": look.in_time, "wrong": look.wrong}
            for name, look in outcome.looked.items()
        },
        "stalled": outcome.stalled,
        "ended_by_themselves": outcome.ended,
        "left_behind": outcome.left_behind,
        "recovery_s": _recoveries(outcome),
        "sent_for_s": round(outcome.sent_for_s, 1),
        "took_s": round(outcome.took_s, 1),
    }


def as_text(outcome: Outcome) -> str:
    """A page."""
    found = as_json(outcome)
    verdict, runs = found["verdict"], found["executions"]
    lines = [
        _headline(found),
        "",
        "faults     " + ", ".join(f"{count} {kind}" for kind, count in found["faults"].items()),
        "answers    " + ", ".join(f"{count} x {answer}" for answer, count in found["answers"].items()),
        f"accepted   {found['accepted']}, of which are now "
        + ", ".join(f"{count} {state}" for state, count in found["states"].items()),
        "verdict    " + ", ".join(f"{v['count']} {name}" for name, v in verdict.items()),
        f"failed without blame: {found['failed_without_blame'] or 'none'}",
        _starts(runs),
        f"given back for {runs['given_back_for'] or 'nothing'}",
        "",
        f"after healing (within {HEALED_WITHIN_S:.0f} s):",
    ]
    for name, look in found["healed"].items():
        state = f"{look['after_s']:5.1f} s" if look["after_s"] is not None else "  never"
        lines.append(f"  {state}  {name}" + (f": {look['wrong'][:500]}" if look["wrong"] else ""))
    lines += ["", "seconds from a fault until every job it touched was over (median, most), and how long it lasted:"]
    lines += [
        f"  {kind:20} {r['median']:6.1f} {r['most']:6.1f}  ({r['of']})" for kind, r in found["recovery_s"].items()
    ]
    for name, ids in outcome.verdict.problems.items():
        lines += ["", f"{name}: {len(ids)}", *(f"  {each}" for each in ids[:LISTED])]
    lines += ["stalled: jobs could not be sent any more"] * outcome.stalled
    lines += [f"ended by itself: {process}" for process in outcome.ended]
    lines += [f"left behind: {process}" for process in outcome.left_behind]
    return "\n".join(lines)


def _headline(found: Mapping[str, Any]) -> str:
    passed, faults = "PASSED" if found["passed"] else "FAILED", sum(found["faults"].values())
    took = f"{found['sent_for_s']} s, {found['took_s']} s in all"
    return f"seed {found['seed']}: {passed}; {found['jobs']} jobs, {faults} faults in {took}"


def _starts(runs: Mapping[str, Any]) -> str:
    again = f"{runs['jobs_started_more_than_once']} jobs more than once, {runs['duplicate_starts']} starts too many"
    return f"started    {runs['started']} times; {again}, at most {runs['most_starts_of_one_job']} of one job"


def _recoveries(outcome: Outcome) -> dict[str, dict[str, float]]:
    took_s: dict[str, list[float]] = defaultdict(list)
    lasted_s: dict[str, list[float]] = defaultdict(list)
    for fault in outcome.injected:
        until_over_s = recovery_s(outcome.ledger, outcome.followed, fault)
        if until_over_s is not None and fault.healed_at is not None:
            took_s[str(fault.kind)].append(until_over_s)
            lasted_s[str(fault.kind)].append(fault.healed_at - fault.at)
    return {
        kind: {
            "median": round(median(took_s[kind]), 2),
            "most": round(max(took_s[kind]), 2),
            "lasted": round(median(lasted_s[kind]), 2),
            "of": len(took_s[kind]),
        }
        for kind in sorted(took_s)
    }
