"""Weights are shown by head, and heads add up to the output."""

import torch

from sae_lens_ext.based.mixers.heads import Heads


def test_projections_are_the_shown_weights():
    heads = Heads(d_model=12, heads=3, d_query=2, d_head=4)
    x = torch.randn(2, 5, 12)
    q, k, v = heads.project(x)
    torch.testing.assert_close(q, torch.einsum("btd,hde->bthe", x, heads.W_Q))
    torch.testing.assert_close(k, torch.einsum("btd,hde->bthe", x, heads.W_K))
    torch.testing.assert_close(v, torch.einsum("btd,hde->bthe", x, heads.W_V))


def test_results_of_heads_add_up_to_the_output():
    heads = Heads(d_model=12, heads=3, d_query=2, d_head=4)
    z = torch.randn(2, 5, 3, 4)
    output = heads.to_stream(z)
    results = []
    heads.hook_result.register_forward_hook(lambda _, __, out: results.append(out))
    torch.testing.assert_close(heads.to_stream(z), output)
    assert results[0].shape == (2, 5, 3, 12)
    torch.testing.assert_close(results[0], torch.einsum("bthe,hed->bthd", z, heads.W_O))
