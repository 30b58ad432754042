"""Activations are encoded once, and outliers among them are counted."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.interventions.sweep.activations import SiteActivations


@pytest.fixture
def tokens():
    """Five rows of random words behind a BOS."""
    return tiny.tokens(rows=5, length=12)


def test_one_encode_serves_every_k(gemma2, tokens, sae, monkeypatch):
    n_calls = 0
    encode = sae.encode

    def counted(*args, **options):
        nonlocal n_calls
        n_calls += 1
        return encode(*args, **options)

    monkeypatch.setattr(sae, "encode", counted)
    sle.sweep_k(gemma2, tokens, sae, ks=[1, 2, 4, 8], progress=False)
    assert n_calls == 1


def test_fidelity_is_over_the_spliced_tokens(sae):
    x = torch.randn(2, 6, 32)
    mask = torch.arange(6).expand(2, 6) > 1
    site = SiteActivations(sae, x, mask, ks=[8], extrapolate=False)
    inside = x[mask]
    code = sae.encode(inside, 3)
    variance = (inside - inside.mean(0)).square().sum()
    expected = (inside - sae.decode(code)).square().sum() / variance
    fidelity = site.fidelity(3)
    assert site.n_spliced == 8
    assert fidelity.l0 == pytest.approx(code.l0().double().mean().item())
    assert fidelity.fvu == pytest.approx(expected.item(), rel=1e-4)


def test_outliers_are_counted_and_reported_apart(gemma2, tokens):
    sae = tiny.sae(hook_name="blocks.0.hook_resid_pre")
    tokens = torch.where(tokens == 7, 8, tokens)
    tokens[0, 3] = 7
    tokens[4, 9] = 7

    def enlarge_word_7(module, args, out):
        return out * torch.where(args[0] == 7, 50.0, 1.0)[..., None]

    handle = gemma2.embed.register_forward_hook(enlarge_word_7)
    frame = sle.sweep_k(gemma2, tokens, sae, ks=[8], progress=False)
    handle.remove()
    assert frame.attrs["n_outliers"] == 2
    without_outliers = frame.attrs["fvu_without_outliers"][8]
    assert without_outliers != pytest.approx(frame["fvu"][0], rel=0.1)
