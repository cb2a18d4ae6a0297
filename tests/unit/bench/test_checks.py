import httpx
import pytest

from bench.api import Api
from bench.checks import NotHere, Verdict, run_checks
from bench.system_checks import every_operation_of_the_openapi_document_was_called


def answering(answer: httpx.Response) -> Api:
    return Api("http://system", None, httpx.MockTransport(lambda _: answer))


def it_holds(api: Api) -> None:
    pass


def it_is_broken(api: Api) -> None:
    raise AssertionError("3 is not 4")


def it_is_not_set_up(api: Api) -> None:
    raise NotHere("no key")


def it_reads_a_field_that_is_not_there(api: Api) -> None:
    api.call("GET", "/workers").json()["workers"]


def it_meets_a_closed_door(api: Api) -> None:
    api.call("GET", "/health")


def test_each_check_ends_by_itself_and_its_name_is_the_sentence():
    api = answering(httpx.Response(200, json={}))
    verdicts = list(run_checks(api, [it_is_broken, it_is_not_set_up, it_reads_a_field_that_is_not_there, it_holds]))
    assert verdicts[0] == Verdict("it is broken", "failed", "3 is not 4")
    assert verdicts[1] == Verdict("it is not set up", "left out", "no key")
    assert verdicts[2].outcome == "failed"
    assert "workers" in verdicts[2].remark
    assert verdicts[3] == Verdict("it holds", "ok")


def test_a_server_that_goes_away_fails_the_check_that_asked():
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    (verdict,) = run_checks(Api("http://system", None, httpx.MockTransport(away)), [it_meets_a_closed_door])
    assert verdict.outcome == "failed"
    assert verdict.remark == "GET /health: connection refused"


def test_an_operation_that_no_check_calls_is_named():
    paths = {"/jobs": {"get": {}, "post": {}}, "/new-thing": {"post": {}}, "/openapi.json": {"get": {}}}
    api = answering(httpx.Response(200, json={"paths": paths}))
    api.call("GET", "/jobs")
    with pytest.raises(AssertionError, match=r"POST /jobs, POST /new-thing$"):
        every_operation_of_the_openapi_document_was_called(api)


def test_a_stranger_shows_no_key():
    seen = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(401)

    api = Api("http://system", "secret", httpx.MockTransport(note))
    api.call("GET", "/jobs")
    api.without_key("GET", "/jobs")
    assert seen == ["Bearer secret", None]
