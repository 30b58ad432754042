"""A step changes the weights once and keeps decoder rows at unit norm."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK, TopK
from sae_lens_ext.training import train_step
from sae_lens_ext.training.step import _remove_parallel_gradient, _unit_norm_decoder


def new_sae():
    return sle.SAE(
        sle.SAEConfig(d_model=8, d_sae=32, k=4),
        generator=torch.Generator().manual_seed(0),
    )


def test_decoder_gradient_has_no_part_along_the_rows():
    sae = tiny.sae()
    _unit_norm_decoder(sae)
    sae.W_dec.grad = torch.randn(48, 32)
    along = (sae.W_dec.grad * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
    across = sae.W_dec.grad - along

    _remove_parallel_gradient(sae)

    torch.testing.assert_close(sae.W_dec.grad, across.detach())
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-5


def test_starts_without_gradients_and_leaves_none():
    u = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    biases = []
    for has_gradients in (False, True):
        sae = new_sae()
        if has_gradients:
            sae(u).sum().backward()
        optimizer = torch.optim.SGD(sae.parameters(), lr=1.0)
        train_step(sae, optimizer, HierarchicalTopK(), u, 4)
        assert all(parameter.grad is None for parameter in sae.parameters())
        biases.append(sae.b_dec.detach().clone())
    assert torch.equal(*biases)


def test_trains_the_rest_where_the_decoder_is_frozen():
    sae = new_sae()
    before = {
        name: parameter.detach().clone() for name, parameter in sae.named_parameters()
    }
    sae.W_dec.requires_grad_(False)
    trained = [parameter for parameter in sae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)

    train_step(sae, optimizer, TopK(), torch.randn(64, 8), 4)

    assert not torch.equal(sae.W_enc, before["W_enc"])
    torch.testing.assert_close(sae.W_dec, before["W_dec"])


@pytest.mark.parametrize(
    "objective", [TopK(), HierarchicalTopK()], ids=["topk", "hierarchical"]
)
def test_rejects_a_batch_without_tokens(objective):
    sae = sle.SAE(sle.SAEConfig(d_model=8, d_sae=32, k=4))
    optimizer = torch.optim.SGD(sae.parameters(), lr=1.0)
    with pytest.raises(
        sle.ShapeMismatch, match=r"the loss needs at least one token; got \w+ \[0, "
    ):
        train_step(sae, optimizer, objective, torch.ones(0, 8), 4)
