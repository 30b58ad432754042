"""Correlations of features are those of their dense activations."""

import numpy as np
import pytest
import tiny
import torch
from small_training import SITE, SITE_OUT, values

import sae_lens_ext as sle
from sae_lens_ext.training import Activations, TensorStream, feature_agreement

X = values(300)


def random_sae(seed, kind="topk", **options):
    config = sle.SAEConfig(
        d_model=12, d_sae=40, kind=kind, k=5 if kind == "topk" else None, **options
    )
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        sae.b_dec[1] += 30
        sae.b_enc += 0.1
    return sae


def relative(first, seed):
    """An SAE whose features resemble those of another one."""
    sae = random_sae(seed)
    with torch.no_grad():
        sae.W_enc.mul_(0.3).add_(first.W_enc)
    return sae


def dense_correlation(first, second, x, k=None):
    """numpy's, feature by feature; NaN where one of the two is constant."""
    columns = [
        sae.encode(x, k).dense().detach().double().numpy().T for sae in (first, second)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = [np.corrcoef(*pair)[0, 1] for pair in zip(*columns, strict=True)]
    return torch.tensor(np.array(pairs))


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("tokens", [X, X[:2], X[:37]], ids=len)
def test_correlations_are_those_of_dense_activations(tokens, k):
    first = random_sae(0)
    second = relative(first, 1)
    agreement = feature_agreement(first, second, tokens, k=k)
    expected = dense_correlation(first, second, tokens, k)
    torch.testing.assert_close(
        agreement.correlation, expected, rtol=1e-9, atol=1e-9, equal_nan=True
    )
    is_active = [sae.encode(tokens, k).dense() > 0 for sae in (first, second)]
    counts = torch.stack([active.sum(0) for active in is_active])
    assert torch.equal(agreement.active_tokens, counts)
    assert agreement.n_tokens == len(tokens)


def test_pieces_of_the_tokens_add_up(monkeypatch):
    first = random_sae(0)
    second = random_sae(1, "jumprelu")
    whole = feature_agreement(first, second, X)
    monkeypatch.setattr("sae_lens_ext.training.agreement._TOKENS_AT_ONCE", 7)
    pieces = feature_agreement(first, second, X)
    assert torch.equal(pieces.active_tokens, whole.active_tokens)
    torch.testing.assert_close(
        pieces.correlation, whole.correlation, equal_nan=True, rtol=1e-9, atol=1e-9
    )


def test_an_sae_agrees_with_itself_in_other_units():
    first = random_sae(0)
    second = first.unfolded(torch.full((12,), 2.0), torch.tensor(0.25))
    agreement = feature_agreement(first, second, X)
    assert agreement.live.sum() > 20
    assert agreement.share_above(0.9999) == 1


def test_features_that_the_second_never_uses_are_below_any_bound():
    first = random_sae(0)
    second = random_sae(0)
    gone = first.encode(X).indices.flatten().mode().values
    with torch.no_grad():
        second.b_enc[gone] = -1e6
    agreement = feature_agreement(first, second, X)
    assert agreement.live[gone]
    assert agreement.correlation[gone].isnan()
    expected = (agreement.correlation[agreement.live] > -1).double().mean().item()
    assert agreement.share_above(-1.0) == expected < 1


def test_activations_come_in_any_form():
    first = random_sae(0, hook_name=SITE)
    second = relative(first, 1)
    expected = feature_agreement(first, second, X)
    stream = TensorStream({SITE_OUT: X.flip(1), SITE: X}, shrink=False)
    for form in (Activations(X, SITE), stream):
        agreement = feature_agreement(first, second, form)
        # A stream has an order of its own, which sums do not depend on.
        assert torch.equal(agreement.active_tokens, expected.active_tokens)
        torch.testing.assert_close(
            agreement.correlation, expected.correlation, equal_nan=True
        )


@pytest.mark.parametrize("form", [X, TensorStream({SITE: X})], ids=["tensor", "stream"])
def test_no_more_tokens_are_read_than_asked_for(form):
    agreement = feature_agreement(random_sae(0), random_sae(1), form, n_tokens=50)
    assert agreement.n_tokens == 50


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_what_cannot_be_compared():
    first = random_sae(0)
    with pytest.raises(sle.InvalidArgument, match="the same d_model; got 12 and 32"):
        feature_agreement(first, tiny.sae(), X)
    with pytest.raises(sle.InvalidArgument, match="compares two SAEs; got .* type str"):
        feature_agreement(first, "folder", X)
    with pytest.raises(sle.InvalidArgument, match="there are no activations"):
        feature_agreement(first, first, X[:0])
    with pytest.raises(sle.InvalidArgument, match="needs activations .token, d_model"):
        feature_agreement(first, first, X[0])
    stream = TensorStream({SITE: X, SITE_OUT: X})
    with pytest.raises(sle.InvalidArgument, match="has no activations of hook_name=No"):
        feature_agreement(first, first, stream)
