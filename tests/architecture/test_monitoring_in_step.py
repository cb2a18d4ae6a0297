"""Dashboards, metrics and their documents agree: what is committed is what the code makes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.generate import FOLDER, documents
from deploy.grafana.panels import SOURCE
from tests.support.metrics_reference import FILE, document
from tests.support.prometheus import metrics_in

ROOT = Path(__file__).parents[2]
BOARDS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in documents().items()}
REFERENCE = document()
FOREIGN = {
    "ALERTS",
    "up",
    "redis_up",
    "rabbitmq_alarms_memory_used_watermark",
    "rabbitmq_alarms_free_disk_space_watermark",
}
FOREIGN |= {"redis_memory_used_bytes", "redis_memory_max_bytes"}


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    files = [ROOT / "deploy" / "prometheus" / name for name in ("recording.yml", "slo.yml", "alerts.yml")]
    groups = [group for path in files for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


RULES = rules()
EXPRESSIONS = {rule.get("alert") or rule["record"]: rule["expr"] for rule in RULES}
EXPRESSIONS |= {
    f"{name} {panel['title']} {target['refId']}": target["expr"]
    for name, board in BOARDS.items()
    for panel in panels_of(board)
    for target in panel["targets"]
}


def test_the_reference_of_metrics_is_what_the_code_says() -> None:
    assert FILE.read_text(encoding="utf-8") == REFERENCE, "run: python -m tests.support.metrics_reference"


def test_there_are_three_dashboards() -> None:
    titles = {board["title"] for board in BOARDS.values()}
    assert titles == {
        "Affinity: Fleet and VRAM",
        "Affinity: Affinity and placement",
        "Affinity: Jobs and SLO",
    }


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_dashboard_is_as_generated_and_complete(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == documents()[name], "run: python -m deploy.grafana.generate"
    board = BOARDS[name]
    assert [variable["name"] for variable in board["templating"]["list"]] == ["worker", "gpu", "model"]
    panels = panels_of(board)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert "\n" not in panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": SOURCE.type_val, "uid": SOURCE.uid}
        assert panel["targets"]


def test_residency_is_a_state_timeline_with_words_for_its_values() -> None:
    (timeline,) = [panel for panel in panels_of(BOARDS["fleet-and-vram.json"]) if panel["type"] == "state-timeline"]
    (mapping,) = timeline["fieldConfig"]["defaults"]["mappings"]
    assert [mapping["options"][value]["text"] for value in "1234"] == ["loading", "ready", "running", "leaving"]


def test_no_folder_holds_a_dashboard_that_nobody_generates() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(BOARDS)


def test_grafana_is_given_the_source_that_the_dashboards_name() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasource.yml").read_text(encoding="utf-8"))["datasources"]
    assert (source["type"], source["uid"]) == (SOURCE.type_val, SOURCE.uid)
    (provider,) = yaml.safe_load((provisioning / "dashboards.yml").read_text(encoding="utf-8"))["providers"]
    compose = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text(encoding="utf-8"))
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    for name in BOARDS:
        assert mounts[f"./deploy/grafana/dashboards/{name}"] == f"{provider['options']['path']}/{name}"


@pytest.mark.parametrize("name", sorted(EXPRESSIONS))
def test_an_expression_uses_only_metrics_that_exist(name: str) -> None:
    known = set(re.findall(r"^\| `(\w+)`", REFERENCE, re.MULTILINE)) | FOREIGN
    known |= {rule["record"] for rule in RULES if "record" in rule}
    used = metrics_in(EXPRESSIONS[name])
    assert used
    assert {re.sub(r"_(bucket|sum|count)$", "", metric) if metric not in known else metric for metric in used} <= known
