"""Of a pickle, tensors and plain values are loaded; nothing in it runs."""

import collections
import os
import pickle

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats.pickles import read_pickle, read_state_dict

TENSORS = {"a": torch.ones(2)}


class _Code:
    """Creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_reads_tensors_and_plain_values(tmp_path):
    torch.save({**TENSORS, "k": 4, "options": {"name": "ReLU"}}, tmp_path / "x.pt")
    values = read_pickle(tmp_path / "x.pt")
    assert torch.equal(values["a"], TENSORS["a"])
    assert values["options"] == {"name": "ReLU"}
    with pytest.raises(
        sle.FormatError, match="must hold a state dict: tensors by name"
    ):
        read_state_dict(tmp_path / "x.pt")

    torch.save(collections.OrderedDict(TENSORS), tmp_path / "y.pt")
    assert read_state_dict(tmp_path / "y.pt").keys() == TENSORS.keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_does_not_run(tmp_path, legacy):
    made = tmp_path / "made"
    content = {"a": torch.ones(2), "b": _Code(made)}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(sle.FormatError, match="could run anything and is not loaded"):
        read_pickle(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(_Code(made)))
    with pytest.raises(sle.FormatError, match="y.pt"):
        read_pickle(tmp_path / "y.pt")
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"PK\x03\x04", b"\x00" * 300, b"\x80\x02]q\x00.", b"(" * 10_000],
)
def test_rejects_a_damaged_file(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(sle.FormatError, match=r"x\.pt"):
        read_pickle(path)


def test_rejects_a_cut_file_at_every_length(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(sle.FormatError, match=r"x\.pt"):
            read_pickle(path)


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {1: torch.ones(2)}, None])
def test_rejects_anything_but_values_by_name(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(sle.FormatError, match="must hold a state dict"):
        read_pickle(tmp_path / "x.pt")
