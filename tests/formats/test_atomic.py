"""A file is replaced as a whole or not at all."""

import shutil

import pytest
import torch
from full_disk import full_disk
from safetensors.torch import save_file

from sae_lens_ext.formats import atomic


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with atomic.replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_one_hidden_folder_with_the_files_of_the_writer(tmp_path):
    path = tmp_path / "weights"
    left = tmp_path / ".weights.killed"
    with atomic.replacing(path) as temporary:
        temporary.write_text("half of the n")
        # As safetensors does, which renames it at the end.
        temporary.with_name(".tmpAbCdEf").write_text("more")
        (folder,) = tmp_path.iterdir()
        assert folder.name.startswith(".weights.")
        shutil.copytree(folder, left)
    assert path.read_text() == "half of the n"
    atomic.delete_temporary(left)
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_safetensors_are_errors_of_the_system(tmp_path):
    path = tmp_path / "weights"
    with (
        full_disk(1000),
        pytest.raises(OSError, match="weights cannot be written"),
        atomic.saving(path),
    ):
        save_file({"a": torch.zeros(10_000)}, path)
