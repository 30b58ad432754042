"""The index is read back as it was written, or rejected with its path."""

import json

import pytest

import sae_lens_ext as sle
from sae_lens_ext.training.stream.cache.index import INDEX, CacheIndex, Shard

EMPTY = CacheIndex(
    settings={"sites": ["a"]},
    widths={"a": 3},
    model_name=None,
    excludes_special_tokens=True,
    statistics="0" * 64,
)
WHOLE = EMPTY.with_shard(
    Shard("000000.safetensors", 5, 100, "f" * 64), source={"row": 2}, n_special=1
)


def test_survives_writing_and_reading(tmp_path):
    WHOLE.write(tmp_path)
    read = CacheIndex.read(tmp_path)
    assert read == WHOLE
    assert (read.n_tokens, read.n_bytes) == (5, 100)
    assert (EMPTY.n_tokens, EMPTY.is_complete) == (0, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "not the index of a cache"),
        ({"shards": [3]}, "does not say what the cache holds"),
        ({"shards": [{"name": "a"}]}, "does not say what the cache holds"),
        ({"widths": {"a": 0}}, "the width of a must be a positive integer"),
        ({"is_complete": 1}, "is_complete must be true or false"),
    ],
)
def test_rejects_damaged_fields(tmp_path, change, message):
    WHOLE.write(tmp_path)
    content = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({**content, **change}))
    with pytest.raises(sle.FormatError, match=message):
        CacheIndex.read(tmp_path)


def test_rejects_shards_outside_of_the_folder(tmp_path):
    EMPTY.with_shard(Shard("../a.safetensors", 5, 100, "f")).write(tmp_path)
    with pytest.raises(sle.FormatError, match="must be in the same folder"):
        CacheIndex.read(tmp_path)
