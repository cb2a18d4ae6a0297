"""``GET /jobs/{id}/explain`` and ``affinity explain``."""

import io
from dataclasses import replace

from rich.console import Console

from affinity.fleet import GIB, Measurement, Residency, ResidencyState
from affinity.job import Attempt, Job, JobError, JobSpec, JobState, Outcome, StartKind
from affinity.policy import plan
from affinity.policy.facts import facts_of, with_rates
from dispatcher.cli_output import print_explanation
from dispatcher.explain import answer_json
from dispatcher.explaining import PATIENCE_S, Explaining
from tests.support.clock import FakeClock
from tests.support.dispatcher import CATALOG, DispatcherWorld
from tests.support.job_samples import a_report


def an_end(evicted: tuple[str, ...] = ()) -> Outcome:
    """Of a job that was started cold."""
    return Outcome(StartKind.COLD, load_s=2.0, exec_s=0.25, evicted=evicted)


class Hurrying(FakeClock):
    """Between any two looks at it as much time passes as anybody is to wait for an explanation."""

    def monotonic(self) -> float:
        self.advance(PATIENCE_S)
        return super().monotonic()


async def submit(world: DispatcherWorld, job_id: str, model: str = "big") -> None:
    answer = await world.post("/jobs", {"model": model, "input": {}, "id": job_id})
    assert answer.status_code == 202


async def explained(world: DispatcherWorld, job_id: str) -> dict[str, object]:
    answer = await world.http.get(f"/jobs/{job_id}/explain")
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def printed(answer: dict[str, object]) -> str:
    out = io.StringIO()
    print_explanation(Console(file=out, width=200), answer)
    return out.getvalue()


async def test_a_waiting_job_is_explained_by_the_plan_that_workers_carry_out(world: DispatcherWorld):
    now = world.clock.now()
    running = Residency("echo", ResidencyState.READY, 20 * GIB, now - 99, now - 1, running=1)
    await world.stores.fleet.report(a_report("w1"))
    await world.stores.fleet.report(replace(a_report("w2"), residents=(running,)))
    await world.stores.fleet.learn("big", "Fake 24 GiB", Measurement(14 * GIB, 2.0, 0.5))
    for job_id in ("j1", "j2"):
        await submit(world, job_id)
        world.clock.advance(1.0)

    found = await explained(world, "j2")

    view, learned = (await world.stores.fleet.sighting()).view, await world.stores.fleet.learned()
    demand = with_rates(await world.stores.jobs.demand(), await world.stores.jobs.rates(), view)
    load = plan(view, demand, facts_of(CATALOG, learned), world.clock.now()).load("w1")
    assert load is not None
    assert found["state"] == "queued"
    assert found["ran"] is None
    waiting = found["waiting"]
    assert isinstance(waiting, dict)
    assert (waiting["position"], waiting["queued"], waiting["waited_s"]) == (2, 2, 1.0)
    assert waiting["decision"] == {
        "kind": "load",
        "worker": "w1",
        "victims": [],
        "until": None,
        "reason": load.reason,
    }
    assert [(c["worker"], c["standing"]) for c in waiting["candidates"]] == [("w1", "chosen"), ("w2", "no_room")]
    assert waiting["eta"]["start_in_s"] == 2.0 + 0.5, "the load, then the batch of the job before it"
    assert waiting["no_eta"] is None
    text = printed(found)
    assert "number 2 of 2" in text
    assert "plan: load by w1: 2 queued and nobody holds it" in text
    assert "starts in about 2.500 s" in text
    assert "no room" in text


async def test_without_workers_there_are_no_candidates_and_no_estimate(world: DispatcherWorld):
    await submit(world, "j1")

    found = await explained(world, "j1")

    waiting = found["waiting"]
    assert isinstance(waiting, dict)
    assert (waiting["candidates"], waiting["eta"], waiting["decision"]["kind"]) == ([], None, "wait")
    assert waiting["no_eta"] == "nothing says when it starts"
    assert "nothing says when it starts" in printed(found)


async def test_a_cold_job_says_who_loaded_its_model_and_where_its_time_went(world: DispatcherWorld):
    await submit(world, "j1")
    job = await world.stores.jobs.get("j1")
    attempt = Attempt("j1", "token", "w1", 1)
    world.clock.advance(3.0)
    await world.stores.jobs.start([(attempt, job.spec, job.created_at)], world.clock.now())
    running = await explained(world, "j1")
    world.clock.advance(0.5)
    await world.stores.jobs.finish(attempt, an_end(evicted=("echo", "minilm-l6-v2")), world.clock.now())
    found = await explained(world, "j1")

    assert running["summary"] == "running on w1"
    assert running["waiting"] is None
    assert found["ran"] == {
        "worker": "w1",
        "start": "cold",
        "wait_s": 3.0,
        "wait_for_load_s": 2.0,
        "wait_in_queue_s": 1.0,
        "load_s": 2.0,
        "evicted": ["echo", "minilm-l6-v2"],
        "exec_s": 0.25,
        "total_s": 3.5,
    }
    assert (found["attempts"], found["losses"]) == (1, 0)
    assert found["summary"] == (
        "cold on w1: big was loaded for it in 2.000 s, for which echo, minilm-l6-v2 had to go; succeeded"
    )
    assert "wait for load 2.000 s" in printed(found)


async def test_a_job_that_came_in_the_middle_of_a_load_waited_for_no_more_of_it_than_it_waited(world: DispatcherWorld):
    await submit(world, "j1")
    job = await world.stores.jobs.get("j1")
    attempt = Attempt("j1", "token", "w1", 1)
    world.clock.advance(0.5)
    await world.stores.jobs.start([(attempt, job.spec, job.created_at)], world.clock.now())
    await world.stores.jobs.finish(attempt, an_end(), world.clock.now())

    found = await explained(world, "j1")

    ran = found["ran"]
    assert isinstance(ran, dict)
    assert (ran["evicted"], found["summary"]) == ([], "cold on w1: big was loaded for it in 2.000 s; succeeded")
    assert (ran["wait_for_load_s"], ran["wait_in_queue_s"], ran["load_s"]) == (0.5, 0.0, 2.0)


async def test_a_warm_failure_and_a_job_that_never_started_say_so(world: DispatcherWorld):
    await submit(world, "j1", "echo")
    await submit(world, "j2", "echo")
    await world.serve("j1", error=JobError("job_failed", "it raised"))
    await world.http.delete("/jobs/j2")

    failed, cancelled = await explained(world, "j1"), await explained(world, "j2")

    assert failed["summary"] == "warm on w1: echo was in VRAM; failed: it raised (job_failed)"
    assert (cancelled["summary"], cancelled["ran"]) == ("cancelled without a start", None)
    assert isinstance(failed["ran"], dict)
    assert failed["ran"]["evicted"] is None


async def test_of_a_cold_job_whose_record_does_not_say_whom_its_load_evicted_nothing_is_said(world: DispatcherWorld):
    """It was written by a worker of an earlier version."""
    job = Job(JobSpec("j1", "big", 1), JobState.SUCCEEDED, 1.0, 2.0, 3.0, worker="w1", start=StartKind.COLD, load_s=0.5)
    answer = answer_json(job, None)
    assert answer["summary"] == "cold on w1: big was loaded for it in 0.500 s; succeeded"
    assert isinstance(answer["ran"], dict)
    assert answer["ran"]["evicted"] is None


async def test_an_explanation_that_takes_too_long_says_that_there_was_no_time_for_an_estimate(world: DispatcherWorld):
    await world.stores.fleet.report(a_report("w1"))
    await submit(world, "j1")
    hurried = replace(world.dispatcher, explaining=Explaining(Hurrying(), lambda _: None))
    world.app.state.dispatcher = hurried

    waiting = (await explained(world, "j1"))["waiting"]

    assert isinstance(waiting, dict)
    assert (waiting["eta"], waiting["no_eta"]) == (None, "there was no time to look ahead far enough; ask again")
    assert [c["worker"] for c in waiting["candidates"]] == ["w1"]


async def test_a_job_that_leaves_the_queue_while_it_is_explained_is_explained_as_what_it_became(
    world: DispatcherWorld,
):
    await submit(world, "j1", "echo")
    queued = await world.stores.jobs.get("j1")
    await world.serve("j1")
    get, answers = world.stores.jobs.get, [queued]

    async def get_late(job_id: str) -> Job:
        return answers.pop() if answers else await get(job_id)

    world.stores.jobs.get = get_late  # type: ignore[method-assign]  # The read before the start, the rest after it.

    found = await explained(world, "j1")

    assert (found["state"], found["waiting"]) == ("succeeded", None)


async def test_an_unknown_job_is_404(world: DispatcherWorld):
    for name in ("nobody", "b%20d", "%25"):
        answer = await world.http.get(f"/jobs/{name}/explain")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


async def test_without_the_store_it_is_503(world: DispatcherWorld):
    await submit(world, "j1")
    world.stores.down = True

    assert (await world.http.get("/jobs/j1/explain")).status_code == 503
