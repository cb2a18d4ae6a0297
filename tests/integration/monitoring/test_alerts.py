"""Every alert fires when it should and is silent when it should be, by Prometheus' own word; so do the recordings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.prometheus.slo_rules import FILE, SLOS, burns_of, text
from tests.support.prometheus import RULE_FILES, RULES, promtool, run_rule_tests

ROOT = Path(__file__).parents[3]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
Series = dict[str, str]

DISPATCHER = '{job="affinity-dispatcher",instance="d"}'
UP: Series = {f"up{DISPATCHER}": "1x90"}

# Alert -> series with which it fires at 40 minutes, and series with which it is silent. All once a minute.
CASES: dict[str, tuple[Series, Series]] = {
    "BacklogGrowing": (
        {
            'model_queue_depth{model="a"}': "0+100x90",
            'worker_up{job="affinity-dispatcher",worker="w"}': "1x90",
            'message_processing_duration_seconds_sum{model="a",phase="exec"}': "0+60x90",
            'message_processing_duration_seconds_count{model="a",phase="exec"}': "0+60x90",
        },
        {
            'model_queue_depth{model="a"}': "9000-100x90",  # As long, but on its way down.
            'worker_up{job="affinity-dispatcher",worker="w"}': "1x90",
            'message_processing_duration_seconds_sum{model="a",phase="exec"}': "0+60x90",
            'message_processing_duration_seconds_count{model="a",phase="exec"}': "0+60x90",
        },
    ),
    "OldestWaitOverObjective": (
        {'model_oldest_wait_seconds{model="a"}': "90x90"},
        {'model_oldest_wait_seconds{model="a"}': "0 90 5 90 0 59x90"},
    ),
    "ModelUnplaceable": ({'model_unplaceable{model="a"}': "1x90"}, {'model_unplaceable{model="a"}': "0x90"}),
    "DeadLetters": (
        {'dead_letters{code="job_failed"}': "_x35 3x50", "affinity_store_up": "1x90"},
        {'dead_letters{code="job_failed"}': "3x90", "affinity_store_up": "1x90"},
    ),
    "Thrashing": (
        {
            'gpu_seconds_total{worker="w",gpu="g",use="load"}': "0+40x90",
            'gpu_seconds_total{worker="w",gpu="g",use="exec"}': "0+15x90",
            'model_evictions_total{worker="w",model="a",reason="room"}': "0+1x90",
        },
        {  # A fleet that fills up for the first time evicts nothing.
            'gpu_seconds_total{worker="w",gpu="g",use="load"}': "0+40x90",
            'gpu_seconds_total{worker="w",gpu="g",use="exec"}': "0+15x90",
            'model_evictions_total{worker="w",model="a",reason="room"}': "4x90",
        },
    ),
    "LoadStuck": (
        {'gpu_load_age_seconds{worker="w",gpu="g"}': "0+60x90"},
        {'gpu_load_age_seconds{worker="w",gpu="g"}': "0 60 120 180 240 0 60 0x90"},
    ),
    "NobodyLoads": (
        {
            'model_oldest_wait_seconds{model="a"}': "200x90",
            'model_holders{model="a"}': "0x90",
            'model_unplaceable{model="a"}': "0x90",
            'model_loads_total{worker="w",model="b",tier="disk",reason="first-copy"}': "5x90",
            'worker_up{job="affinity-dispatcher",worker="w"}': "1x90",
        },
        {  # Others are loaded meanwhile: it is a queue, and it moves.
            'model_oldest_wait_seconds{model="a"}': "200x90",
            'model_holders{model="a"}': "0x90",
            'model_unplaceable{model="a"}': "0x90",
            'model_loads_total{worker="w",model="b",tier="disk",reason="first-copy"}': "0+1x90",
            'worker_up{job="affinity-dispatcher",worker="w"}': "1x90",
        },
    ),
    "WorkerLost": (
        {'workers_lost_total{instance="v"}': "0x30 1x60"},
        {'workers_lost_total{instance="v"}': "1x90", 'worker_up{job="affinity-dispatcher",worker="w"}': "1x90"},
    ),
    "WorkerUnscraped": (
        {'up{job="affinity-worker",instance="w"}': "0x90"},
        {'up{job="affinity-worker",instance="w"}': "1x90"},
    ),
    "NoWorkers": (
        {'worker_up{job="affinity-dispatcher",worker="w"}': "0x90", 'model_queue_depth{model="a"}': "1x90"},
        {'worker_up{job="affinity-dispatcher",worker="w"}': "0x90", 'model_queue_depth{model="a"}': "0x90"},
    ),
    "VramNotReturned": (
        {
            'gpu_memory_unreturned_bytes{worker="w",gpu="g"}': "3000x90",
            'gpu_memory_total_bytes{worker="w",gpu="g"}': "80000x90",
        },
        {  # Two seconds late is usual, minutes are not.
            'gpu_memory_unreturned_bytes{worker="w",gpu="g"}': "3000 0 3000 0x90",
            'gpu_memory_total_bytes{worker="w",gpu="g"}': "80000x90",
        },
    ),
    "ForeignVram": (
        {
            'gpu_memory_foreign_bytes{worker="w",gpu="g"}': "8000x90",
            'gpu_memory_total_bytes{worker="w",gpu="g"}': "80000x90",
        },
        {
            'gpu_memory_foreign_bytes{worker="w",gpu="g"}': "3000x90",
            'gpu_memory_total_bytes{worker="w",gpu="g"}': "80000x90",
        },
    ),
    "DispatcherDown": ({f"up{DISPATCHER}": "0x90"}, UP),
    "BrokerDown": ({"affinity_broker_up": "0x90"}, {"affinity_broker_up": "1x90", 'up{job="rabbitmq"}': "1x90"}),
    "StoreDown": ({"affinity_store_up": "1x90", "redis_up": "0x90"}, {"affinity_store_up": "1x90", "redis_up": "1x90"}),
    "StoreMisconfigured": ({"affinity_store_warnings": "1x90"}, {"affinity_store_warnings": "0x90"}),
    "StoreNearlyFull": (
        {"redis_memory_used_bytes": "95x90", "redis_memory_max_bytes": "100x90"},
        {"redis_memory_used_bytes": "95x90", "redis_memory_max_bytes": "0x90"},  # Without a limit.
    ),
    "BrokerBlocksPublishers": (
        {"rabbitmq_alarms_memory_used_watermark": "0x90", "rabbitmq_alarms_free_disk_space_watermark": "1x90"},
        {"rabbitmq_alarms_memory_used_watermark": "0x90", "rabbitmq_alarms_free_disk_space_watermark": "0x90"},
    ),
    "EventLoopLate": (
        {
            'event_loop_lag_seconds_bucket{job="affinity-worker",instance="w",le="0.25"}': "0+100x90",
            'event_loop_lag_seconds_bucket{job="affinity-worker",instance="w",le="1.0"}': "0+120x90",
            'event_loop_lag_seconds_bucket{job="affinity-worker",instance="w",le="+Inf"}': "0+120x90",
        },
        {
            'event_loop_lag_seconds_bucket{job="affinity-worker",instance="w",le="0.25"}': "0+120x90",
            'event_loop_lag_seconds_bucket{job="affinity-worker",instance="w",le="1.0"}': "0+120x90",
            'event_loop_lag_seconds_bucket{job="affinity-worker",instance="w",le="+Inf"}': "0+120x90",
        },
    ),
}
BURNS = [(slo, burn) for slo in SLOS for burn in burns_of(slo)]


def rules() -> list[dict[str, Any]]:
    documents = [yaml.safe_load((RULES / name).read_text(encoding="utf-8")) for name in RULE_FILES]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def case(series: Series, ask: str, firing: bool) -> dict[str, Any]:
    """``ask`` has a value at 40 minutes, or none."""
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    question = {"expr": f"count({ask}) > 0", "eval_time": "40m"}
    found = [{"labels": "{}", "value": 1}] if firing else []
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": [{**question, "exp_samples": found}]}


def fires(alert: str, **labels: str) -> str:
    wanted = {"alertname": alert, "alertstate": "firing", **labels}
    return "ALERTS{" + ",".join(f'{name}="{value}"' for name, value in wanted.items()) + "}"


def test_the_configuration_and_the_rules_are_sound() -> None:
    checked = promtool("check", "config", str(RULES / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = promtool("check", "rules", *(str(RULES / name) for name in RULE_FILES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    assert set(CASES) | {"ErrorBudgetBurn"} == set(ALERTS)


def test_alerts_fire_and_are_silent(tmp_path: Path) -> None:
    tests = []
    for alert, (firing, silent) in CASES.items():
        others = {} if alert == "DispatcherDown" else UP
        tests += [case({**others, **firing}, fires(alert), True), case({**others, **silent}, fires(alert), False)]
    assert run_rule_tests(tests, tmp_path) == ""


@pytest.mark.parametrize("missing", ["long", "short", None])
def test_a_budget_that_burns_in_both_windows_is_told_and_one_that_has_stopped_is_not(
    missing: str | None, tmp_path: Path
) -> None:
    tests = []
    for slo, burn in BURNS:
        bad = burn.rate * (1 - slo.objective)
        series = {
            f'slo:error_ratio:rate{window}{{slo="{slo.name}"}}': f"{bad * (0.9 if which == missing else 1.1)}x90"
            for which, window in (("long", burn.long), ("short", burn.short))
        }
        alert = fires("ErrorBudgetBurn", slo=slo.name, window=burn.long, severity=burn.severity)
        tests.append(case(series, alert, missing is None))
    assert run_rule_tests(tests, tmp_path) == ""


def test_error_ratios_count_what_the_document_says(tmp_path: Path) -> None:
    series = {
        'http_request_duration_seconds_count{method="POST",route="/jobs",status="202"}': "0+90x90",
        'http_request_duration_seconds_count{method="POST",route="/jobs",status="422"}': "0+6x90",
        'http_request_duration_seconds_count{method="POST",route="/jobs",status="503"}': "0+2x90",
        'http_request_duration_seconds_count{method="POST",route="/jobs/batch",status="429"}': "0+2x90",
        'http_request_duration_seconds_count{method="GET",route="/jobs",status="503"}': "0+50x90",
        'messages_consumed_total{model="a",start="warm"}': "0+75x90",
        'messages_consumed_total{model="a",start="cold"}': "0+25x90",
        'jobs_failed_total{model="a",code="job_failed"}': "0+9x90",
        'jobs_failed_total{model="a",code="executor_died"}': "0+1x90",
        'job_wait_seconds_bucket{start="warm",le="5.0"}': "0+60x90",
        'job_wait_seconds_count{start="warm"}': "0+75x90",
        'job_wait_seconds_bucket{start="cold",le="60.0"}': "0+20x90",
        'job_wait_seconds_count{start="cold"}': "0+25x90",
    }
    wanted = {"acceptance": 0.04, "completion": 0.01, "wait-warm": 0.2, "wait-cold": 0.2, "affinity": 0.25}
    asked = case(series, "up", False)
    asked["promql_expr_test"] = [
        {
            "expr": f'round(slo:error_ratio:rate5m{{slo="{slo}"}}, 0.0001)',
            "eval_time": "40m",
            "exp_samples": [{"labels": f'{{slo="{slo}"}}', "value": value}],
        }
        for slo, value in wanted.items()
    ]
    assert run_rule_tests([asked], tmp_path) == ""


def test_backlog_hit_ratio_and_load_share_are_what_they_are_called(tmp_path: Path) -> None:
    series = {
        'model_queue_depth{model="a",instance="d1"}': "12x90",
        'model_queue_depth{model="a",instance="d2"}': "12x90",  # A second dispatcher says the same.
        'model_queue_depth{model="never-run"}': "4x90",
        'worker_up{job="affinity-dispatcher",worker="v"}': "1x90",
        'worker_up{job="affinity-dispatcher",worker="w"}': "1x90",
        'worker_up{job="affinity-worker",worker="w"}': "1x90",
        'message_processing_duration_seconds_sum{model="a",phase="exec"}': "0+60x90",
        'message_processing_duration_seconds_count{model="a",phase="exec"}': "0+30x90",
        'messages_consumed_total{model="a",start="warm"}': "0+30x90",
        'messages_consumed_total{model="a",start="cold"}': "0+10x90",
        'gpu_seconds_total{worker="w",gpu="g",use="load"}': "0+10x90",
        'gpu_seconds_total{worker="w",gpu="g",use="exec"}': "0+30x90",
        'gpu_seconds_total{worker="w",gpu="g",use="idle"}': "0+20x90",
    }
    asked = case(series, "up", False)
    asked["promql_expr_test"] = [
        {"expr": f"round({name}, 0.001)", "eval_time": "40m", "exp_samples": [{"labels": "{}", "value": value}]}
        for name, value in (
            ("affinity:queue_depth", 16),
            ("affinity:gpus", 2),
            ("affinity:backlog_seconds", 16),  # (12 + 4) jobs of 2 s on two GPUs.
            ("affinity:hit_ratio:rate5m", 0.75),
            ("affinity:load_share:rate5m", 0.25),
        )
    ]
    assert run_rule_tests([asked], tmp_path) == ""


def test_the_objectives_file_is_what_its_script_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == text(), "run: python -m deploy.prometheus.slo_rules"


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_alert_leads_to_an_entry_with_symptom_commands_and_fix(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    entry = re.search(rf"^## {alert}$(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert entry is not None
    assert "**Symptom.**" in entry[1]
    assert "**Fix.**" in entry[1]
    (block,) = re.findall(r"```sh\n(.*?)```", entry[1], re.DOTALL)
    assert len(block.strip().splitlines()) == 3


@pytest.mark.parametrize("slo", [slo.name for slo in SLOS])
def test_every_objective_is_explained(slo: str) -> None:
    assert f"\n## {slo}\n" in (ROOT / "docs" / "slo.md").read_text(encoding="utf-8")
