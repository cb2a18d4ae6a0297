"""Writes the dashboards' JSON: ``python -m deploy.grafana.generate``. A test demands that it is in step."""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.fleet import FLEET
from deploy.grafana.jobs import JOBS
from deploy.grafana.placement import PLACEMENT

BOARDS = {"fleet-and-vram": FLEET, "affinity-and-placement": PLACEMENT, "jobs-and-slo": JOBS}
FOLDER = Path(__file__).with_name("dashboards")


def documents() -> dict[str, str]:
    """File name -> text."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{name}.json": encoder.encode(board.build()) + "\n" for name, board in BOARDS.items()}


if __name__ == "__main__":
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
