"""What a metric must return, and which logits it gets."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits import effects, logit_difference
from sae_lens_ext.circuits.measurement import Measurement
from sae_lens_ext.circuits.prompts import Prompts
from sae_lens_ext.hosts import host_for


@pytest.fixture(scope="module")
def host():
    return host_for(tiny.hosted("transformers_model", "gpt2")).plain()


def measured(host, metric, tokens):
    prompts = Prompts.of(host, tokens, None)
    measurement = Measurement(host, metric, prompts)
    with torch.no_grad():
        logits = measurement.logits(prompts.clean)
        return logits, measurement.values(logits)


def test_logits_are_computed_only_where_the_metric_reads_them(host):
    texts = ["w1 w2 w3", "w4", "w5"]
    logits, values = measured(host, logit_difference(7, 9), texts)
    # The last positions are 3, 1 and 1.
    assert logits.shape == (3, 2, len(tiny.WORDS))

    def last(z):
        z = torch.stack([z[0, 3], z[1, 1], z[2, 1]])
        return z[:, 7] - z[:, 9]

    whole, expected = measured(host, last, texts)
    assert whole.shape == (3, 4, len(tiny.WORDS))
    assert torch.allclose(values, expected)


def test_a_position_counts_from_either_end(host):
    tokens = tiny.tokens(2, 5)
    first = measured(host, logit_difference(7, 9, position=1), tokens)[1]
    same = measured(host, logit_difference(7, 9, position=-4), tokens)[1]
    function = measured(host, lambda z: z[:, 1, 7] - z[:, 1, 9], tokens)[1]
    assert torch.equal(first, same)
    assert torch.allclose(first, function)


def test_rejects_a_position_outside_of_a_text(host):
    with pytest.raises(sle.InvalidArgument, match=r"position=3 .* row 1, which has 2"):
        measured(host, logit_difference(7, 9, position=3), ["w1 w2 w3", "w4"])


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (lambda z: z[:, -1], sle.ShapeMismatch, r"one per row, \[2\]; it returned"),
        (lambda z: z.mean().item(), sle.InvalidArgument, "it returned float"),
        (lambda z: z.argmax(), sle.InvalidArgument, "it returned torch.int64"),
        (lambda z: z.sum() * float("nan"), sle.NonFinite, "metric is nan"),
        (lambda z: z.detach().mean(), sle.InvalidArgument, "has no gradient"),
        (lambda z: z[:, 0, 0] * 0 + 1 / (z - z).sum(), sle.NonFinite, "metric is"),
        (lambda z: (z - z).sum().sqrt(), sle.NonFinite, "the gradient of the metric"),
        ("logit", sle.InvalidArgument, "metric must be a metric such as"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_metrics_that_are_not_numbers_with_a_gradient(
    host, metric, error, message
):
    with pytest.raises(error, match=message):
        effects(host.model, tiny.sae(), tiny.tokens(2, 5), metric=metric)
