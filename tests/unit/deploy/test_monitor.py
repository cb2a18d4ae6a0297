"""What make monitor tells Prometheus."""

import json
from pathlib import Path

import yaml

from deploy.local.monitor import RULE_FILES, RULES, configuration, targets

COMPOSED = yaml.safe_load((RULES / "prometheus.yml").read_text(encoding="utf-8"))


def test_jobs_have_the_names_that_rules_and_dashboards_use(tmp_path: Path) -> None:
    others = {"rabbitmq": "127.0.0.1:15692", "redis": "127.0.0.1:9121"}
    made = configuration("http://127.0.0.1:5000", tmp_path / "workers.json", others)
    jobs = [job["job_name"] for job in made["scrape_configs"]]  # type: ignore[attr-defined]
    assert jobs == [job["job_name"] for job in COMPOSED["scrape_configs"]]
    assert yaml.safe_load(json.dumps(made)) == made


def test_all_rules_of_the_stack_are_loaded(tmp_path: Path) -> None:
    made = configuration("http://127.0.0.1:5000", tmp_path / "workers.json", {})
    assert made["rule_files"] == [str(RULES / name) for name in RULE_FILES]
    assert list(RULE_FILES) == COMPOSED["rule_files"]


def test_a_process_with_several_gpus_is_scraped_once() -> None:
    urls = ["http://h:8001/metrics", "http://h:8000/metrics", "http://h:8000/metrics"]
    assert json.loads(targets(urls)) == [{"targets": ["h:8000", "h:8001"]}]
