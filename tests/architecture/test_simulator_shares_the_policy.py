"""The simulator measures the policy that runs in the workers: it decides nothing itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from affinity.policy import Plan, Planner
from bench import planned
from bench.baselines import scheduler
from bench.planned import Planned
from bench.scheduler import PolicyFault
from bench.simulator import simulate
from tests.support.simulated import Deciding, a_model, a_world, jobs_of

ROOT = Path(__file__).parents[2]
BENCH = sorted(path for path in (ROOT / "bench").rglob("*.py") if "baselines" not in path.parts)
DECISIONS = {"Load", "Serve", "GiveUp", "Wait", "VramLedger"}
RANKED = {"residents", "last_used_at", "victims", "footprint_bytes"}


def second_policies(source: str) -> Iterator[str]:
    """Where a module makes decisions of the policy itself, or ranks what could be evicted."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in DECISIONS | {"victims_for"}:
            yield f"line {node.lineno}: {called}()"
        if called in {"min", "max", "sorted", "sort", "nsmallest", "nlargest"}:
            read = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)} & RANKED
            yield from (f"line {node.lineno}: {called}() over {name}" for name in sorted(read))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", BENCH, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_but_the_baselines_decides(path: Path) -> None:
    assert list(second_policies(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "victims = sorted(node.residents.values(), key=lambda r: r.last_used_at)",
        "oldest = min(residents, key=lambda r: r.last_used_at)",
        "step = Load(worker, model, size, (), 0, 'why')",
        "made = policy.Serve('w0', 'a', 1, '')",
        "chosen = ledger.victims_for(size, candidates)",
    ],
)
def test_the_check_itself_finds_what_it_should(source: str) -> None:
    assert list(second_policies(source))


def test_one_module_asks_the_policy_and_the_event_loop_knows_none() -> None:
    asking = [path.name for path in BENCH if {"affinity.policy.plan", "affinity.policy.Planner"} & imports(path)]
    assert asking == ["planned.py"]
    for name in ("simulator.py", "world.py", "scheduler.py", "demand.py"):
        assert not any(each.startswith("affinity.policy") for each in imports(ROOT / "bench" / name))
        assert not any(each.startswith("bench.baselines") for each in imports(ROOT / "bench" / name))
    assert planned.Planner is Planner


def test_the_policy_under_test_is_the_one_that_decides() -> None:
    jobs = jobs_of((0.0, "a", 1.0), (0.5, "b", 1.0))
    seen: list[Plan] = []

    class Spied(Planner):
        """Takes note of every answer."""

        def plan(self, now: float) -> Plan:
            seen.append(super().plan(now))
            return seen[-1]

    world = a_world([a_model("a"), a_model("b")])
    spied = simulate(world, Planned(world, planner=Spied), jobs)
    assert seen
    assert {type(decision).__name__ for made in seen for decision in made.decisions} >= {"Load", "Serve"}
    plain = a_world([a_model("a"), a_model("b")])
    assert list(simulate(plain, scheduler("affinity", plain, jobs, 0), jobs).finished_at) == list(spied.finished_at)


def test_another_policy_gives_another_run() -> None:
    world = a_world([a_model("a")])
    with pytest.raises(PolicyFault, match="leaves 1 jobs waiting"):
        simulate(world, Planned(world, planner=Deciding.by(lambda *_, **__: Plan(()))), jobs_of((0.0, "a", 1.0)))
