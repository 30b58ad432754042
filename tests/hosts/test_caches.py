"""The length of a cache is read where it can be, else remembered."""

import gc
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MambaConfig, StaticCache

from sae_lens_ext.hosts import CacheMemory
from sae_lens_ext.hosts.caches import Seen, cache_length, caches_in

KEYS = torch.zeros(1, 2, 5, 4)
CONFIG = LlamaConfig(
    num_hidden_layers=2, num_attention_heads=2, hidden_size=8, num_key_value_heads=2
)


def _filled(cache):
    for layer in range(2):
        cache.update(KEYS, KEYS, layer)
    return cache


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        pytest.param(DynamicCache(), None, id="no layers yet"),
        pytest.param(DynamicCache(config=CONFIG), 0, id="empty"),
        pytest.param(_filled(DynamicCache()), 5, id="filled"),
        pytest.param(
            _filled(StaticCache(config=CONFIG, max_cache_len=9)), 5, id="static"
        ),
        pytest.param(((KEYS, KEYS), (KEYS, KEYS)), 5, id="tuples"),
        pytest.param(
            SimpleNamespace(
                entries=[SimpleNamespace(past_keys=torch.zeros(1, 6, 2, 4))]
            ),
            6,
            id="of HookedTransformer",
        ),
        # States without positions.
        pytest.param(
            DynamicCache(config=MambaConfig(num_hidden_layers=2)), None, id="Mamba"
        ),
        pytest.param([torch.zeros(1, 4, 2)], None, id="list of states"),
        pytest.param((), None, id="nothing"),
        pytest.param(object(), None, id="unknown"),
    ],
)
def test_a_cache_says_how_long_it_is_or_not(cache, expected):
    assert cache_length(cache) == expected


def test_a_hybrid_is_as_long_as_the_longest_of_its_layers():
    layers = [
        SimpleNamespace(),
        SimpleNamespace(get_seq_length=lambda: 0),
        SimpleNamespace(get_seq_length=lambda: 7),
    ]
    assert cache_length(SimpleNamespace(layers=layers)) == 7


def test_a_sliding_cache_counts_all_tokens_it_has_seen():
    config = LlamaConfig(
        num_hidden_layers=1, num_attention_heads=2, hidden_size=8, sliding_window=3
    )
    config.layer_types = ["sliding_attention"]
    cache = DynamicCache(config=config)
    cache.update(KEYS, KEYS, 0)
    assert cache_length(cache) == 5


SEEN = Seen(4, torch.tensor([3, 4]))


@pytest.mark.parametrize(
    "cache",
    [DynamicCache(), [torch.zeros(1, 4)], ((KEYS, KEYS),)],
    ids=["a cache", "a list of states", "tuples"],
)
def test_remembers_a_cache(cache):
    memory = CacheMemory()
    memory.remember(cache, SEEN)
    assert memory.recall(cache) is SEEN
    assert memory.recall([torch.zeros(1, 4)]) is None
    assert memory.recall(None) is None


def test_does_not_keep_caches_alive():
    memory = CacheMemory()
    cache = [torch.zeros(1, 4)]
    memory.remember(cache, SEEN)
    del cache
    gc.collect()
    assert not memory._seen


def test_what_cannot_be_referred_to_is_not_remembered():
    memory = CacheMemory()
    memory.remember((), SEEN)
    memory.remember(object(), SEEN)
    assert not memory._seen


def test_caches_are_found_in_outputs_of_any_kind():
    state = [torch.zeros(1)]
    logits = torch.zeros(1)
    assert list(caches_in({"logits": logits, "state": state})) == [state]
    assert list(caches_in((logits, state, logits))) == [state]
    assert list(caches_in(SimpleNamespace(past_key_values=state))) == [state]
    assert list(caches_in(logits)) == []
