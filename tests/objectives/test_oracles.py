"""Every objective has the loss and the gradients of its formula in dense algebra."""

import pytest
import torch

from objectives import cases, oracles
from sae_lens_ext.objectives import (
    AuxK,
    BatchTopK,
    HierarchicalTopK,
    Matryoshka,
    MultiTopK,
    ReLU,
    TopK,
)


def uniform(level):
    return 1


OBJECTIVES = {
    "topk": (TopK(), oracles.topk),
    "all levels": (HierarchicalTopK(), oracles.hierarchical(range(1, 9), uniform)),
    "stride": (HierarchicalTopK(stride=3), oracles.hierarchical([3, 6, 8], uniform)),
    "powers": (
        HierarchicalTopK(levels="powers_of_two"),
        oracles.hierarchical([1, 2, 4, 8], uniform),
    ),
    "ramp": (
        HierarchicalTopK(weights="ramp"),
        oracles.hierarchical(range(1, 9), oracles.FACTORS["ramp"]),
    ),
    "inverse": (
        HierarchicalTopK(weights="inverse", stride=2),
        oracles.hierarchical([2, 4, 6, 8], oracles.FACTORS["inverse"]),
    ),
    "listed": (
        HierarchicalTopK(levels=[3, 8], weights=[9.0, 64.0]),
        oracles.hierarchical([3, 8], lambda level: level**2),
    ),
    "multitopk": (MultiTopK(), oracles.multi_topk),
    "batchtopk": (BatchTopK(), oracles.batch_topk),
    "matryoshka": (
        Matryoshka(prefixes=(0.25, 0.5, 1.0)),
        oracles.matryoshka([12, 24, 48]),
    ),
    "relu": (ReLU(), oracles.relu),
}
FORMS = pytest.mark.parametrize("form", cases.FORMS)


@FORMS
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradients_are_those_of_dense_algebra(name, form):
    objective, oracle = OBJECTIVES[name]
    sae = cases.sae_for(objective.kind, form)
    u, target = cases.batch(form)
    loss = cases.assert_equals_oracle(objective, oracle, sae, u, target, 8)
    assert not loss.code.values.requires_grad


@FORMS
@pytest.mark.parametrize(
    ("name", "acts_of"),
    [
        ("all levels", oracles.top_of_token),
        ("multitopk", oracles.top_of_token),
        ("matryoshka", oracles.top_of_batch),
        ("relu", lambda pre, k: pre.relu()),
    ],
)
def test_auxk_adds_the_loss_of_dead_features_on_the_error(name, acts_of, form):
    objective, oracle = OBJECTIVES[name]
    sae = cases.sae_for(objective.kind, form)
    u, target = cases.batch(form)
    is_dead = torch.arange(48) % 3 == 1
    oracle = oracles.with_auxk(oracle, acts_of, is_dead, 7)
    auxk = AuxK(objective, k_aux=7)
    cases.assert_equals_oracle(auxk, oracle, sae, u, target, 8, is_dead=is_dead)


def test_a_wrong_formula_is_noticed():
    sae = cases.sae_for("topk", "skip")
    u, target = cases.batch("skip")

    def without_skip(sae, u, target, k):
        acts = oracles.top_of_token(oracles.pre_activations(sae, u), k)
        return (acts @ sae.W_dec + sae.b_dec - target).square().mean()

    with pytest.raises(AssertionError, match="loss"):
        cases.assert_equals_oracle(TopK(), without_skip, sae, u, target, 8)
