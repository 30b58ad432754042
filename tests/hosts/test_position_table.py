"""Only tables of positions bound the length of rows."""

import pytest
import tiny
from torch import nn
from transformers import OPTConfig, OPTModel

from sae_lens_ext.hosts.position_table import position_limit


@pytest.mark.parametrize("host", ["torch", "lens", "nnsight"])
def test_finds_the_table_on_every_host(host):
    assert position_limit(tiny.hosted(host, "gpt2")) == 64
    assert position_limit(tiny.hosted(host, "gemma2")) is None


def test_rows_that_a_table_leaves_unused_do_not_count():
    config = OPTConfig(
        vocab_size=9,
        hidden_size=8,
        word_embed_proj_dim=8,
        ffn_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
    )
    model = OPTModel(config)
    assert model.decoder.embed_positions.num_embeddings == 22
    assert position_limit(model) == 20


def test_embeddings_of_other_names_do_not_count():
    assert position_limit(nn.ModuleDict({"words": nn.Embedding(3, 2)})) is None
