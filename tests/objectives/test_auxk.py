"""AuxK adds a loss for dead features to any objective, and nothing else."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import AuxK, HierarchicalTopK, JumpReLU, TopK


def dead(*features):
    is_dead = torch.zeros(48, dtype=torch.bool)
    is_dead[list(features)] = True
    return is_dead


@pytest.mark.parametrize("is_dead", [None, dead()])
def test_without_dead_features_it_is_the_objective(u, is_dead):
    sae = tiny.sae()
    loss = AuxK(TopK())(sae, u, 8, is_dead=is_dead)
    assert torch.equal(loss.value, TopK()(sae, u, 8).value)


def test_dead_features_learn_and_the_others_learn_as_before(u):
    sae = tiny.sae()
    # Never among the strongest, so nothing but AuxK reaches them.
    with torch.no_grad():
        sae.b_enc[[3, 30]] -= 20
        sae.W_enc[:, [3, 30]] *= 30
    code = TopK()(sae, u, 2).code
    is_dead = torch.ones(48, dtype=torch.bool)
    is_dead[code.indices] = False
    assert is_dead.any()

    TopK()(sae, u, 2).value.backward()
    plain = {name: weight.grad.clone() for name, weight in sae.named_parameters()}
    sae.zero_grad()
    AuxK(TopK())(sae, u, 2, is_dead=is_dead).value.backward()
    for name in ("W_dec", "b_enc"):
        grad = sae.get_parameter(name).grad
        torch.testing.assert_close(grad[~is_dead], plain[name][~is_dead])
        assert not plain[name][is_dead].any()
        assert grad[is_dead].any()


@pytest.mark.parametrize(
    ("d_model", "k_aux"), [(2304, 1024), (640, 256), (768, 512), (4, 2), (1, 1)]
)
def test_the_default_is_the_power_of_two_closest_to_half_of_d_model(d_model, k_aux):
    sae = tiny.sae(d_model=d_model, d_sae=4, k=2)
    assert AuxK().k_aux_of(sae) == k_aux
    assert AuxK(k_aux=3).k_aux_of(sae) == 3


def test_no_more_features_are_used_than_are_dead(u):
    sae = tiny.sae()
    losses = {
        k_aux: AuxK(TopK(), k_aux=k_aux)(sae, u, 8, is_dead=dead(1, 5, 9)).value
        for k_aux in (1, 3, 16)
    }
    assert torch.equal(losses[3], losses[16])
    assert not torch.equal(losses[1], losses[3])


def test_the_rest_is_that_of_the_objective(u):
    auxk = AuxK(HierarchicalTopK(levels=[2, 8], weights="relative"))
    assert auxk.levels_at(8) == (2, 8)
    assert AuxK(JumpReLU()).kind == "jumprelu"
    sae = tiny.sae()
    auxk.after_step(sae, auxk(sae, u, 8).code)
    state = auxk.state_dict()
    assert state.keys() == {"level_errors"}
    other = AuxK(HierarchicalTopK(levels=[2, 8], weights="relative"))
    other.load_state_dict(state)
    assert other.objective.weights_at(8) == auxk.objective.weights_at(8)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "topk"}, "objective must be an objective such as TopK"),
        ({"objective": TopK}, "objective must be an objective such as TopK"),
        ({"objective": AuxK()}, "other than AuxK; got an object of type AuxK"),
        ({"k_aux": 0}, "k_aux must be a positive integer; got 0"),
        ({"coefficient": -1}, "coefficient must be a non-negative number; got -1"),
    ],
)
def test_rejects_invalid_options(options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        AuxK(**options)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_a_mask_of_other_features(u):
    with pytest.raises(sle.ShapeMismatch, match=r"must be \[d_sae=48\]; got \[47\]"):
        AuxK()(tiny.sae(), u, 8, is_dead=dead()[:47])
