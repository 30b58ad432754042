"""A file of activations is mapped as it was written, or rejected by name."""

import pytest
import torch
from full_disk import full_disk

import sae_lens_ext as sle
from sae_lens_ext.training.stream.cache.shards import (
    announce,
    check_digest,
    check_size,
    map_shard,
    write_shard,
)

VALUES = {"a": torch.randn(5, 3), "b": torch.randn(5, 2).bfloat16()}


def test_survives_writing_and_mapping(tmp_path):
    shard = write_shard(tmp_path, "x.safetensors", VALUES)
    assert shard.n_tokens == 5
    check_size(tmp_path, shard)
    check_digest(tmp_path / shard.name, shard.sha256)
    announce(tmp_path / shard.name)
    mapped = map_shard(tmp_path, shard, {"b": 2})
    assert set(mapped) == {"b"}
    assert torch.equal(mapped["b"], VALUES["b"])
    # Equal values are equal bytes, so that a resumed cache equals another.
    assert write_shard(tmp_path, "x.safetensors", VALUES) == shard


def test_rejects_other_shapes_and_sites(tmp_path):
    shard = write_shard(tmp_path, "x.safetensors", VALUES)
    with pytest.raises(sle.FormatError, match=r"at a must be \[5, 4\]; they are"):
        map_shard(tmp_path, shard, {"a": 4})
    with pytest.raises(sle.FormatError, match="x.safetensors cannot be read"):
        map_shard(tmp_path, shard, {"c": 4})


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path):
    with full_disk(100), pytest.raises(OSError, match="x.safetensors cannot be writt"):
        write_shard(tmp_path, "x.safetensors", VALUES)
    assert list(tmp_path.iterdir()) == []
