"""Folders that can be written to, and tensors in the order of their numbers."""

import pytest
import torch
from safetensors.torch import load_file

import sae_lens_ext as sle
from sae_lens_ext.formats.writing import writable_folder, write_tensors


def test_a_folder_need_not_exist(tmp_path):
    assert writable_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_files_and_other_objects(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(sle.InvalidArgument, match="file is a file; give a folder"):
        writable_folder(file / "below")
    with pytest.raises(sle.InvalidArgument, match="save to as a path; got 3"):
        writable_folder(3)


def test_a_transposed_tensor_is_written_as_it_looks(tmp_path):
    tensor = torch.arange(6.0).view(2, 3).T
    write_tensors(tmp_path / "x.safetensors", {"x": tensor.requires_grad_()})
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"], tensor)
