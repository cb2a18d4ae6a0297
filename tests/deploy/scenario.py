"""What a run does with the stack, step by step. Each step says in one line what was seen, or raises ``Failed``."""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.deploy.engine import Engine, Failed
from tests.deploy.stack import SERVERS, Stack, wait

MIX = {"echo": 40, "tiny-mlp": 40, "synthetic-a": 40, "synthetic-b": 40, "synthetic-c": 40, "minilm-l6-v2": 8}
"""Model -> jobs. Synthetic ones that fit a simulated GPU together only in part, and two real ones."""

INPUTS: dict[str, Any] = {"tiny-mlp": {"bits": [0, 1]}, "minilm-l6-v2": {"texts": ["A man is eating food."]}}
LONG_S = 20.0
ENDS = {"succeeded", "failed", "cancelled", "expired"}
WORKERS = 3


def missing_secrets_are_refused(stack: Stack) -> str:
    """Compose names the variable and the file to set it in."""
    for name in ("RABBITMQ_PASS", "REDIS_PASSWORD"):
        done = stack.compose("up", "--no-start", "redis", without=[name], check=False)
        said = done.stdout + done.stderr
        if done.returncode == 0 or f"set {name} there" not in said:
            raise Failed(f"without {name}: exit code {done.returncode}\n{said[-2000:]}")
    return "a missing RABBITMQ_PASS or REDIS_PASSWORD is refused by its name"


def servers_come_up(stack: Stack) -> str:
    """Broker and store, by their own health commands."""
    stack.compose("up", "--detach", "--no-build", *SERVERS)
    took = {name: stack.wait_healthy(name, 1, 180) for name in SERVERS}
    return "healthy: " + ", ".join(f"{name} after {seconds:.0f} s" for name, seconds in took.items())


def services_come_up(stack: Stack) -> str:
    """One dispatcher, one worker, Prometheus."""
    began_at = time.monotonic()
    stack.compose("up", "--detach", "--no-build", "dispatcher", "worker", "prometheus")
    for name in ("dispatcher", "worker", "prometheus"):
        stack.wait_healthy(name, 1, 180)
    return f"dispatcher, worker and Prometheus are healthy after {time.monotonic() - began_at:.0f} s"


def containers_have_no_rights(stack: Stack, engine: Engine) -> str:
    """As they run: no root, nothing to write to, no capabilities, limits; and no torch in the dispatcher."""
    for name in stack.containers():
        found: dict[str, Any] = engine.inspect(name)
        user = engine.lines("exec", name, "id", "-u")[0]
        status = engine.run("exec", name, "sh", "-c", "grep -E 'CapEff|NoNewPrivs' /proc/self/status").stdout.split()
        writes = engine.run("exec", name, "sh", "-c", "touch /x /usr/x /etc/x", check=False).returncode == 0
        seen = (user == "0", found["HostConfig"]["ReadonlyRootfs"], writes, found["HostConfig"]["Memory"] > 0, *status)
        if seen != (False, True, False, True, "CapEff:", "0" * 16, "NoNewPrivs:", "1"):
            raise Failed(f"{name}: root, read-only, writes, limit of memory, rights are {seen}")
    (dispatcher,) = stack.containers("dispatcher")
    if engine.run("exec", dispatcher, "python", "-c", "import torch", check=False).returncode == 0:
        raise Failed("the dispatcher's image has torch in it")
    number = len(stack.containers())
    return f"{number} containers: no root, read-only, no capabilities, limits; no torch in the dispatcher"


def keys_are_asked_for(stack: Stack) -> str:
    """A request without a key is refused, health is not."""
    bare = {"Authorization": ""}
    codes = [stack.http.get(path, headers=bare).status_code for path in ("/workers", "/health/ready")]
    if codes != [401, 200]:
        raise Failed(f"/workers and /health/ready without a key: {codes}")
    return "without a key: 401, health and metrics are open"


def jobs_are_done(stack: Stack, head: str, meanwhile: Callable[[], str] | None = None) -> str:
    """The whole mix; ``meanwhile`` runs while they do. Every job has to succeed, once."""
    jobs = [
        {"id": f"{head}-{model}-{number}", "model": model, "input": INPUTS.get(model, {"number": number})}
        for number in range(max(MIX.values()))
        for model, count in MIX.items()
        if number < count
    ]
    began_at = time.monotonic()
    answer = stack.http.post("/jobs/batch", json={"jobs": jobs}).raise_for_status().json()
    if answer["refused"]:
        raise Failed(f"refused: {json.dumps(answer)[:500]}")
    said = f"; {meanwhile()}" if meanwhile else ""
    ended: dict[str, dict[str, Any]] = {}

    def over() -> bool:
        for job in jobs:
            if job["id"] not in ended:
                found = stack.http.get(f"/jobs/{job['id']}").raise_for_status().json()
                if found["state"] not in ENDS:
                    return False
                ended[job["id"]] = found
        return True

    wait(over, 240, lambda: f"{len(ended)} of {len(jobs)} jobs ended; worker said:\n{stack.log('worker')}")
    states = Counter(job["state"] for job in ended.values())
    if states != {"succeeded": len(jobs)}:
        raise Failed(f"states: {dict(states)}")
    starts = Counter(job["start"] for job in ended.values())
    again = sum(job["attempts"] > 1 for job in ended.values())
    return (
        f"{len(jobs)} jobs of {len(MIX)} models succeeded in {time.monotonic() - began_at:.0f} s "
        f"({starts['warm']} warm, {starts['cold']} cold, {again} more than once){said}"
    )


def workers_are_scaled(stack: Stack) -> str:
    """As ``make scale-worker N=3`` does it."""
    began_at = time.monotonic()
    stack.compose("up", "--detach", "--no-build", "--no-recreate", "--scale", f"worker={WORKERS}", "worker")
    stack.wait_healthy("worker", WORKERS, 180)
    wait(lambda: len(stack.workers()) == WORKERS, 60, lambda: f"workers: {stack.workers()}")
    return f"{WORKERS} workers after {time.monotonic() - began_at:.0f} s: {', '.join(stack.workers())}"


def prometheus_sees_all(stack: Stack) -> str:
    """Every worker by its name in the network, without a change of configuration; rules without an error."""
    wanted = {"affinity-dispatcher": 1.0, "affinity-worker": float(WORKERS), "rabbitmq": 1.0}

    def seen() -> bool:
        counts = stack.asked_of_prometheus("sum by (job) (up)")
        return {name: counts.get(name, 0.0) for name in wanted} == wanted

    wait(seen, 120, lambda: f"targets that are up: {stack.asked_of_prometheus('sum by (job) (up)')}")

    def counted() -> list[float]:
        return list(stack.asked_of_prometheus("affinity:gpus").values())

    wait(lambda: counted() == [float(WORKERS)], 60, lambda: f"affinity:gpus is {counted()}")
    return f"Prometheus scrapes dispatcher, broker and {WORKERS} workers; affinity:gpus is {WORKERS}"


def a_worker_is_killed(stack: Stack, engine: Engine) -> str:
    """KILL for one that runs a long job, with the whole mix behind it: nothing is lost, the job runs elsewhere."""
    long = {"id": "long", "model": "synthetic-b", "input": {"exec_s": LONG_S}}
    stack.http.post("/jobs", json=long).raise_for_status()

    def job() -> dict[str, Any]:
        found: dict[str, Any] = stack.http.get("/jobs/long").raise_for_status().json()
        return found

    def kill() -> str:
        wait(lambda: job()["state"] == "running", 60, lambda: f"the long job: {job()}")
        victim = str(job()["worker"])
        # A worker's id begins with its host's name, which is the head of its container's id.
        (name,) = [
            each for each in stack.containers("worker") if victim.startswith(str(engine.inspect(each)["Id"])[:12])
        ]
        engine.run("kill", "--signal", "KILL", name)
        took_s = wait(lambda: victim not in stack.workers(), 60, lambda: f"workers: {stack.workers()}")
        wait(lambda: job()["state"] == "succeeded", 120, lambda: f"the long job: {job()}")
        if job()["worker"] == victim:
            raise Failed(f"a dead worker finished it: {job()}")
        return f"{victim} was killed amid a job, the fleet knew after {took_s:.0f} s, {job()['worker']} did the job"

    return jobs_are_done(stack, "killed", kill)


def all_is_taken_down(stack: Stack, engine: Engine) -> str:
    """Containers go in their own time; volumes stay until they are taken away as well."""
    began_at = time.monotonic()
    stack.down()
    took_s = time.monotonic() - began_at
    kept = [name for name in engine.lines("volume", "ls", "--format", "{{.Name}}") if name.startswith("affinity-try")]
    if len(kept) < 2:
        raise Failed(f"volumes that were kept: {kept}")
    stack.down("--volumes")
    return f"down in {took_s:.0f} s; {len(kept)} volumes were kept, and are gone now"
