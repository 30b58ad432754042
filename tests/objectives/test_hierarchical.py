import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK, Objective, TopK


@pytest.fixture
def u():
    return torch.randn(20, 32)


def test_hierarchical_is_the_mean_over_levels_of_topk(u):
    sae = tiny.sae()
    single = {k: TopK()(sae, u, k).value.item() for k in range(1, 9)}
    assert HierarchicalTopK()(sae, u, 8).value.item() == pytest.approx(
        sum(single.values()) / 8
    )
    chosen = HierarchicalTopK(levels=[2, 8], weights=[3.0, 1.0])(sae, u, 8).value.item()
    assert chosen == pytest.approx((3 * single[2] + single[8]) / 4)


@pytest.mark.parametrize(
    "objective", [TopK(), HierarchicalTopK(), HierarchicalTopK(levels=(1, 8))], ids=str
)
def test_every_weight_learns_and_the_code_is_the_encoder_s(u, objective):
    assert isinstance(objective, Objective)
    sae = tiny.sae()
    loss = objective(sae, u, 8)
    loss.value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in sae.parameters())
    assert torch.equal(loss.code.values, sae.encode(u, 8).values)
    assert not loss.code.values.requires_grad


def test_the_bias_before_the_encoder_gets_its_gradient_too(u):
    """b_dec is used twice; its gradient is that of both uses, checked against autograd on dense algebra."""
    sae = tiny.sae()
    TopK()(sae, u, 5).value.backward()
    b_dec = sae.b_dec.detach().clone().requires_grad_()
    values, indices = ((u - b_dec) @ sae.W_enc.detach() + sae.b_enc.detach()).topk(5)
    dense = torch.zeros(20, 48).scatter(1, indices, values.relu())
    (dense @ sae.W_dec.detach() + b_dec - u).square().mean().backward()
    torch.testing.assert_close(sae.b_dec.grad, b_dec.grad)


def test_levels_fit_k():
    assert HierarchicalTopK().levels_at(3) == (1, 2, 3)
    assert HierarchicalTopK(levels=[1, 4]).levels_at(4) == (1, 4)
    assert TopK().levels_at(7) == (7,)
    for levels in ((1, 2), (4, 1), (0, 4), ()):
        with pytest.raises(
            sle.InvalidK, match="levels must rise from at least 1 to k=4"
        ):
            HierarchicalTopK(levels=levels).levels_at(4)
    with pytest.raises(sle.InvalidArgument, match="weights need one level each"):
        HierarchicalTopK(weights=[1.0])
    with pytest.raises(sle.InvalidArgument, match="weights need one level each"):
        HierarchicalTopK(levels=[1, 2], weights=[1.0])


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": 5}, "levels must be 'all' or whole numbers; got 5"),
        ({"levels": "every"}, "levels must be 'all' or whole numbers; got 'every'"),
        ({"levels": [1, 2.5]}, "levels must be 'all' or whole numbers"),
        (
            {"levels": [1, 2], "weights": 3},
            "weights must be numbers, one per level; got 3",
        ),
        (
            {"levels": [1, 2], "weights": "12"},
            "weights must be numbers, one per level; got '12'",
        ),
    ],
)
def test_levels_and_weights_of_the_wrong_kind_are_said(options, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        HierarchicalTopK(**options)
