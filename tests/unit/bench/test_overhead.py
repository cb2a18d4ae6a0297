import json

import pytest

from bench.__main__ import main
from bench.overhead import Overhead
from bench.private_system import broker_in
from bench.round_trip import CannotMeasure, WarmJob


def test_the_ratio_is_that_of_the_medians():
    found = json.loads(Overhead(bare_s=[0.001, 0.002, 0.009], job_s=[0.004, 0.005, 0.090]).as_json())
    assert found["ratio"] == pytest.approx(2.5)
    assert (found["bare_p50_ms"], found["job_p95_ms"]) == pytest.approx((2.0, 90.0))
    assert found["jobs"] == 3


def test_the_brokers_address_is_found_in_the_summary_of_a_private_system():
    lines = ["[run] Affinity is up (12.0 s).", "[run]   RabbitMQ    amqp://guest:guest@127.0.0.1:40001/"]
    assert [broker_in(line) for line in lines] == [None, "amqp://guest:guest@127.0.0.1:40001/"]


@pytest.mark.parametrize("url", ["https://host", "host:5000", "http://"])
def test_an_address_that_cannot_be_measured_is_refused(url: str):
    with pytest.raises(CannotMeasure, match="http://HOST:PORT"):
        WarmJob(url, b"{}", None)


def test_a_url_without_its_broker_is_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]):
    assert main(["overhead", "--url", "http://127.0.0.1:1"], {}) == 1
    assert "RABBITMQ_URL" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-3", "many"])
def test_a_number_of_jobs_that_is_none_is_refused(jobs: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["overhead", "--jobs", jobs], {})
    assert "whole number above 0" in capsys.readouterr().err
