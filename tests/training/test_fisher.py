"""Errors measured by the Fisher information of the model's predictions."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.training import fisher_metric

SITE = "blocks.1.hook_resid_post"


def exact_fisher(model, tokens):
    """The mean of g g^T over positions after the first, by all possible next tokens."""
    host = tiny.bridge("gpt2") if model is None else model
    found = {}

    def keep(x, hook):
        found["leaf"] = x.detach().requires_grad_()
        return found["leaf"]

    logits = host.run_with_hooks(tokens, fwd_hooks=[(SITE, keep)])
    log_p = logits[0].log_softmax(-1)
    p = log_p.detach().exp()
    d_model = found["leaf"].shape[-1]
    total = torch.zeros(tokens.shape[1], d_model, d_model, dtype=torch.float64)
    for position in range(tokens.shape[1]):
        for word in range(log_p.shape[-1]):
            (gradient,) = torch.autograd.grad(
                log_p[position, word], found["leaf"], retain_graph=True
            )
            g = gradient[0].double()
            total += p[position, word].double() * g[:, :, None] * g[:, None, :]
    return total[1:].mean(0)


def test_the_matrix_is_the_fisher_information_of_the_models_predictions(gpt2):
    row = torch.tensor([[2, 40, 9, 77]])
    expected = exact_fisher(gpt2, row)
    rows = row.repeat(12_000, 1)
    metric = fisher_metric(
        gpt2, rows, SITE, share=0.999, batch_size=3000, progress=False
    )
    # The rest of the matrix is a multiple of the identity and of the scale.
    scale = (metric.matrix * expected).sum() / expected.square().sum()
    error = (metric.matrix - scale * expected).norm() / (scale * expected).norm()
    assert error < 0.04


def test_activations_have_the_same_variance_by_the_metric_as_without_it(gpt2):
    tokens = tiny.tokens(rows=12, length=16)
    metric = fisher_metric(gpt2, tokens, SITE, progress=False)
    x = sle.training.collect_activations(gpt2, tokens, SITE, progress=False)
    x = x.outliers_clipped().values.double()
    y = metric.apply(x)
    assert torch.allclose(y.var(0).sum(), x.var(0).sum(), rtol=1e-4)
    assert torch.allclose(y.mean(0), torch.zeros(32).double(), atol=1e-4)
    assert metric.about == "Fisher information with a share of 0.5, from 180 tokens"


def test_padding_changes_nothing(gpt2):
    ids = tiny.tokens(rows=2, length=8)
    padded = torch.cat([torch.zeros(2, 3, dtype=ids.dtype), ids], dim=1)
    mask = torch.cat([torch.zeros(2, 3), torch.ones(2, 8)], dim=1).long()
    batch = {"input_ids": padded, "attention_mask": mask}
    plain = fisher_metric(gpt2, ids, SITE, progress=False)
    with_padding = fisher_metric(gpt2, batch, SITE, progress=False)
    assert torch.allclose(plain.matrix, with_padding.matrix, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was_and_its_weights_get_no_gradient(gpt2):
    tokens = tiny.tokens(rows=2, length=8)
    before = gpt2(tokens)
    with torch.inference_mode():
        fisher_metric(gpt2, tokens, SITE, progress=False)
    assert torch.equal(gpt2(tokens), before)
    assert all(parameter.grad is None for parameter in gpt2.parameters())


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan"), "half"])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_a_share_outside_of_0_to_1(gpt2, share):
    with pytest.raises(sle.InvalidArgument, match="share must be"):
        fisher_metric(gpt2, tiny.tokens(), SITE, share=share)


def test_rejects_rows_of_special_tokens_alone(gpt2):
    with pytest.raises(sle.InvalidArgument, match="no token of these counts"):
        fisher_metric(gpt2, torch.full((2, 3), 2), SITE, progress=False)
