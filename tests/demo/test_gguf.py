"""A conversion from GGUF reads back every tensor that it has written."""

import pytest
import torch
from safetensors.torch import save_file

import sae_lens_ext as sle
from sae_lens_ext.demo.gguf import check_written, convert


def test_compares_written_tensors_with_the_intended_ones(tmp_path):
    state = {"a": torch.ones(3), "b": torch.zeros(2)}
    save_file(state, tmp_path / "model.safetensors")
    check_written(tmp_path, state)
    with pytest.raises(
        sle.FormatError,
        match="does not hold what was written to it .b.; is the disk full",
    ):
        check_written(tmp_path, {**state, "b": torch.ones(2)})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(sle.FormatError, match="2 tensors were not written to"):
        check_written(tmp_path, state)


def test_tied_tensors_are_written_once(tmp_path):
    tensor = torch.ones(3)
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    check_written(tmp_path, {"a": tensor, "tied": tensor})


def test_names_the_package_that_is_missing(tmp_path):
    with pytest.raises(
        sle.MissingDependency, match="The bundled model needs no_such_weights"
    ):
        convert("no_such_weights", "x.gguf", tmp_path / "model", progress=False)
    assert not (tmp_path / "model").exists()
