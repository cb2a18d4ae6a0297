"""Some of what `make fuzz` sends at length, with a fixed seed: whatever the OpenAPI document allows or forbids."""

from pathlib import Path

from tests.fuzz.run import Options, run
from tests.support.servers import TestServers

CATALOGUE = """
[[model]]
name = "echo"
runtime = "synthetic"
vram_gib = 0.01
options = { echo = true }

[[model]]
name = "minilm-l6-v2"
runtime = "synthetic"
vram_gib = 1
"""


def test_every_route_answers_as_its_document_says_and_nothing_is_left_behind(
    servers: TestServers, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "catalogue.toml").write_text(CATALOGUE)
    settings = {"MODELS_CATALOG": str(tmp_path / "catalogue.toml")}
    outcome = run(Options(8, seed=1, phases=("fuzzing",), settings=settings), tmp_path, servers, namespace)
    assert outcome.passed, (outcome.said, outcome.faults)
    assert outcome.cases >= 200
