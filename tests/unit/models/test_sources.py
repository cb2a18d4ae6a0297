"""Where weights are found, and what is said when they are not."""

from pathlib import Path

import pytest

from affinity.errors import LoadFailed
from models.sources import disk_bytes, find_files


def test_a_folder_gives_its_matching_files_in_order(tmp_path: Path):
    for name in ("b.safetensors", "a.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"12345")
    assert [path.name for path in find_files(".", tmp_path, "*.safetensors")] == ["a.safetensors", "b.safetensors"]
    assert disk_bytes(".", tmp_path, "*.safetensors") == 10


def test_a_file_is_its_own_folder(tmp_path: Path):
    (tmp_path / "w.safetensors").write_bytes(b"12345")
    assert find_files("w.safetensors", tmp_path, "*.safetensors") == (tmp_path / "w.safetensors",)
    assert find_files(str(tmp_path / "w.safetensors"), tmp_path / "elsewhere", "*") == (tmp_path / "w.safetensors",)


def test_an_installed_package_gives_the_files_it_installed(tmp_path: Path):
    assert [path.name for path in find_files("package:pytest", tmp_path, "entry_points.txt")] == ["entry_points.txt"]


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(LoadFailed, match=r"nowhere does not exist .* correct 'source'"):
        find_files("nowhere", tmp_path, "*")
    with pytest.raises(LoadFailed, match="pip install no-such-package-here"):
        find_files("package:no-such-package-here", tmp_path, "*")
    with pytest.raises(LoadFailed, match=r"holds no \*\.jit"):
        find_files("package:pytest", tmp_path, "*.jit")
    assert disk_bytes("nowhere", tmp_path, "*") is None


def test_a_pickle_in_the_place_of_weights_is_pointed_out(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(LoadFailed, match=r"pytorch_model\.bin: a pickle is never loaded, convert it to safetensors"):
        find_files(".", tmp_path, "*.safetensors")
