"""The catalogue: what it accepts, and that it names every fault."""

import pickle
from pathlib import Path

import pytest

from affinity.errors import CatalogInvalid, InvariantBroken, UnknownModel
from models.catalog import Catalog, default_catalog_path
from models.entry import (
    GIB,
    OPTIONS,
    WEIGHT_PATTERNS,
    ModelEntry,
    NoOptions,
    SyntheticOptions,
    TorchOptions,
    TransformersOptions,
)
from models.inputs import _PARSERS
from models.runtimes import FAMILIES

GOOD = """
[[model]]
name = "b/large:v1"
runtime = "synthetic"
vram_gib = 6
max_batch = 4
timeout_s = 60
pinned = true
options = { load_s = 1, exec_s = 0.04, load_fail = "oom" }

[[model]]
name = "a"
runtime = "torch"
source = "weights.safetensors"
options = { class = "my_module:MyClass", kwargs = { hidden = 8 } }

[[model]]
name = "c"
runtime = "transformers"
source = "org/name"
options = { task = "text-classification" }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "catalog.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(CatalogInvalid) as caught:
        Catalog.load(written(folder, text))
    return caught.value.message


def test_a_catalogue_is_read_in_order_of_names_with_typed_options(tmp_path: Path):
    catalog = Catalog.load(written(tmp_path, GOOD))
    assert [entry.name for entry in catalog] == ["a", "b/large:v1", "c"]
    assert len(catalog) == 3
    assert "a" in catalog
    assert "d" not in catalog
    assert catalog.get("a").options == TorchOptions("my_module:MyClass", {"hidden": 8})
    assert catalog.get("c").options == TransformersOptions("text-classification")
    assert catalog.get("b/large:v1") == ModelEntry(
        name="b/large:v1",
        runtime="synthetic",
        vram_gib=6,
        max_batch=4,
        timeout_s=60,
        pinned=True,
        options=SyntheticOptions(load_s=1, exec_s=0.04, load_fail="oom"),
        folder=tmp_path,
    )


def test_the_shipped_catalogue_holds_what_the_product_promises():
    catalog = Catalog.load(default_catalog_path())
    runtimes = {entry.name: entry.runtime for entry in catalog}
    assert (
        runtimes.items()
        >= {
            "echo": "synthetic",
            "minilm-l6-v2": "sentence-embedding",
            "silero-vad": "voice-activity",
            "tiny-mlp": "torch",
            "synthetic-a": "synthetic",
            "synthetic-b": "synthetic",
            "synthetic-c": "synthetic",
        }.items()
    )
    assert all(entry.vram_bytes for entry in catalog)
    assert catalog.get("echo").options == SyntheticOptions(echo=True)


def test_an_entry_survives_the_way_to_the_executor_child():
    for entry in Catalog.load(default_catalog_path()):
        assert pickle.loads(pickle.dumps(entry)) == entry


def test_an_entry_cannot_be_changed():
    entry = Catalog.load(default_catalog_path()).get("echo")
    with pytest.raises(AttributeError):
        entry.max_batch = 2


def test_every_runtime_has_options_weights_input_schema_and_family():
    assert OPTIONS.keys() == FAMILIES.keys() == _PARSERS.keys() == WEIGHT_PATTERNS.keys() | {"synthetic"}


def test_declared_size_goes_before_the_size_on_disk(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(bytes(1000))
    row = '[[model]]\nname = "m"\nruntime = "torch"\nsource = "weights.safetensors"\noptions = { class = "m:C" }\n'
    assert Catalog.load(written(tmp_path, row)).get("m").vram_bytes == 1000
    declared = row.replace("options", "vram_gib = 0.5\noptions")
    assert Catalog.load(written(tmp_path, declared)).get("m").vram_bytes == GIB // 2


def test_the_size_is_unknown_where_the_weights_are_not_installed(tmp_path: Path):
    row = '[[model]]\nname = "m"\nruntime = "voice-activity"\nsource = "package:no-such-package-here"\n'
    assert Catalog.load(written(tmp_path, row)).get("m").vram_bytes is None


def test_an_unknown_model_is_refused_with_similar_names():
    with pytest.raises(UnknownModel, match="did you mean minilm-l6-v2") as caught:
        Catalog.load(default_catalog_path()).get("minilm-l6")
    assert caught.value.status == 404
    with pytest.raises(UnknownModel, match="GET /models"):
        Catalog.load(default_catalog_path()).get("zzzzzzzz")


def test_options_of_another_runtime_are_a_bug_not_a_surprise():
    with pytest.raises(InvariantBroken, match="NoOptions"):
        ModelEntry("m", "synthetic").options_as(SyntheticOptions)
    assert ModelEntry("m", "voice-activity").options_as(NoOptions) == NoOptions()


ROW = '[[model]]\nname = "m"\nruntime = "synthetic"\n'
CLASS = '[[model]]\nname = "m"\nruntime = "torch"\nsource = "w"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no [[model]]"),
        ('[model]\nname = "m"', "write [[model]], with two brackets"),
        ("model = [1]", "model 1: must be a table"),
        (ROW + '\n[[modle]]\nname = "x"', "'modle' is not known at the top"),
        ('[[model]]\nruntime = "synthetic"', "model 1: name: is missing"),
        ('[[model]]\nname = 3\nruntime = "synthetic"', "name: must be a valid string (it is 3)"),
        ('[[model]]\nname = "a*b"\nruntime = "synthetic"', "model 1 (a*b): name: must be 1 to 128 letters"),
        ('[[model]]\nname = "a#"\nruntime = "synthetic"', "name: must be"),
        ('[[model]]\nname = "a b"\nruntime = "synthetic"', "name: must be"),
        ('[[model]]\nname = "a\\n"\nruntime = "synthetic"', "name: must be"),
        ('[[model]]\nname = ""\nruntime = "synthetic"', "name: must be"),
        (f'[[model]]\nname = "{"a" * 129}"\nruntime = "synthetic"', "name: must be"),
        ('[[model]]\nname = "m"', "runtime: is missing"),
        ('[[model]]\nname = "m"\nruntime = "onnx"', "(it is 'onnx')"),
        ('[[model]]\nname = "m"\nruntime = "voice-activity"', "source: is missing; give a path or package:NAME"),
        ('[[model]]\nname = "m"\nruntime = "voice-activity"\nsource = "package:"', "source: is missing"),
        (CLASS.replace('"w"', '"w/model.pt"') + 'options = {class = "m:C"}', "a pickle is never loaded; convert"),
        (ROW + "vram_gib = -1", "vram_gib: must be greater than or equal to 0 (it is -1)"),
        (ROW + "vram_gib = nan", "vram_gib: must be a finite number"),
        (ROW + 'vram_gib = "6"', "vram_gib: must be a valid number (it is '6')"),
        (ROW + "max_batch = 0", "max_batch: must be greater than or equal to 1 (it is 0)"),
        (ROW + "max_batch = 1.5", "max_batch: must be a valid integer"),
        (ROW + "timeout_s = 0", "timeout_s: must be greater than 0"),
        (ROW + "timeout_s = inf", "timeout_s: must be"),
        (ROW + "pinned = 1", "pinned: must be a valid boolean"),
        (ROW + "vram_gb = 1", "vram_gb: is not a field here; there are: max_batch, name, options, pinned"),
        (ROW + "options = 3", "options: must be a table of names and values"),
        (ROW + "options = {exec = 1}", "options.exec: is not a field here; there are: echo, exec_s, load_fail, load_s"),
        (ROW + "options = {exec_s = -0.1}", "options.exec_s: must be greater than or equal to 0"),
        (ROW + 'options = {exec_s = "1"}', "options.exec_s: must be a valid number"),
        (ROW + "options = {echo = 1}", "options.echo: must be a valid boolean"),
        (ROW + 'options = {load_fail = "no"}', "options.load_fail: must be 'error', 'oom', 'crash' or 'hang'"),
        (CLASS, "options.class: is missing"),
        (CLASS + 'options = {class = "module.Class"}', "options.class: "),
        (CLASS + 'options = {class = "m:C", kwargs = 3}', "options.kwargs: must be a table"),
        (CLASS.replace("torch", "transformers"), "options.task: is missing"),
        (
            CLASS.replace("torch", "voice-activity") + "options = {x = 1}",
            "options.x: is not a field here; there are none",
        ),
    ],
)
def test_a_broken_entry_is_refused_with_the_field_named(tmp_path: Path, text: str, said: str):
    message = refusal(tmp_path, text)
    assert said in message
    assert "catalog.toml" in message


def test_every_problem_is_named_at_once(tmp_path: Path):
    message = refusal(
        tmp_path,
        '[[model]]\nname = "one"\nruntime = "synthetic"\nmax_batch = 0\noptions = {load_s = -1, more = 2}\n'
        '[[model]]\nname = "one"\nruntime = "synthetic"\n'
        '[[model]]\nname = "three"\nruntime = "what"\ntimeout_s = -1\n',
    )
    lines = message.splitlines()
    assert lines[0].endswith("catalog.toml: 6 to mend")
    assert [line.split(": ")[0].strip() + ": " + line.split(": ")[1] for line in lines[1:]] == [
        "model 1 (one): max_batch",
        "model 1 (one): options.load_s",
        "model 1 (one): options.more",
        "model 3 (three): runtime",
        "model 3 (three): timeout_s",
        "name: 'one' is given to models 1, 2; names are unique, rename all but one",
    ]


def test_bad_toml_is_refused_with_its_line(tmp_path: Path):
    assert "at line 3" in refusal(tmp_path, "[[model]]\nname = 'm'\nruntime synthetic\n")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path):
    path = tmp_path / "catalog.toml"
    path.write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(CatalogInvalid, match="is not UTF-8 at byte 8"):
        Catalog.load(path)


def test_a_missing_file_is_refused_with_the_setting_to_change(tmp_path: Path):
    with pytest.raises(CatalogInvalid, match=r"nowhere\.toml: cannot be read .*MODELS_CATALOG"):
        Catalog.load(tmp_path / "nowhere.toml")
    with pytest.raises(CatalogInvalid, match="cannot be read"):
        Catalog.load(tmp_path)
