"""Law L6 in a small simulation: the plan carried out on workers that load and run in known time.

The shell here does what a worker does, in its order: an idle GPU serves first, then it carries out the load meant for
it, unless a victim has work again by then; while it runs, it looks again after each batch has been started.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from affinity.fleet import Demand, FleetView, Gpu, Measurement, ModelFacts, Residency, ResidencyState, WorkerReport
from affinity.policy import Load, Plan, Serve, plan

START = 1_700_000_000.0
TICK_S = 0.001
"""Least step of the clock: a shell cannot look more often."""


@dataclass(slots=True)
class Node:
    """One GPU: its residents, and when what runs and what loads is over."""

    capacity_bytes: int
    residents: dict[str, Residency] = field(default_factory=dict)
    run_ends_at: float = float("inf")
    load_ends_at: float = float("inf")
    served_s: float = 0.0


class Simulation:
    """``facts`` by model; ``arrivals`` are ``(at_s, model)`` from the start. Notes when each job was started."""

    def __init__(self, capacities: list[int], facts: dict[str, ModelFacts], arrivals: list[tuple[float, str]]) -> None:
        self.nodes = {f"w{n}": Node(capacity) for n, capacity in enumerate(capacities)}
        self.facts = facts
        self.coming = sorted(arrivals, reverse=True)
        self.queues: defaultdict[str, list[float]] = defaultdict(list)
        self.now = START
        self.waits: defaultdict[str, list[float]] = defaultdict(list)
        self.given_up: defaultdict[str, int] = defaultdict(int)
        self.loads = 0

    def run(self, steps: int, until_s: float = float("inf")) -> None:
        """Go on until nothing is queued or to come, or the time or the steps are over."""
        for _ in range(steps):
            self._arrive()
            made = plan(self._view(), self._demand(), self.facts, self.now)
            self._carry_out(made)
            if not (self.coming or any(self.queues.values())) or self.now - START > until_s:
                return
            self._advance(made)
        raise AssertionError(f"still queued after {steps} steps: { {m: len(q) for m, q in self.queues.items() if q} }")

    def _arrive(self) -> None:
        while self.coming and START + self.coming[-1][0] <= self.now:
            at_s, model = self.coming.pop()
            self.queues[model].append(START + at_s)

    def _view(self) -> FleetView:
        return FleetView.of(
            WorkerReport(
                name, name, 1, 1, self.now, self._gpu(name), tuple(node.residents.values()), served_s=node.served_s
            )
            for name, node in self.nodes.items()
        )

    def _gpu(self, name: str) -> Gpu:
        return Gpu(f"GPU-{name}", 0, "simulated", self.nodes[name].capacity_bytes)

    def _demand(self) -> list[Demand]:
        return [Demand(model, len(at), min(at), sum(at)) for model, at in self.queues.items() if at]

    def _carry_out(self, made: Plan) -> None:
        for name, node in self.nodes.items():
            if serve := made.serve(name):
                self._serve(node, serve)
            if load := made.load(name):
                self._load(node, load)
            for give_up in made.give_ups(name):
                self.given_up[give_up.model] += len(self.queues.pop(give_up.model))

    def _serve(self, node: Node, serve: Serve) -> None:
        batch, self.queues[serve.model] = self.queues[serve.model][: serve.most], self.queues[serve.model][serve.most :]
        if batch:  # Another worker that serves this queue may have been quicker.
            self.waits[serve.model] += [self.now - at for at in batch]
            self._update(node, serve.model, running=len(batch))
            node.run_ends_at = self.now + self.facts[serve.model].declared.exec_s

    def _load(self, node: Node, load: Load) -> None:
        if any(node.residents[victim].running for victim in load.victims):
            return
        for victim in load.victims:
            del node.residents[victim]
        loading = Residency(load.model, ResidencyState.LOADING, load.footprint_bytes, self.now, self.now)
        node.residents[load.model] = loading
        assert sum(r.footprint_bytes for r in node.residents.values()) <= node.capacity_bytes
        node.load_ends_at = self.now + self.facts[load.model].declared.load_s
        self.loads += 1

    def _advance(self, made: Plan) -> None:
        """To the next instant at which something happens, or the plan wants to be asked again."""
        instants = [end for node in self.nodes.values() for end in (node.run_ends_at, node.load_ends_at)]
        if self.coming:
            instants.append(START + self.coming[-1][0])
        if made.wake_at is not None:
            instants.append(made.wake_at)
        self.now = max(self.now + TICK_S, min(instants))
        assert self.now < float("inf"), "jobs are queued, nothing happens, and the plan does not want to be asked again"
        for node in self.nodes.values():
            if node.run_ends_at <= self.now:
                node.run_ends_at = float("inf")
                for model in [m for m, r in node.residents.items() if r.running]:
                    self._update(node, model, running=0)
                    node.served_s += self.facts[model].declared.exec_s
            if node.load_ends_at <= self.now:
                node.load_ends_at = float("inf")
                for model in [m for m, r in node.residents.items() if r.state is ResidencyState.LOADING]:
                    self._update(node, model, running=0, state=ResidencyState.READY, loaded_at=self.now)
                    node.served_s = 0.0

    def _update(self, node: Node, model: str, **changes: object) -> None:
        node.residents[model] = replace(node.residents[model], last_used_at=self.now, **changes)  # type: ignore[arg-type]


def model(name: str, footprint_bytes: int, load_s: float, exec_s: float = 1.0, max_batch: int = 1) -> ModelFacts:
    return ModelFacts(name, Measurement(footprint_bytes, load_s, exec_s), max_batch)


names = st.sampled_from("abcde")
catalogues = st.fixed_dictionaries(
    {
        name: st.builds(
            model,
            st.just(name),
            st.integers(1, 10),
            st.sampled_from([0.25, 3.0, 20.0]),
            st.sampled_from([0.125, 1.0, 7.0]),
            st.sampled_from([1, 3]),
        )
        for name in "abcde"
    }
)
arrivals = st.lists(st.tuples(st.integers(0, 400).map(lambda eighths: eighths / 8), names), min_size=1, max_size=20)


@given(st.lists(st.integers(4, 9), min_size=1, max_size=3), catalogues, arrivals)
def test_every_job_whose_model_fits_a_live_gpu_is_served_and_every_other_one_is_given_up(
    capacities: list[int], facts: dict[str, ModelFacts], arriving: list[tuple[float, str]]
) -> None:
    """L6: a job whose model fits some live GPU eventually starts, whatever the other demand.

    Here for any finite demand: all of it is served, each job once; what fits no GPU fails, and nothing else does.
    """
    simulation = Simulation(capacities, facts, arriving)
    simulation.run(steps=2000)
    for name, of in facts.items():
        asked = sum(1 for _, wanted in arriving if wanted == name)
        fits = of.declared.footprint_bytes <= max(capacities)
        assert len(simulation.waits[name]) == (asked if fits else 0)
        assert simulation.given_up[name] == (0 if fits else asked)


def test_two_models_that_fit_together_are_both_loaded_once() -> None:
    """L3 over time: without need nothing is ever evicted, so that each model is loaded once."""
    facts = {name: model(name, 4, 3.0, exec_s=0.5) for name in "ab"}
    simulation = Simulation([8], facts, [(n * 1.5, "ab"[n % 2]) for n in range(60)])
    simulation.run(steps=2000)
    assert simulation.loads == 2


def test_models_that_do_not_fit_together_take_turns_and_not_at_every_job() -> None:
    """L6 with L7: below saturation, two models in turn on one GPU both get on, and a turn pays for its load."""
    facts = {name: model(name, 8, 2.0, exec_s=0.5) for name in "ab"}
    jobs = [(n * 1.25, "ab"[n % 2]) for n in range(400)]
    simulation = Simulation([8], facts, jobs)
    simulation.run(steps=20_000)
    assert len(simulation.waits["a"]) == len(simulation.waits["b"]) == 200
    assert simulation.loads < 200
    assert max(*simulation.waits["a"], *simulation.waits["b"]) < 120


def test_a_queue_that_never_runs_dry_does_not_starve_another_model() -> None:
    """L6 under overload: a model whose queue is never empty keeps no other model off the only GPU for ever."""
    facts = {name: model(name, 8, 2.0, exec_s=0.5) for name in "ab"}
    jobs = [(n * 0.4, "a") for n in range(2500)] + [(5.0, "b")]
    simulation = Simulation([8], facts, jobs)
    simulation.run(steps=20_000, until_s=900.0)
    assert simulation.waits["b"]
    assert simulation.waits["b"][0] < 15 * 2.0 + 10 * 2.0 + 5.0
