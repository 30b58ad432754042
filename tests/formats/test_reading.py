"""A file that cannot be read is named, with the reason."""

import pytest
import tiny
import torch
from safetensors.torch import save_file

import sae_lens_ext as sle
from sae_lens_ext.formats.reading import (
    check_size,
    read_object,
    read_tensors,
    refuse_non_finite,
)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_file_is_recognised(tmp_path, keep):
    folder = tiny.sae().save_pretrained(tmp_path / "sae")
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(sle.FormatError, match="is not a whole safetensors file"):
        sle.SAE.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "must hold one JSON object; it holds a value of type list"),
        (b"{", r"is not JSON \(was it cut short\?\)"),
        (b"\xff", r"is not JSON \(was it cut short\?\)"),
        (b"[" * 100_000, r"is not JSON \(was it cut short\?\)"),
    ],
    ids=["list", "cut", "not utf-8", "too deep"],
)
def test_rejects_a_file_without_a_json_object(tmp_path, content, message):
    path = tmp_path / "cfg.json"
    path.write_bytes(content)
    with pytest.raises(sle.FormatError, match=f"cfg.json {message}"):
        read_object(path)


def test_a_missing_file_is_explained_in_the_caller_s_words(tmp_path):
    with pytest.raises(sle.FormatError, match="holds no a.json, so there is no model"):
        read_object(tmp_path / "a.json", "there is no model")


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2", None, 10**4000])
def test_rejects_invalid_sizes(tmp_path, size):
    check_size(tmp_path, "k", 1)
    with pytest.raises(sle.FormatError, match="k must be a positive integer; it is"):
        check_size(tmp_path, "k", size)


def test_tensors_must_be_exactly_those_expected(tmp_path):
    path = tmp_path / "file.safetensors"
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(2)}
    save_file(tensors, path)
    read = read_tensors(path, {"a": [2, 3], "b": [2]})
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)

    with pytest.raises(sle.FormatError, match="must hold exactly a; it holds a, b"):
        read_tensors(path, {"a": [2, 3]})
    with pytest.raises(sle.FormatError, match=r"b must be \[3\], by .*; it is \[2\]"):
        read_tensors(path, {"a": [2, 3], "b": [3]})


def test_names_the_tensor_that_is_not_finite():
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}
    with pytest.raises(sle.NonFinite, match="1 of 2 numbers in b of the model are NaN"):
        refuse_non_finite(tensors, "the model")
