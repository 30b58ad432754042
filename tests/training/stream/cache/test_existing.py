"""Only what an index does not list is deleted, and only what a cache writes."""

from sae_lens_ext.training.stream.cache.existing import (
    delete_unfinished,
    existing_index,
    name_of_shard,
)
from sae_lens_ext.training.stream.cache.index import CacheIndex, Shard

INDEX = CacheIndex(
    settings={"sites": ["a"]},
    widths={"a": 3},
    model_name=None,
    excludes_special_tokens=True,
    statistics="0" * 64,
    shards=(Shard(name_of_shard(0), 5, 100, "f" * 64),),
)


def test_unlisted_files_of_a_cache_are_deleted_and_no_others(tmp_path):
    INDEX.write(tmp_path)
    kept = ["000000.safetensors", "index.json", "statistics.safetensors", ".lock"]
    kept += [".hidden", "notes.txt"]
    unfinished = ["000001.safetensors", ".000001.safetensors.ab12", ".index.json.x9"]
    for name in {*kept, *unfinished} - {"index.json"}:
        (tmp_path / name).touch()
    # What a kill leaves of a file that is being written.
    (tmp_path / ".000002.safetensors.cd34").mkdir()
    (tmp_path / ".000002.safetensors.cd34" / ".tmpAbCdEf").touch()
    index = existing_index(tmp_path, INDEX.settings)
    assert index == INDEX
    delete_unfinished(tmp_path, index)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_folder_of_a_collection_without_a_shard_is_a_new_one(tmp_path):
    for name in ("000000.safetensors", "statistics.safetensors", ".lock"):
        (tmp_path / name).touch()
    assert existing_index(tmp_path, {}) is None
    delete_unfinished(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
