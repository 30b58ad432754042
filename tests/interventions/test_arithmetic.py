"""The output of a splice is the formula of its error term, and so are its gradients."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


@pytest.mark.parametrize("error_term", [False, True, "reference"])
def test_the_output_is_the_formula(model, error_term):
    """decode(edited code), plus what the SAE leaves out at this k, or the trained k."""
    tokens = tiny.tokens()
    sae = tiny.sae(apply_b_dec_to_input=True)
    _, cache = model.run_with_cache(tokens, names_filter=SITE)
    x = cache[SITE]
    edited = sae.encode(x, 3).dense()
    edited[..., 5] += 2.0
    edited[..., 9] = 0.0
    expected = edited @ sae.W_dec + sae.b_dec
    if error_term:
        explained_k = 3 if error_term is True else sae.config.k
        expected = expected + x - sae(x, explained_k)

    outputs = {}
    edits = [sle.Steer(5, by=2.0), sle.Ablate(9)]
    with sle.splice(model, sae, k=3, error_term=error_term, edits=edits):
        hook = (SITE, lambda x, hook: outputs.update(x=x.clone()))
        model.run_with_hooks(tokens, fwd_hooks=[hook])
    torch.testing.assert_close(outputs["x"], expected, rtol=1e-4, atol=1e-5)


def test_one_encode_and_no_decode_serve_a_splice_with_its_error(model, monkeypatch):
    calls = []
    for name in ("encode", "decode"):
        monkeypatch.setattr(sle.SAE, name, _recorded(name, calls))
    with sle.splice(model, tiny.sae(), error_term=True, edits=[sle.Ablate(3)]):
        model(tiny.tokens())
    assert calls == ["encode"]


def _recorded(name, calls):
    original = getattr(sle.SAE, name)

    def method(self, *args, **options):
        calls.append(name)
        return original(self, *args, **options)

    return method


def test_the_sae_computes_in_its_own_dtype_under_autocast(model):
    tokens = tiny.tokens()
    sae = tiny.sae()
    outputs = {}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with sle.splice(model, sae, k=3) as spliced:
            hook = (SITE, lambda x, hook: outputs.update(x=x.clone()))
            model.run_with_hooks(tokens, fwd_hooks=[hook])
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
    assert spliced.codes[SITE].values.dtype == torch.float32
    expected = sae(cache[SITE].float(), 3)
    torch.testing.assert_close(outputs["x"], expected.to(outputs["x"].dtype))


@pytest.mark.parametrize("error_term", [False, True, "reference"])
def test_gradients_are_those_of_the_formula(model, error_term):
    """Those of dense algebra, at the site's input, the decoder and the encoder."""
    tokens = tiny.tokens()
    sae = tiny.sae()
    edits = [sle.Scale(range(24), by=2)]

    def formula(x):
        at_3 = _dense_acts(sae, x, 3)
        edited = at_3 * torch.where(torch.arange(48) < 24, 2.0, 1.0)
        output = edited @ sae.W_dec + sae.b_dec
        if not error_term:
            return output
        explained = _dense_acts(sae, x, 8) if error_term == "reference" else at_3
        return output + x - (explained @ sae.W_dec + sae.b_dec)

    def spliced_loss():
        with sle.splice(model, sae, k=3, error_term=error_term, edits=edits):
            return model(tokens).square().sum()

    def formula_loss():
        hook = (SITE, lambda x, hook: formula(x))
        return model.run_with_hooks(tokens, fwd_hooks=[hook]).square().sum()

    gradients = _gradients_at_the_site(model, sae, spliced_loss)
    expected_gradients = _gradients_at_the_site(model, sae, formula_loss)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=2e-4)


def _dense_acts(sae, x, k):
    """Activations of all features, zero outside of the k strongest."""
    mask = torch.zeros(*x.shape[:-1], 48).scatter(-1, sae.encode(x, k).indices, 1.0)
    return ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu() * mask


def _gradients_at_the_site(model, sae, loss):
    """Gradients at the activation before the splice, at ``W_dec`` and at ``W_enc``."""
    leaves = []

    def keep(x, hook):
        leaves.append(x.detach().requires_grad_())
        return leaves[-1]

    sae.zero_grad()
    with model.hooks(fwd_hooks=[(SITE, keep)]):
        loss().backward()
    model.zero_grad()
    return [leaves[-1].grad, sae.W_dec.grad.clone(), sae.W_enc.grad.clone()]
