"""The weights of a model, from any of the files that hold them."""

import json

import pytest
import torch
from safetensors.torch import save_file

import sae_lens_ext as sle
from sae_lens_ext.formats.weights import locate_weights, read_weights

FIRST = {"a": torch.tensor([1.0, 2.0])}
SECOND = {"b": torch.tensor([3.0])}


def _write(path, tensors):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def _write_index(folder, name, files):
    index = {"weight_map": files}
    (folder / f"{name}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_reads_one_file_or_those_of_an_index(tmp_path, name):
    kind = name.rpartition(".")[2]
    _write(tmp_path / f"one.{kind}", FIRST)
    _write(tmp_path / f"two.{kind}", SECOND)
    _write_index(tmp_path, name, {"a": f"one.{kind}", "b": f"two.{kind}"})
    weights = read_weights(tmp_path)
    assert weights.keys() == {"a", "b"}
    assert torch.equal(weights["b"], SECOND["b"])

    # A whole file comes before an index.
    _write(tmp_path / name, FIRST)
    assert read_weights(tmp_path).keys() == {"a"}


def test_safetensors_come_before_a_pickle(tmp_path):
    _write(tmp_path / "pytorch_model.bin", SECOND)
    assert read_weights(tmp_path).keys() == {"b"}
    _write(tmp_path / "model.safetensors", FIRST)
    assert read_weights(tmp_path).keys() == {"a"}
    assert locate_weights(tmp_path) == tmp_path


def test_rejects_one_name_in_two_files(tmp_path):
    _write(tmp_path / "one.safetensors", FIRST)
    _write(tmp_path / "two.safetensors", FIRST)
    files = {"a": "one.safetensors", "b": "two.safetensors"}
    _write_index(tmp_path, "model.safetensors", files)
    with pytest.raises(
        sle.FormatError, match="two.safetensors holds a, and so does another file"
    ):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "files", [None, {}, [], {"a": 3}, {"a": "../model.safetensors"}, {"a": "x/y.bin"}]
)
def test_rejects_an_index_that_does_not_name_files_beside_it(tmp_path, files):
    _write_index(tmp_path, "model.safetensors", files)
    with pytest.raises(sle.FormatError, match="in which file beside it each tensor is"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a state dict: tensors by name"),
        ({"a": 1}, "must hold a state dict: tensors by name"),
        (
            {"a": torch.nn.Linear(1, 1)},
            "is not a pickle, or is one of more than tensors",
        ),
    ],
    ids=["list", "number", "module"],
)
def test_rejects_a_pickle_of_other_things_than_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(sle.FormatError, match=message):
        read_weights(tmp_path)


def test_rejects_damaged_or_missing_files(tmp_path):
    with pytest.raises(sle.FormatError, match="holds no weights: none of model.safe"):
        read_weights(tmp_path)

    path = tmp_path / "pytorch_model.bin"
    _write(path, FIRST)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(sle.FormatError, match=r"cannot be read \(was it cut short\?\)"):
        read_weights(tmp_path)

    path.unlink()
    _write_index(tmp_path, path.name, {"a": "gone.bin"})
    with pytest.raises(sle.FormatError, match="holds no gone.bin"):
        read_weights(tmp_path)
