"""The ``transformers`` runtime on a small model with random weights, saved by transformers itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertTokenizerFast

from affinity.errors import InvalidInput, LoadFailed
from models.entry import ModelEntry, TransformersOptions
from models.runtimes import LoadedModel, load

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "the", "a", "was"]


def config() -> AutoConfig:
    return AutoConfig.for_model(
        "bert", vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config()).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def entry(folder: Path | str, task: str = "text-classification") -> ModelEntry:
    return ModelEntry("small", "transformers", str(folder), options=TransformersOptions(task))


@pytest.fixture(scope="module")
def small(original: Path) -> LoadedModel:
    return load(entry(original), "cpu")


def test_a_text_and_a_list_of_texts_get_their_labels(small: LoadedModel):
    one, many = small.run([{"inputs": "good film"}, {"inputs": ["good film", "the film was bad"]}])
    assert len(one["outputs"]) == 1
    assert one["outputs"][0]["label"] in ("LABEL_0", "LABEL_1")
    assert 0.5 <= one["outputs"][0]["score"] <= 1
    assert many["outputs"][0] == pytest.approx(one["outputs"][0])
    assert len(many["outputs"]) == 2
    assert json.loads(json.dumps([one, many])) == [one, many]


def test_jobs_with_other_parameters_share_a_batch_without_mixing(small: LoadedModel):
    plain, both, invalid = small.run(
        [{"inputs": "good"}, {"inputs": ["good"], "parameters": {"top_k": 2}}, {"inputs": 3}]
    )
    assert plain["outputs"][0]["label"]
    assert {label["label"] for label in both["outputs"][0]} == {"LABEL_0", "LABEL_1"}
    assert isinstance(invalid, InvalidInput)


def test_the_weights_are_counted(small: LoadedModel, original: Path):
    assert small.weight_bytes == pytest.approx((original / "model.safetensors").stat().st_size, rel=0.2)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without_head(folder: Path) -> None:
    AutoModel.from_config(config()).save_pretrained(folder)


def no_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def code_of_its_own(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text("raise SystemExit('code of the folder was run')")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (only_a_pickle, r"pytorch_model\.bin: a pickle is never loaded"),
        (truncated, r"model\.safetensors is truncated or damaged"),
        (without_head, r"lack .*classifier\.bias.*trained for another task"),
        (no_config, "small: .*config.json"),
        (code_of_its_own, "needs code of its own, which is never run; write a class for the runtime 'torch'"),
    ],
)
def test_a_folder_that_cannot_be_served_is_refused(folder: Path, damage: Callable[[Path], None], said: str):
    damage(folder)
    with pytest.raises(LoadFailed, match=said):
        load(entry(folder), "cpu")


def test_a_task_that_does_not_exist_or_takes_no_text_is_refused(original: Path):
    with pytest.raises(LoadFailed, match=r"options\.task 'cooking' is unknown"):
        load(entry(original, "cooking"), "cpu")
    with pytest.raises(LoadFailed, match="does not take text"):
        load(entry(original, "image-classification"), "cpu")


def test_a_source_that_is_nowhere_is_refused(tmp_path: Path):
    with pytest.raises(LoadFailed, match="nowhere does not exist"):
        load(entry(tmp_path / "nowhere"), "cpu")
    with pytest.raises(LoadFailed, match=r"'org/no-such-model' is no folder .* could not be had from the hub"):
        load(entry("org/no-such-model"), "cpu")
