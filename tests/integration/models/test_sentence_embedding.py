"""MiniLM with its real weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from affinity.errors import InvalidInput, LoadFailed
from models.catalog import Catalog
from models.entry import ModelEntry
from models.runtimes import LoadedModel, load
from models.sources import find_files

TEXTS = ["A man is eating food.", "A man is eating a piece of bread."]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_two_similar_sentences_give_unit_vectors_at_the_published_angle(minilm: LoadedModel):
    (result,) = minilm.run([{"texts": TEXTS}])
    one, two = result["embeddings"]
    assert len(one) == len(two) == 384
    assert dot(one, one) == pytest.approx(1, abs=1e-5)
    assert dot(two, two) == pytest.approx(1, abs=1e-5)
    assert dot(one, two) == pytest.approx(0.7553, abs=0.005)
    assert json.loads(json.dumps(result)) == result


def test_the_library_made_for_these_folders_agrees(minilm: LoadedModel, catalog: Catalog):
    library = pytest.importorskip("sentence_transformers")
    entry = catalog.get("minilm-l6-v2")
    (modules, *_) = find_files(entry.source, entry.folder, "modules.json")
    texts = [*TEXTS, "", "word " * 400, "Ein Mann isst Brot. 東京"]
    expected = library.SentenceTransformer(str(modules.parent), device="cpu", local_files_only=True).encode(texts)
    (result,) = minilm.run([{"texts": texts}])
    for ours, theirs in zip(result["embeddings"], expected.tolist(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_jobs_of_a_batch_get_their_own_vectors_whatever_else_is_in_it(minilm: LoadedModel):
    alone = [minilm.run([{"texts": [text]}])[0]["embeddings"][0] for text in TEXTS]
    jobs = [{"texts": [TEXTS[1]]}, {"texts": []}, {"texts": [TEXTS[0], "x " * 300, TEXTS[1]]}]
    first, invalid, third = minilm.run(jobs)
    assert isinstance(invalid, InvalidInput)
    assert first["embeddings"][0] == pytest.approx(alone[1], abs=1e-5)
    assert len(third["embeddings"]) == 3
    assert third["embeddings"][0] == pytest.approx(alone[0], abs=1e-5)
    assert third["embeddings"][2] == pytest.approx(alone[1], abs=1e-5)


def test_more_texts_than_one_pass_takes_come_back_in_order(minilm: LoadedModel):
    texts = [f"text {'long ' * (number % 5)}{number}" for number in range(200)]
    (many,) = minilm.run([{"texts": texts}])
    (some,) = minilm.run([{"texts": [texts[150], texts[3]]}])
    assert len(many["embeddings"]) == 200
    assert many["embeddings"][150] == pytest.approx(some["embeddings"][0], abs=1e-5)
    assert many["embeddings"][3] == pytest.approx(some["embeddings"][1], abs=1e-5)


def test_the_weights_weigh_what_the_file_says(minilm: LoadedModel, catalog: Catalog):
    assert minilm.weight_bytes == pytest.approx(catalog.get("minilm-l6-v2").disk_bytes, rel=0.01)


@pytest.fixture
def folder(catalog: Catalog, tmp_path: Path) -> Path:
    """A copy of the model's folder that a test may damage."""
    entry = catalog.get("minilm-l6-v2")
    (modules, *_) = find_files(entry.source, entry.folder, "modules.json")
    return Path(shutil.copytree(modules.parent, tmp_path / "model"))


def shorten(folder: Path) -> None:
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)


def drop_a_layer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def odd_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))


def odd_pooling(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')


def broken_json(folder: Path) -> None:
    (folder / "modules.json").write_text("[{")


def no_modules(folder: Path) -> None:
    (folder / "modules.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shorten, r"model\.safetensors is truncated or damaged"),
        (drop_a_layer, r"lack .*layer\.6\..* and \d+ more"),
        (only_a_pickle, r"pytorch_model\.bin: a pickle is never loaded"),
        (odd_module, "Dense, .*Use the runtime 'torch'"),
        (odd_pooling, "pooling pooling_mode_max_tokens; this runtime knows mean and cls"),
        (broken_json, r"modules\.json cannot be read as JSON"),
        (no_modules, r"holds no modules\.json"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_fault_named(
    catalog: Catalog, folder: Path, damage: Callable[[Path], None], said: str
):
    damage(folder)
    with pytest.raises(LoadFailed, match=said):
        load(replace(catalog.get("minilm-l6-v2"), source=str(folder)), "cpu")


def test_the_newer_spelling_of_pooling_and_a_folder_without_normalisation_are_understood(folder: Path):
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    (result,) = load(ModelEntry("m", "sentence-embedding", str(folder)), "cpu").run([{"texts": TEXTS[:1]}])
    assert dot(*[result["embeddings"][0]] * 2) != pytest.approx(1, abs=0.01)
