"""A job that finds no memory on its GPU, with real processes: it goes on elsewhere and uses up no attempt."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.system import running_system, until

CATALOGUE = """
[[model]]
name = "neighbour"
runtime = "synthetic"
vram_gib = 2

[[model]]
name = "hungry"
runtime = "torch"
source = "hungry.safetensors"
vram_gib = 4
options = { class = "hungry_module:Model" }
"""

MODULE = '''
import pathlib

import torch


class Model(torch.nn.Module):
    """Runs out of memory as long as the file is there that the job names, and takes it away."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def predict(self, inputs):
        for job in inputs:
            if (marker := pathlib.Path(job["marker"])).exists():
                marker.unlink()
                raise torch.OutOfMemoryError("CUDA out of memory")
        return [1 for _ in inputs]
'''


def test_a_job_that_finds_no_memory_is_run_by_another_worker(
    rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    catalogue, marker = tmp_path / "catalogue.toml", tmp_path / "marker"
    catalogue.write_text(CATALOGUE)
    (tmp_path / "hungry_module.py").write_text(MODULE)
    save_file({"scale": np.ones(1, np.float32)}, tmp_path / "hungry.safetensors")
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, MODELS_CATALOG=str(catalogue)) as system:
        system.start_worker("w1")
        system.run("neighbour", {})
        system.run("hungry", {"marker": str(marker)})
        system.start_worker("w2")
        marker.touch()
        job = system.run("hungry", {"marker": str(marker)}, max_attempts=1)
        assert (job["state"], job["worker"], job["attempts"]) == ("succeeded", "w2", 1)
        started = [event["worker"] for event in system.events("job.started") if event["job"] == job["id"]]
        assert started == ["w1", "w2"]
        (evicted,) = system.events("model.evicted")
        assert (evicted["worker"], evicted["model"], evicted["reason"]) == ("w1", "hungry", "out_of_vram")
        until(lambda: system.residents("w1") == {"neighbour"}, "its neighbour stays")
        assert system.run("hungry", {"marker": str(marker)})["start"] == "warm"
