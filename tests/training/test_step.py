"""A step changes the weights once and keeps decoder rows at unit norm."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK, Stateless, TopK
from sae_lens_ext.training import train_step
from sae_lens_ext.training.step import _remove_parallel_gradient, _scale_decoder


def new_sae():
    return sle.SAE(
        sle.SAEConfig(d_model=8, d_sae=32, k=4),
        generator=torch.Generator().manual_seed(0),
    )


def test_decoder_gradient_has_no_part_along_the_rows():
    sae = tiny.sae()
    _scale_decoder(sae, None)
    sae.W_dec.grad = torch.randn(48, 32)
    along = (sae.W_dec.grad * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
    across = sae.W_dec.grad - along

    _remove_parallel_gradient(sae, None)

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


class Recording(Stateless):
    """An objective that keeps what it was given."""

    kind = "topk"

    def levels_at(self, k):
        return (k,)

    def __call__(self, sae, u, k, *, target=None, is_dead=None):
        self.target = target
        self.is_dead = is_dead
        self.code_before = TopK()(sae, u, k, target=target)
        return self.code_before

    def after_step(self, sae, code):
        self.norms = sae.W_dec.norm(dim=1)
        self.code = code


def test_the_objective_gets_everything_and_has_the_last_word():
    sae = new_sae()
    objective = Recording()
    target = torch.randn(16, 8)
    is_dead = torch.zeros(32, dtype=torch.bool)
    optimizer = torch.optim.SGD(sae.parameters(), lr=1.0)

    loss = train_step(
        sae,
        optimizer,
        objective,
        torch.randn(16, 8),
        4,
        target=target,
        is_dead=is_dead,
    )

    assert objective.target is target
    assert objective.is_dead is is_dead
    assert objective.code is loss.code
    torch.testing.assert_close(objective.norms.detach(), torch.ones(32))


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_clipping_shortens_long_gradients_alone(clip):
    u = torch.randn(64, 8)
    changes = []
    for limit in (None, clip):
        sae = new_sae()
        before = torch.cat([sae.b_enc, sae.b_dec]).detach().clone()
        optimizer = torch.optim.SGD(sae.parameters(), lr=1.0)
        train_step(sae, optimizer, HierarchicalTopK(), u, 4, clip=limit)
        changes.append(torch.cat([sae.b_enc, sae.b_dec]).detach() - before)

    free, clipped = changes
    ratio = clipped.norm() / free.norm()
    assert clipped.norm() <= clip
    if_short = torch.equal(free, clipped)
    assert if_short == (clip == 1e3)
    torch.testing.assert_close(clipped, free * ratio)


def test_products_in_bfloat16_leave_weights_and_loss_in_float32():
    u = torch.randn(64, 8)
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        sae = new_sae()
        optimizer = torch.optim.SGD(sae.parameters(), lr=0.1)
        loss, code = train_step(sae, optimizer, HierarchicalTopK(), u, 4, dtype=dtype)
        assert {weight.dtype for weight in sae.parameters()} == {torch.float32}
        assert (loss.dtype, code.values.dtype) == (torch.float32, torch.float32)
        losses[dtype] = loss.item()
    assert losses[torch.bfloat16] != losses[torch.float32]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)
