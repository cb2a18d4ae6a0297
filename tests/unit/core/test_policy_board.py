"""The board answers as if it looked through everything, after any number of changes."""

from dataclasses import replace
from random import Random

from affinity.fleet import GIB, Refusal, Residency, ResidencyState, WorkerReport
from affinity.policy.board import Board
from tests.support.policy_fleets import NOW, asked, resident, waiting, worker

MODELS = "abcd"
READY, LOADING = ResidencyState.READY, ResidencyState.LOADING


def random_report(rng: Random, name: str) -> WorkerReport:
    residents: list[Residency] = []
    for model in rng.sample(MODELS, rng.randint(0, 3)):
        state = rng.choice(list(ResidencyState))
        residents.append(resident(model, 1, state, running=int(state is READY and rng.random() < 0.3)))
    found = worker(
        name,
        *residents,
        gib=rng.choice([8, 16]),
        draining=rng.random() < 0.2,
        cached=tuple(rng.sample(MODELS, rng.randint(0, 2))),
        refusals=tuple(Refusal(m, NOW, "failed", "") for m in rng.sample(MODELS, rng.randint(0, 1))),
    )
    return replace(found, gpu=replace(found.gpu, name=rng.choice(["one", "two"])))


def free(report: WorkerReport, overlap: bool) -> bool:
    return not report.draining and not report.busy and (overlap or not report.loading)


def test_after_any_changes_it_answers_as_if_it_looked_through_all_reports() -> None:
    for seed in range(20):
        rng, overlap = Random(seed), seed % 2 == 0
        board, reports = Board({}, overlap), dict[str, WorkerReport]()
        for _ in range(40):
            name = rng.choice(["w1", "w2", "w3"])
            if name in reports and rng.random() < 0.3:
                board.lose(name)
                del reports[name]
            else:
                reports[name] = random_report(rng, name)
                board.report(reports[name])
            assert board.workers == reports
            kinds = {(w.gpu.name, w.gpu.usable_bytes) for w in reports.values()}
            assert sorted((gpu.name, gpu.usable_bytes) for gpu in board.gpus()) == sorted(kinds)
            for model in MODELS:
                holding = {n: w for n, w in reports.items() if w.holds(model)}
                ready = {n for n, w in holding.items() for r in w.residents if (r.model, r.state) == (model, READY)}
                assert dict(board.holders(model)) == holding
                assert set(board.loaders(model)) == holding.keys() - ready
                assert set(board.free_holders(model)) == {n for n in ready if free(reports[n], overlap)}
                assert set(board.cachers(model)) == {n for n, w in reports.items() if model in w.cached}
                assert board.refused(model) == any(r.model == model for w in reports.values() for r in w.refusals)


def test_two_gpus_are_of_one_kind_if_type_and_usable_size_are_the_same() -> None:
    board = Board({})
    same = worker("w1", gib=8)
    reserving = replace(same, worker="w3", gpu=replace(same.gpu, reserve_bytes=GIB))
    for report in (same, worker("w2", gib=8), reserving):
        board.report(report)
    assert sorted(gpu.usable_bytes for gpu in board.gpus()) == [7 * GIB, 8 * GIB]
    board.lose("w1")
    assert len(list(board.gpus())) == 2
    board.lose("w2")
    assert [gpu.usable_bytes for gpu in board.gpus()] == [7 * GIB]


def test_demand_waits_while_jobs_are_queued_and_is_known_until_it_is_dropped() -> None:
    board = Board({})
    board.ask(waiting("a", 1.0))
    board.ask(asked("b", 0.5))
    assert (set(board.demand), set(board.waiting)) == ({"a", "b"}, {"a"})
    board.ask(asked("a", 0.1))
    board.ask(asked("a", 0.2))
    assert board.demand == {"a": asked("a", 0.2), "b": asked("b", 0.5)}
    assert board.waiting == {}
    board.ask(waiting("b", 1.0, 2.0))
    board.drop("b")
    board.drop("never asked for")
    assert (set(board.demand), set(board.waiting)) == ({"a"}, set())
