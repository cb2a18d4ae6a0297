"""The extension point: the shipped example, and everything a user's class or weights can get wrong."""

import pickle
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from affinity.errors import InvalidInput, JobFailed, LoadFailed, OutOfVram
from models import example
from models.catalog import Catalog
from models.entry import ModelEntry, TorchOptions
from models.runtimes import LoadedModel, load

WEIGHTS = {
    "hidden.weight": torch.ones(2, 2),
    "hidden.bias": torch.tensor([0.0, -1.0]),
    "out.weight": torch.tensor([[1.0, -2.0]]),
    "out.bias": torch.zeros(1),
}
"""Exclusive or: relu(a + b) - 2 relu(a + b - 1)."""

EXAMPLE = TorchOptions("models.example:TinyMlp")


def entry(source: Path | str, options: TorchOptions = EXAMPLE, folder: Path = Path()) -> ModelEntry:
    return ModelEntry("mine", "torch", str(source), options=options, folder=folder)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


NUMBER = iter(range(1000))


@pytest.fixture
def written(tmp_path: Path, weights: Path) -> Callable[..., LoadedModel]:
    """Load a class ``Mine`` from a file beside the catalogue, with one weight ``w`` of two numbers."""
    del weights

    def load_class(body: str, **kwargs: object) -> LoadedModel:
        module = f"users_module_{next(NUMBER)}"
        (tmp_path / f"{module}.py").write_text("import torch\n" + textwrap.dedent(body))
        save_file({"w": torch.tensor([3.0, 4.0])}, tmp_path / "w.safetensors")
        return load(entry("w.safetensors", TorchOptions(f"{module}:Mine", kwargs), tmp_path), "cpu")

    return load_class


CLASS = """
class Mine(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
"""


def test_the_example_computes_exclusive_or_with_its_shipped_weights(catalog: Catalog):
    model = load(catalog.get("tiny-mlp"), "cpu")
    bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert model.run([{"bits": pair} for pair in bits]) == [{"xor": 0.0}, {"xor": 1.0}, {"xor": 1.0}, {"xor": 0.0}]
    assert model.weight_bytes == 9 * 4


def test_the_example_is_as_short_as_the_documentation_says_and_is_what_it_shows():
    source = Path(example.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 30
    manual = Path(example.__file__).parents[1] / "docs" / "models.md"
    assert source.partition('docs/models.md."""\n')[2].strip() in manual.read_text(encoding="utf-8")


def test_an_input_the_class_refuses_fails_alone(catalog: Catalog):
    good, bad, odd = load(catalog.get("tiny-mlp"), "cpu").run([{"bits": [1, 0]}, {"bits": [1]}, {}])
    assert good == {"xor": 1.0}
    assert isinstance(bad, InvalidInput)
    assert bad.message == "input: bits must be a list of two numbers"
    assert isinstance(odd, InvalidInput)


def test_weights_may_be_in_several_files(tmp_path: Path):
    names = sorted(WEIGHTS)
    save_file({name: WEIGHTS[name] for name in names[:2]}, tmp_path / "1.safetensors")
    save_file({name: WEIGHTS[name] for name in names[2:]}, tmp_path / "2.safetensors")
    assert load(entry(tmp_path), "cpu").run([{"bits": [0, 1]}]) == [{"xor": 1.0}]


def test_the_same_tensor_in_two_files_is_refused(tmp_path: Path):
    for name in ("1", "2"):
        save_file(WEIGHTS, tmp_path / f"{name}.safetensors")
    with pytest.raises(LoadFailed, match=r"2\.safetensors holds hidden\.bias.*keep one"):
        load(entry(tmp_path), "cpu")


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused_with_its_name(weights: Path, keep: int):
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(LoadFailed, match=r"weights\.safetensors is truncated or damaged .*copy it again"):
        load(entry(weights), "cpu")


def test_missing_unknown_and_misshapen_weights_are_listed(tmp_path: Path):
    wrong = {"hidden.weight": torch.ones(3, 2), "hidden.bias": torch.zeros(2), "more": torch.zeros(1)}
    save_file(wrong, tmp_path / "w.safetensors")
    with pytest.raises(LoadFailed) as caught:
        load(entry(tmp_path / "w.safetensors"), "cpu")
    assert "the weights lack out.bias, out.weight" in caught.value.message
    assert "the class has no more" in caught.value.message
    assert "hidden.weight [3, 2] instead of [2, 2]" in caught.value.message


class Bomb:
    """A pickle that writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_pickle_is_never_read_whatever_its_name(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(LoadFailed, match=r"a pickle is never loaded|truncated or damaged"):
        load(entry(tmp_path / name), "cpu")
    assert not (tmp_path / "exploded").exists()


def test_a_class_beside_the_catalogue_gets_its_arguments_and_its_weights(written: Callable[..., LoadedModel]):
    model = written(
        CLASS
        + """
    def predict(self, inputs):
        assert torch.is_inference_mode_enabled() and not self.training
        return [self.w * self.scale * job["x"] for job in inputs]
""",
        scale=2.0,
    )
    assert model.run([{"x": 1}, {"x": 2}]) == [[6.0, 8.0], [12.0, 16.0]]


def test_a_job_the_class_raises_on_fails_alone_with_the_exception_named(written: Callable[..., LoadedModel]):
    model = written(CLASS + "    def predict(self, inputs):\n        return [1 / job['x'] for job in inputs]\n")
    half, failed, missing = model.run([{"x": 2}, {"x": 0}, {}])
    assert half == 0.5
    assert isinstance(failed, JobFailed)
    assert failed.message == "mine: ZeroDivisionError: division by zero"
    assert isinstance(missing, JobFailed)
    assert "KeyError: 'x'" in missing.message


def test_a_class_that_runs_out_of_memory_is_told_from_one_that_fails(written: Callable[..., LoadedModel]):
    model = written(
        CLASS + "    def predict(self, inputs):\n        raise torch.OutOfMemoryError('CUDA out of memory')\n"
    )
    (result,) = model.run([{}])
    assert isinstance(result, OutOfVram)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return []", "predict returned 0 results for 1 inputs"),
        ("return {0: 1}", "predict returned a dict for 1 inputs"),
        ("return [float('nan')]", "result is nan, which JSON cannot hold"),
        ("return [object()]", "result is a object, which JSON cannot hold"),
    ],
)
def test_a_wrong_answer_fails_the_job_with_what_was_returned(written: Callable[..., LoadedModel], body: str, said: str):
    (result,) = written(CLASS + f"    def predict(self, inputs):\n        {body}\n").run([{}])
    assert isinstance(result, JobFailed)
    assert said in result.message


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ("import no_such_module_here", LoadFailed, "there is no module no_such_module_here; install it"),
        ("1 / 0", LoadFailed, r"importing users_module_\d+: ZeroDivisionError: division by zero"),
        ("class Mine(", LoadFailed, r"importing users_module_\d+: SyntaxError"),
        ("Other = 1", LoadFailed, r"has no Mine; correct options\.class"),
        ("class Mine: pass", LoadFailed, r"must be a torch\.nn\.Module with a method predict"),
        (CLASS, LoadFailed, r"must be a torch\.nn\.Module with a method predict"),
        (
            CLASS + "        raise RuntimeError('boom')\n    def predict(self, inputs): pass\n",
            LoadFailed,
            r"building users_module_\d+:Mine: RuntimeError: boom",
        ),
        (
            CLASS + "        raise torch.OutOfMemoryError('no room')\n    def predict(self, inputs): pass\n",
            OutOfVram,
            "ran out of memory: no room",
        ),
    ],
)
def test_a_class_that_cannot_be_built_is_refused_with_the_reason(
    written: Callable[..., LoadedModel], body: str, error: type[Exception], said: str
):
    with pytest.raises(error, match=said):
        written(body)


def test_arguments_the_class_does_not_take_are_named(written: Callable[..., LoadedModel]):
    with pytest.raises(LoadFailed, match="unexpected keyword argument 'size'"):
        written(CLASS + "    def predict(self, inputs): pass\n", size=3)


def test_a_class_that_is_not_there_is_named(weights: Path):
    with pytest.raises(LoadFailed, match="there is no module nowhere; install it or put it beside the catalogue"):
        load(entry(weights, TorchOptions("nowhere:Mine")), "cpu")


def test_a_device_that_is_not_there_is_a_failed_load(weights: Path):
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(LoadFailed, match="CUDA"):
        load(entry(weights), "cuda:0")
