"""What can only be seen from outside a process: failures that end it, and which libraries an import brings."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.runtimes.synthetic import CRASH_EXIT_STATUS

ROOT = Path(__file__).parents[3]

RUN = """
import sys
from models.entry import ModelEntry, SyntheticOptions
from models.runtimes import load
model = load(ModelEntry("s", "synthetic", options=SyntheticOptions(load_fail={load_fail!r})), "cpu")
print("running", flush=True)
model.run([{{"fail": {fail!r}}}])
print("returned", flush=True)
"""


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("load_fail", "fail", "printed"), [("crash", None, ""), (None, "crash", "running\n")])
def test_a_crash_ends_the_process_at_once_with_its_own_status(load_fail: str | None, fail: str | None, printed: str):
    with python(RUN.format(load_fail=load_fail, fail=fail)) as process:
        output, _ = process.communicate(timeout=30)
    assert output == printed
    assert process.returncode == CRASH_EXIT_STATUS


def test_a_hang_does_not_return_by_itself():
    with python(RUN.format(load_fail=None, fail="hang")) as process:
        assert process.stdout
        assert process.stdout.readline() == "running\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.kill()


@pytest.mark.parametrize(
    "module",
    ["models.catalog", "models.inputs", "models.runtimes", "models.runtimes.synthetic", "models.runtimes.speech"],
)
def test_the_catalogue_and_the_runtimes_package_bring_no_torch(module: str):
    heavy = "torch|transformers|safetensors|numpy|huggingface_hub"
    code = f"import sys, {module}; print(sorted(set('{heavy}'.split('|')) & sys.modules.keys()))"
    with python(code) as process:
        output, _ = process.communicate(timeout=30)
    assert output == "[]\n"
