"""The checks of the system test: every operation of the public contract, asked as a stranger would."""

# ruff: noqa: D103 - a check's name is the sentence it checks

import secrets
from typing import Any

import httpx

from bench.api import Api
from bench.checks import Check, NotHere
from bench.system_checks_old import OLD_PRODUCER
from bench.system_checks_seen import SEEN

ECHO = "echo"
WAIT_S = 60
JOB_FIELDS = {
    "id", "model", "state", "created_at", "started_at", "finished_at", "attempts", "worker", "start", "wait_s",
    "load_s", "exec_s", "result", "error", "metadata",
}  # fmt: skip
SLOW_EXEC_S = 0.4
MOST_BLOCKING_JOBS = 300


def a_job_is_accepted_and_runs(api: Api) -> None:
    content = {"system-test": secrets.token_hex(4)}
    answer = api.call("POST", "/jobs", json={"model": ECHO, "input": content, "metadata": {"by": "system-test"}})
    assert answer.status_code == 202, f"answered {answer.status_code}, not 202: {answer.text[:300]}"
    job = answer.json()
    assert answer.headers.get("location") == f"/jobs/{job['id']}", f"Location is {answer.headers.get('location')}"
    missing = JOB_FIELDS - job.keys()
    assert not missing, f"the job has no {', '.join(sorted(missing))}"
    ended = api.call("GET", "/jobs/{job_id}", job_id=job["id"], wait_s=WAIT_S).json()
    assert ended["state"] == "succeeded", f"it is {ended['state']} after {WAIT_S} s: {ended['error']}"
    assert ended["result"] == content, f"echo returned {ended['result']!r} for {content!r}"
    assert ended["metadata"] == {"by": "system-test"}, f"metadata came back as {ended['metadata']!r}"
    assert ended["attempts"] == 1, f"it took {ended['attempts']} attempts"


def a_client_that_waits_gets_the_result_and_the_second_start_is_warm(api: Api) -> None:
    api.submit(ECHO, {"n": 1}, wait_s=WAIT_S)
    job = api.submit(ECHO, {"n": 2}, wait_s=WAIT_S)
    assert job["state"] == "succeeded", f"it is {job['state']}: {job['error']}"
    assert job["start"] == "warm", f"its start was {job['start']}"


def the_same_id_and_content_is_the_same_job(api: Api) -> None:
    name = f"system-test-{secrets.token_hex(8)}"
    body = {"model": ECHO, "input": {"n": 1}, "id": name}
    first = api.call("POST", "/jobs", json=body)
    again = api.call("POST", "/jobs", json=body)
    assert (first.status_code, again.status_code) == (202, 200), f"{first.status_code}, then {again.status_code}"
    del body["id"]
    by_header = api.call("POST", "/jobs", json=body, headers={"Idempotency-Key": name})
    assert by_header.status_code == 200, f"with Idempotency-Key: {by_header.status_code} {by_header.text[:300]}"
    assert first.json()["id"] == again.json()["id"] == by_header.json()["id"] == name, "the ids differ"
    _refused(api.call("POST", "/jobs", json={"model": ECHO, "input": {"n": 2}, "id": name}), 409, "id_conflict")


def a_batch_accepts_and_refuses_each_job_by_itself(api: Api) -> None:
    jobs: list[dict[str, Any]] = [
        {"model": ECHO, "input": {"n": 0}},
        {"model": "no-such-model", "input": {}},
        {"model": ECHO, "input": [1]},
    ]
    answer = api.call("POST", "/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 200, f"answered {answer.status_code}: {answer.text[:300]}"
    found = answer.json()
    assert (found["accepted"], found["refused"]) == (2, 1), f"accepted {found['accepted']}, refused {found['refused']}"
    assert found["jobs"][1]["code"] == "unknown_model", f"the second is {found['jobs'][1]}"
    for place in (0, 2):
        job = api.call("GET", "/jobs/{job_id}", job_id=found["jobs"][place]["id"], wait_s=WAIT_S).json()
        assert job["result"] == jobs[place]["input"], f"job {place} returned {job['result']!r}: {job['error']}"


def jobs_are_listed_newest_first_page_by_page(api: Api) -> None:
    sent = [api.submit(ECHO, {"n": n}, wait_s=WAIT_S)["id"] for n in range(4)]
    asked = {"state": "succeeded", "model": ECHO, "limit": "2"}
    first = api.call("GET", "/jobs", params=asked).json()
    second = api.call("GET", "/jobs", params={**asked, "cursor": first["cursor"]}).json()
    pages = [first["jobs"], second["jobs"]]
    assert [len(page) for page in pages] == [2, 2], f"pages of 2 have {[len(page) for page in pages]} jobs"
    listed = [job for page in pages for job in page]
    assert {(job["state"], job["model"]) for job in listed} == {("succeeded", ECHO)}, "a filter let others through"
    created = [job["created_at"] for job in listed]
    assert created == sorted(created, reverse=True), f"not newest first: {created}"
    assert len({job["id"] for job in listed}) == 4, "the pages overlap"
    whole = api.call("GET", "/jobs", params={"model": ECHO, "limit": "500"}).json()["jobs"]
    assert set(sent) <= {job["id"] for job in whole}, "a job that was just sent is not listed"


def bad_requests_are_refused_with_their_stable_code(api: Api) -> None:
    def post(value: object) -> httpx.Response:
        return api.call("POST", "/jobs", json=value)

    _refused(post({"model": "no-such-model", "input": {}}), 404, "unknown_model")
    _refused(post({"model": ECHO}), 422, "invalid_input")
    _refused(post({"model": ECHO, "input": {}, "ttl_s": -1}), 422, "invalid_input")
    _refused(post({"model": ECHO, "input": {}, "unheard-of": 1}), 422, "invalid_input")
    _refused(api.call("POST", "/jobs", content=b"{not json"), 400, "malformed_json")
    _refused(api.call("GET", "/jobs/{job_id}", job_id=f"none-{secrets.token_hex(8)}"), 404, "unknown_job")
    _refused(api.call("DELETE", "/jobs/{job_id}", job_id=f"none-{secrets.token_hex(8)}"), 404, "unknown_job")
    _refused(api.call("POST", "/jobs/batch", json={"jobs": [{}] * 100_001}), 413, "payload_too_large")


def a_queued_job_is_cancelled_and_never_runs(api: Api) -> None:
    """The last of more jobs than all workers can start at once is still queued when we cancel it."""
    slow, value, many = _blocking_work(api)
    ids = [api.submit(slow, value)["id"] for _ in range(many)]
    answer = api.call("DELETE", "/jobs/{job_id}", job_id=ids[-1])
    assert answer.status_code == 200, f"answered {answer.status_code}: {answer.text[:300]}"
    assert answer.json()["state"] == "cancelled", f"it is {answer.json()['state']}"
    for job_id in ids[:-1]:
        ended = api.call("GET", "/jobs/{job_id}", job_id=job_id, wait_s=WAIT_S).json()
        assert ended["state"] == "succeeded", f"a job beside it is {ended['state']}: {ended['error']}"
    job = api.call("GET", "/jobs/{job_id}", job_id=ids[-1]).json()
    assert (job["state"], job["attempts"]) == ("cancelled", 0), f"it is {job['state']} after {job['attempts']} attempts"


def a_finished_job_is_not_cancellable(api: Api) -> None:
    job = api.submit(ECHO, {"n": 1}, wait_s=WAIT_S)
    _refused(api.call("DELETE", "/jobs/{job_id}", job_id=job["id"]), 409, "not_cancellable")


def a_stranger_without_a_key_is_turned_away(api: Api) -> None:
    if not api.has_key:
        raise NotHere("no key was given (AFFINITY_API_KEY), so the system may be open")
    for path in ("/jobs", "/workers", "/models"):
        _refused(api.without_key("GET", path), 401, "unauthorized")
    assert api.without_key("GET", "/health").status_code == 200, "health needs a key"


def every_operation_of_the_openapi_document_was_called(api: Api) -> None:
    answer = api.call("GET", "/openapi.json")
    assert answer.status_code == 200, f"/openapi.json answered {answer.status_code}"
    document = answer.json()
    there = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    left = sorted(f"{method} {path}" for method, path in there - api.called)
    assert not left, f"this test does not know {', '.join(left)}"


def _refused(answer: httpx.Response, status: int, code: str) -> None:
    what = f"{answer.request.method} {answer.request.url.path}"
    problem: dict[str, Any] = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    found = (answer.status_code, problem.get("code"))
    assert found == (status, code), f"{what}: {found[0]} {found[1]}, not {status} {code}: {answer.text[:200]}"
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type == "application/problem+json", f"{what}: a problem as {media_type}"
    assert problem["detail"], f"{what}: {code} without a detail"


def _blocking_work(api: Api) -> tuple[str, dict[str, float], int]:
    """A model, an input that keeps it busy for a moment, and how many such jobs keep the whole fleet busy."""
    workers = len(api.call("GET", "/workers").json()["workers"])
    models = api.call("GET", "/models").json()["models"]
    synthetic = [model for model in models if model["runtime"] == "synthetic" and model["name"] != ECHO]
    chosen = min(synthetic, key=lambda m: m["declared_bytes"] or 0, default=None)
    if chosen is None:
        chosen = next(model for model in models if model["name"] == ECHO)
    value = {"processing_time" if chosen["name"] == ECHO else "exec_s": SLOW_EXEC_S}
    many = chosen["max_batch"] * (workers + 1) + 1
    if many > MOST_BLOCKING_JOBS:
        raise NotHere(f"{many} jobs would be needed to keep {workers} workers busy")
    return chosen["name"], value, many


CHECKS: tuple[Check, ...] = (
    *SEEN,
    a_job_is_accepted_and_runs,
    a_client_that_waits_gets_the_result_and_the_second_start_is_warm,
    the_same_id_and_content_is_the_same_job,
    a_batch_accepts_and_refuses_each_job_by_itself,
    jobs_are_listed_newest_first_page_by_page,
    bad_requests_are_refused_with_their_stable_code,
    a_queued_job_is_cancelled_and_never_runs,
    a_finished_job_is_not_cancellable,
    a_stranger_without_a_key_is_turned_away,
    *OLD_PRODUCER,
)
"""In the order in which they are run. ``every_operation_...`` comes after all of them."""
