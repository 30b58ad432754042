"""Chunks hold the tokens of their rows, and the position behind them."""

import pytest
import torch
from toy import OTHER_SITE, SITE, Toy, ids_of, rows

import sae_lens_ext as sle
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.chunks import (
    ChunkSource,
    IterableChunks,
    ModelChunks,
    checked_activations,
)
from sae_lens_ext.training.stream.rows import row_source


def model_chunks(model, sites=SITE, dtype=torch.float32):
    collector = Collector(model, sites)
    source = row_source(rows(7, 4), collector, None)
    return ModelChunks(collector, source, 2, dtype, {})


def test_a_model_gives_the_tokens_of_some_rows_and_the_place_behind_them():
    chunks = model_chunks(Toy(), [SITE, OTHER_SITE])
    assert isinstance(chunks, ChunkSource)
    first = chunks.next_chunk()
    assert ids_of(first.values[SITE]) == list(range(3, 9))
    assert first.values[OTHER_SITE].shape == (6, 8)
    assert first.n_special == 2
    assert first.n_tokens == 6
    assert first.cut(2).n_tokens == 2

    second = chunks.next_chunk()
    again = model_chunks(Toy(), [SITE, OTHER_SITE])
    again.restore(first.after)
    assert torch.equal(again.next_chunk().values[SITE], second.values[SITE])


def test_numbers_that_are_not_finite_name_the_site():
    model = Toy()
    with torch.no_grad():
        model.embed.weight[5, 1] = torch.inf
    with pytest.raises(sle.NonFinite, match=f"at {SITE} are NaN or"):
        model_chunks(model).next_chunk()


def test_an_iterable_gives_its_items_and_the_place_behind_them():
    items = [torch.full((2, 3), float(number)) for number in range(4)]
    chunks = IterableChunks(items, ("a",), torch.bfloat16)
    assert isinstance(chunks, ChunkSource)
    chunks.next_chunk()
    second = chunks.next_chunk()
    assert second.values["a"].dtype == torch.bfloat16
    chunks.restore(second.after)
    assert chunks.next_chunk().values["a"][0, 0] == 2


def test_gradients_are_cut():
    values = torch.randn(3, 2, requires_grad=True)
    assert not checked_activations({"a": values}, ("a",))["a"].requires_grad
