"""A checkpoint is whole or not there."""

import pytest
import torch
from full_disk import full_disk

import sae_lens_ext as sle
from sae_lens_ext.training.checkpoints.store import Checkpoint, CheckpointStore

TENSORS = {
    "weights": {"W_enc": torch.randn(5, 3).T, "b": torch.randn(4)},
    "random": {"state": torch.arange(5, dtype=torch.uint8), "n": torch.tensor(3)},
    "empty": {},
}
CHECKPOINT = Checkpoint(TENSORS, {"step": 7, "name": "é", "none": None})


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def test_survives_saving_and_reading(store):
    assert store.steps() == []
    store.write(7, CHECKPOINT)
    tensors, facts, _ = store.read(7)
    assert facts == CHECKPOINT.facts
    for group, named in TENSORS.items():
        assert tensors[group].keys() == named.keys()
        for name, tensor in named.items():
            assert torch.equal(tensors[group][name], tensor)
            assert tensors[group][name].stride() == tensor.stride()


def test_keeps_the_last_ones(store):
    for step in (5, 90, 100_000_000):
        store.write(step, CHECKPOINT)
    assert store.steps() == [5, 90, 100_000_000]
    store.keep(2)
    assert store.steps() == [90, 100_000_000]
    assert len(list(store.folder.iterdir())) == 2


def test_a_write_that_fails_leaves_nothing(store):
    store.write(1, CHECKPOINT)
    large = Checkpoint({"weights": {"a": torch.zeros(10_000)}}, {})
    with full_disk(1000), pytest.raises(OSError, match="cannot be written"):
        store.write(2, large)
    assert store.steps() == [1]
    assert len(list(store.folder.iterdir())) == 1


def test_leftovers_of_a_killed_process_are_no_checkpoints(store):
    store.write(1, CHECKPOINT)
    for name in (".writing-abc", ".deleting-2"):
        (store.folder / name).mkdir()
        (store.folder / name / "weights.safetensors").write_bytes(b"half")
    assert store.steps() == [1]
    store.clean()
    assert [path.name for path in store.folder.iterdir()] == ["step-00000001"]


def test_an_existing_checkpoint_is_left_as_it_is(store):
    store.write(1, CHECKPOINT)
    store.write(1, Checkpoint({}, {}))
    assert store.read(1).facts == CHECKPOINT.facts


@pytest.mark.parametrize("name", ["checkpoint.json", "weights.safetensors"])
def test_a_damaged_checkpoint_raises(store, name):
    store.write(1, CHECKPOINT)
    path = store.path(1) / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(sle.FormatError, match="the checkpoint .* is damaged"):
        store.read(1)
    path.unlink()
    with pytest.raises(sle.FormatError, match="is damaged"):
        store.read(1)
