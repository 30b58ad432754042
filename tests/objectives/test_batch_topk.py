"""BatchTopK trains an SAE that is used by its threshold."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import BatchTopK


def test_at_inference_the_threshold_gives_k_features_on_average():
    sae = tiny.sae(kind="batchtopk", k=None)
    objective = BatchTopK()
    for _ in range(20):
        objective.after_step(sae, objective(sae, torch.randn(200, 32), 5).code)
    l0 = sae.encode(torch.randn(1000, 32)).l0().double()
    assert l0.mean().item() == pytest.approx(5, rel=0.05)
    assert l0.std() > 0.5


def test_the_code_is_what_the_loss_was_computed_from(u):
    sae = tiny.sae(kind="batchtopk", k=None)
    loss, code = BatchTopK()(sae, u, 5)
    assert (code.values > 0).sum() == 5 * len(u)
    expected = (sae.decode(code) - u).square().mean()
    torch.testing.assert_close(loss, expected)


def test_the_optimizer_leaves_the_threshold_alone(u):
    sae = tiny.sae(kind="batchtopk", k=None)
    BatchTopK()(sae, u, 5).value.backward()
    assert sae.threshold.grad is None


def test_the_state_is_the_number_of_updates(u):
    sae = tiny.sae(kind="batchtopk", k=None)
    objective = BatchTopK()
    objective.after_step(sae, objective(sae, u, 5).code)
    assert objective.state_dict() == {"n_updates": 1}
    with pytest.raises(sle.InvalidArgument, match="n_updates must be a non-negative"):
        objective.load_state_dict({"n_updates": -1})


def test_rejects_an_invalid_decay():
    with pytest.raises(sle.InvalidArgument, match="decay must be a number of at least"):
        BatchTopK(decay=1.0)
