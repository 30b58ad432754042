"""The site of the embeddings, on every host."""

import pytest
import tiny
import torch
from torch import nn

import sae_lens_ext as sle
from sae_lens_ext.hosts import as_batch, capture, embedding_site, host_for


@pytest.mark.parametrize("host", tiny.HOSTS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_it_is_what_the_embedding_returns(host, name):
    model = host_for(tiny.hosted(host, name)).plain()
    site = embedding_site(model)
    tokens = tiny.tokens(1, 4)
    with torch.no_grad():
        activations = capture(model, as_batch(tokens), [site])[site]
        expected = tiny.hf_model(name).get_input_embeddings()(tokens)
    assert torch.equal(activations, expected)


def test_based_has_one():
    host = host_for(tiny.based())
    assert host.width(embedding_site(host)) in (None, 24)


def test_a_module_without_one_raises():
    with pytest.raises(sle.UnsupportedHost, match="which module of a Linear embeds"):
        embedding_site(host_for(nn.Linear(2, 2)))
