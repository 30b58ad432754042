"""A cache says what it holds, and waits for a writer only."""

import pytest
from toy import SITE, Toy, rows

import sae_lens_ext as sle
from sae_lens_ext.training import ActivationCache, cache_activations


@pytest.fixture
def cache(tmp_path):
    return cache_activations(
        Toy(), rows(), SITE, tmp_path, n_tokens=100, model_name="toy", progress=False
    )


def test_says_what_it_holds(cache):
    assert cache.model_name == "toy"
    assert cache.excludes_special_tokens
    assert cache.widths == {SITE: 6}
    assert cache.settings["model"]["class"] == "Toy"
    assert cache.n_bytes > 100 * 6 * 4
    cache.wait_for(99)
    cache.check_growing()


def test_an_interrupted_cache_is_not_waited_for(cache):
    index = cache.folder / "index.json"
    text = index.read_text().replace('"is_complete": true', '"is_complete": false')
    index.write_text(text)
    interrupted = ActivationCache(cache.folder)
    for wait in (interrupted.check_growing, lambda: interrupted.wait_for(99)):
        with pytest.raises(sle.FormatError, match="no process is writing to it; call"):
            wait()
    interrupted.wait_for(1)


def test_a_shard_is_checked_once(cache, monkeypatch):
    (shard,) = cache.shards
    cache.open_shard(shard, [SITE])
    name = "sae_lens_ext.training.stream.cache.folder.check_digest"
    monkeypatch.setattr(name, None)
    assert len(cache.open_shard(shard, [SITE])[SITE]) == shard.n_tokens
